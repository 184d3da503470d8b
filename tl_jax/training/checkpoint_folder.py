"""The folder of a run's checkpoints: which steps are whole, their checksums, and their removal.

A step is a folder named by its number, which appears by renaming once all of it is written, and is
renamed before it is deleted. A kill therefore leaves whole steps, and folders of other names that
no reader looks at. Earlier versions deleted a step in place, so a part of one may be found too.
A step within an epoch is named `STEP.within-epoch`, so that the one at its end never replaces it
before it is whole itself.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tl_jax import files

# Hashes of a step's files. Earlier versions wrote none, and neither epoch nor history.
_CHECKSUMS = "checksums.json"
_MANIFEST = "manifest.json"
_RECORD = "metrics/metrics"
_NEEDED = (
    "_CHECKPOINT_METADATA",
    _RECORD,
    "variables/_METADATA",
    "variables/manifest.ocdbt",
    "optimizer/_METADATA",  # No arrays: an optimizer may have none.
)
_DELETED, _DAMAGED, _UNFINISHED = ".deleted", ".damaged", ".orbax-checkpoint-tmp"
_WITHIN = ".within-epoch"


@dataclasses.dataclass(frozen=True)
class Within:
    """Where in an epoch a step was saved.

    Attributes:
      steps: steps done of the epoch.
      interval: the metrics of each of the last of these steps that no record of training holds yet,
        by name; NaN where one was not finite.
    """

    steps: int
    interval: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a whole step says of itself.

    Attributes:
      metrics: by name; those that were not finite are left out.
      epoch: epochs done when it was written; None if an earlier version wrote it.
      history: the metrics after each of these epochs, the first epoch's first; may be shorter if
        an earlier version began the run.
      within: where in the next epoch it was written; None: at the end of an epoch, evaluated.
      skipped_steps: steps of the run so far that changed nothing, as they were not finite.
    """

    metrics: Mapping[str, float]
    epoch: int | None = None
    history: tuple[Mapping[str, float], ...] = ()
    within: Within | None = None
    skipped_steps: int = 0

    def epochs_done(self, step: int, steps_per_epoch: int) -> int:
        """Returns the number of epochs done at the step; earlier versions did not record it."""
        return step // steps_per_epoch if self.epoch is None else self.epoch


def path_of(directory: Path, step: int, saved: Saved) -> Path:
    """Returns the folder of a step."""
    return directory / (str(step) if saved.within is None else f"{step}{_WITHIN}")


def whole_steps(directory: Path) -> dict[int, Saved]:
    """Returns the steps of a folder that are complete, in order; does not read their arrays.

    Of the two at the end of an epoch, one without and one with an evaluation, it is the latter.
    """
    found: dict[int, Saved] = {}
    for step, folder in _numbered(directory):
        saved = _record_of(folder)
        if saved is None or folder != path_of(directory, step, saved) or _missing(folder):
            continue
        if step not in found or saved.within is None:
            found[step] = saved
    return found


def newest(directory: Path) -> tuple[int, Saved] | None:
    """Returns the newest whole step and what it says of itself, or None; only reads."""
    steps = whole_steps(directory)
    return max(steps.items(), key=lambda item: item[0]) if steps else None


def record(saved: Saved) -> dict[str, Any]:
    """Returns what a step says of itself as JSON values, which `whole_steps` reads."""
    history = [_finite(metrics) for metrics in saved.history]
    fields: dict[str, Any] = {"epoch": saved.epoch, "history": history}
    if saved.within is not None:
        values = {
            name: [value if math.isfinite(value) else None for value in of_steps]
            for name, of_steps in saved.within.interval.items()
        }
        fields["within"] = {"steps": saved.within.steps, "interval": values}
    if saved.skipped_steps:
        fields["skipped_steps"] = saved.skipped_steps
    return fields | _finite(saved.metrics)


def parse(fields: dict[str, Any]) -> Saved:
    """Returns what `record` described.

    Raises:
      ValueError: if it is no such record.
    """
    fields = dict(fields)
    epoch, history = fields.pop("epoch", None), fields.pop("history", [])
    within, skipped = fields.pop("within", None), fields.pop("skipped_steps", 0)
    if not (isinstance(epoch, int | None) and isinstance(history, list)):
        raise ValueError(f"got a record of a checkpoint with epoch={epoch!r}, history={history!r}")
    if within is not None:
        interval = {
            name: tuple(math.nan if value is None else value for value in of_steps)
            for name, of_steps in within["interval"].items()
        }
        within = Within(within["steps"], interval)
    past = tuple(_finite(metrics) for metrics in history)
    return Saved(_finite(fields), epoch, past, within, skipped)


def clear(directory: Path) -> list[str]:
    """Removes what a kill left, and sets steps aside that are complete and cannot be read.

    Returns:
      A sentence about each step that was set aside.
    """
    if not directory.is_dir():
        return []
    for path in directory.iterdir():
        if path.is_dir() and (_UNFINISHED in path.name or path.suffix == _DELETED):
            shutil.rmtree(path)
    notes, whole = [], whole_steps(directory)
    for step, folder in _numbered(directory):
        if step in whole and folder == path_of(directory, step, whole[step]):
            continue
        if _missing(folder) or (step in whole and folder.name.endswith(_WITHIN)):
            remove(folder)
        else:
            notes.append(set_aside(folder, "its record is not what was written"))
    return notes


def remove(folder: Path) -> None:
    """Deletes a step: it is renamed first, so that nobody takes a part of it for a step."""
    deleted = folder.with_name(folder.name + _DELETED)
    if deleted.exists():
        shutil.rmtree(deleted)
    folder.rename(deleted)
    shutil.rmtree(deleted)


def set_aside(folder: Path, damage: str) -> str:
    """Renames a damaged step, so that its number is free again; returns a sentence about it."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}{_DAMAGED}{number}")).exists():
        number += 1
    folder.rename(aside)
    return f"the checkpoint {folder} is damaged ({damage}); it was renamed to {aside.name}"


def seal(final: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest and the hashes of a step's files into it, before it gets its name.

    Args:
      final: the folder that the step becomes; it still has a temporary name.
      manifest: what the step holds and how it came about, as JSON values.
    """
    (folder,) = final.parent.glob(f"{final.name}{_UNFINISHED}*")
    text = files.json_text(manifest, indent=1) + "\n"
    (folder / _MANIFEST).write_text(text, encoding="utf-8")
    hashes = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in [*sorted(folder.glob("*/**/*")), folder / _MANIFEST]
        if path.is_file() and path.name != "commit_success.txt"
    }
    (folder / _CHECKSUMS).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path, items: tuple[str, ...]) -> str | None:
    """Compares the files of some items of a step with its checksums, if it has any.

    Returns:
      What is damaged, or None.
    """
    if (foreign := _foreign(folder)) is not None:
        return (
            f"{foreign} is a link that leads out of the run, or no file; if you made the link, "
            "copy the run with the files in the place of links: cp -rL"
        )
    if not (folder / _CHECKSUMS).exists():
        return None if folder.is_dir() else "it is gone"
    hashes = _read_json(folder / _CHECKSUMS)
    if not isinstance(hashes, dict):
        return f"{_CHECKSUMS} cannot be read"
    for name, expected in hashes.items():
        if not _is_inside(name):
            return f"{_CHECKSUMS} names {name!r}, which is not in it"
        if name.split("/")[0] not in (*items, _MANIFEST):
            continue
        try:
            same = files.sha256(folder / name) == expected
        except OSError as error:
            return f"{name}: {error.strerror}"
        if not same:
            return f"{name} is not what was written"
    return None


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """Returns the folders that are named as steps, in order."""
    if not directory.is_dir():
        return []
    names = {path: path.name.removesuffix(_WITHIN) for path in directory.iterdir()}
    return sorted(
        (int(name), path)
        for path, name in names.items()
        if name.isascii() and name.isdigit() and str(int(name)) == name
        if path.is_dir()
    )


def _missing(folder: Path) -> list[str]:
    """Returns files that a step should have and has not, or has without content."""
    hashes, fields = _read_json(folder / _CHECKSUMS), _read_json(folder / _RECORD)
    names = [name for name in hashes if _is_inside(name)] if isinstance(hashes, dict) else []
    if isinstance(fields, dict) and "history" in fields:
        names.append(_CHECKSUMS)
    missing = [name for name in names if not (folder / name).is_file()]
    empty = [name for name in _NEEDED if not _has_content(folder / name)]
    return missing + empty


def _is_inside(name: str) -> bool:
    """Returns whether a name in the list of checksums is of a file in the step's folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _foreign(folder: Path) -> Path | None:
    """Returns what a step has that it must not: a link out of the folder of all steps, a pipe."""
    root = folder.parent.resolve()
    for path in [folder, *sorted(folder.rglob("*"))] if folder.exists() else []:
        leads_out = path.is_symlink() and not path.resolve().is_relative_to(root)
        if leads_out or not (path.is_file() or path.is_dir()):
            return path
    return None


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _record_of(folder: Path) -> Saved | None:
    """Returns the record of a step, or None if it cannot be read."""
    fields, hashes = _read_json(folder / _RECORD), _read_json(folder / _CHECKSUMS)
    if not isinstance(fields, dict):
        return None
    if isinstance(hashes, dict) and files.sha256(folder / _RECORD) != hashes.get(_RECORD):
        return None
    try:
        return parse(fields)
    except ValueError:
        return None


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Leaves out what is no finite number; earlier versions wrote NaN."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _read_json(path: Path) -> Any:
    """Returns the content of a file, or None if it cannot be read."""
    if not path.is_file():  # A pipe would block.
        return None
    try:
        return files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""The folder of a run's checkpoints: which steps are whole, their checksums, and their removal.

A step is a folder named by its number, which appears by renaming once all of it is written, and is
renamed before it is deleted. A kill therefore leaves whole steps, and folders of other names that
no reader looks at. Earlier versions deleted a step in place, so a part of one may be found too.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_jax import files

# Hashes of a step's files. Earlier versions wrote none, and neither epoch nor history.
_CHECKSUMS = "checksums.json"
_RECORD = "metrics/metrics"
_NEEDED = (
    "_CHECKPOINT_METADATA",
    _RECORD,
    "variables/_METADATA",
    "variables/manifest.ocdbt",
    "optimizer/_METADATA",  # No arrays: an optimizer may have none.
)
_DELETED, _DAMAGED, _UNFINISHED = ".deleted", ".damaged", ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a whole step says of itself.

    Attributes:
      metrics: by name; those that were not finite are left out.
      epoch: epochs done when it was written; None if an earlier version wrote it.
      history: the metrics after each of these epochs, the first epoch's first; may be shorter if
        an earlier version began the run.
    """

    metrics: Mapping[str, float]
    epoch: int | None = None
    history: tuple[Mapping[str, float], ...] = ()

    def epochs_done(self, step: int, steps_per_epoch: int) -> int:
        """Returns the number of epochs done at the step; earlier versions did not record it."""
        return step // steps_per_epoch if self.epoch is None else self.epoch


def whole_steps(directory: Path) -> dict[int, Saved]:
    """Returns the steps of a folder that are complete, in order; does not read their arrays."""
    found = {}
    for step, folder in _numbered(directory).items():
        saved = _record_of(folder)
        if saved is not None and not _missing(folder):
            found[step] = saved
    return found


def newest(directory: Path) -> tuple[int, Saved] | None:
    """Returns the newest whole step and what it says of itself, or None; only reads."""
    steps = whole_steps(directory)
    return max(steps.items(), key=lambda item: item[0]) if steps else None


def record(saved: Saved) -> dict[str, Any]:
    """Returns what a step says of itself as JSON values, which `whole_steps` reads."""
    return {
        "epoch": saved.epoch,
        "history": [_finite(metrics) for metrics in saved.history],
        **_finite(saved.metrics),
    }


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
    for step, folder in _numbered(directory).items():
        if step in whole:
            continue
        if _missing(folder):
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


def write_checksums(directory: Path, step: int) -> None:
    """Writes the hashes of a step's files into it, while it still has its temporary name."""
    (folder,) = directory.glob(f"{step}{_UNFINISHED}*")
    hashes = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file() and path.name != "commit_success.txt"
    }
    (folder / _CHECKSUMS).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path, items: tuple[str, ...]) -> str | None:
    """Compares the files of some items of a step with its checksums, if it has any.

    Returns:
      What is damaged, or None.
    """
    if not (folder / _CHECKSUMS).exists():
        return None if folder.is_dir() else "it is gone"
    hashes = _read_json(folder / _CHECKSUMS)
    if not isinstance(hashes, dict):
        return f"{_CHECKSUMS} cannot be read"
    for name, expected in hashes.items():
        if name.split("/")[0] not in items:
            continue
        try:
            same = files.sha256(folder / name) == expected
        except OSError as error:
            return f"{name}: {error.strerror}"
        if not same:
            return f"{name} is not what was written"
    return None


def _numbered(directory: Path) -> dict[int, Path]:
    """Returns the folders that are named as steps, in order."""
    if not directory.is_dir():
        return {}
    steps = {
        int(path.name): path
        for path in directory.iterdir()
        if path.name.isascii() and path.name.isdigit() and str(int(path.name)) == path.name
        if path.is_dir()
    }
    return dict(sorted(steps.items()))


def _missing(folder: Path) -> list[str]:
    """Returns files that a step should have and has not, or has without content."""
    hashes, fields = _read_json(folder / _CHECKSUMS), _read_json(folder / _RECORD)
    names = list(hashes) if isinstance(hashes, dict) else []
    if isinstance(fields, dict) and "history" in fields:
        names.append(_CHECKSUMS)
    missing = [name for name in names if not (folder / name).is_file()]
    empty = [name for name in _NEEDED if not _has_content(folder / name)]
    return missing + empty


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _record_of(folder: Path) -> Saved | None:
    """Returns the record of a step, or None if it cannot be read."""
    fields, hashes = _read_json(folder / _RECORD), _read_json(folder / _CHECKSUMS)
    if not isinstance(fields, dict):
        return None
    if isinstance(hashes, dict) and files.sha256(folder / _RECORD) != hashes.get(_RECORD):
        return None
    epoch, history = fields.pop("epoch", None), fields.pop("history", [])
    if not (isinstance(epoch, int | None) and isinstance(history, list)):
        return None
    return Saved(_finite(fields), epoch, tuple(_finite(metrics) for metrics in history))


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Leaves out what is no finite number; earlier versions wrote NaN."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _read_json(path: Path) -> Any:
    """Returns the content of a file, or None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""Prepares a source once: its images verified, written to array_record files, reported on."""

import contextlib
import dataclasses
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from tl_jax import messages
from tl_jax.data.images import verify
from tl_jax.data.prepare import contact_sheet, inspection
from tl_jax.data.prepare import report as set_report
from tl_jax.data.prepare.image_reader import Encoding, ImageReader
from tl_jax.data.prepare.record_writer import RecordWriter
from tl_jax.data.source import Source, Task, tasks_of
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.split_names import split_names

REPORT, PAGE = "report.json", "report.md"
QUARANTINE, SHEET = "quarantine.jsonl", "contact_sheet.png"

_SHEET_CLASSES, _SHEET_IMAGES = 60, 8
_SPLIT_NAME = re.compile(r"[\w-]+")  # TFDS finds the files of no other name again.


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation made.

    Attributes:
      folder: where it lies; the source "prepared:FOLDER" reads it.
      report: as in `report.json`.
      corrupt: the images left out, as in `quarantine.jsonl`.
    """

    folder: Path
    report: Mapping[str, Any]
    corrupt: tuple[inspection.Corrupt, ...]


def prepare(
    spec: str,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    max_side: int | None = None,
    encoding: Encoding = "as-is",
    seed: int = 0,
    validation_fraction: float = 0.2,
    labels: Sequence[str] = (),
    image_column: str | None = None,
    data_dir: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Decodes every image of a source once and writes the good ones to array_record files.

    TFDS reads the result (`tfds.builder_from_directory`), and so does the source "prepared:OUT".
    Besides the records the folder gets `report.json` and `report.md` (counts, sizes, duplicates,
    leakage, imbalance), `quarantine.jsonl` (the corrupt images: file, split, class, reason) and
    `contact_sheet.png`. The folder appears when all of it is written, or not at all.

    Args:
      spec: a source, as `open_source` takes it; its files are only read.
      out: folder to be made.
      splits: names of the splits; the default is all that the source has.
      max_side: images that are wider or higher are made smaller, their shape kept (bicubic).
      encoding: "as-is" keeps each file's bytes; what `max_side` makes smaller is stored as JPEG
        of quality 95 if the file is in a lossy format, and as PNG otherwise. "jpeg" and "png"
        store all images so.
      seed, validation_fraction, labels, image_column, data_dir: as in `open_source`.
      workers: threads that decode; the default is one a core.
      progress: show a bar on the terminal.

    Raises:
      FileExistsError: if `out` exists.
      ValueError: if an option is wrong, the source cannot be opened, or all images of a split are
        corrupt.
      OSError: if the disk is full.
    """
    _check_options(out, max_side, encoding, workers)
    how = _How(seed, validation_fraction, tuple(labels), image_column, data_dir)
    sources = _opened(spec, splits or split_names(spec, data_dir=data_dir), how)
    reader = ImageReader(_base(spec), max_side, encoding)
    with _part_folder(out) as part, _clear_when_full(part):
        writer = RecordWriter(sources, reader, workers or os.cpu_count() or 1, progress, part)
        folder = writer.write()
        report = set_report.set_report(writer.images, writer.corrupt, writer.tasks, source=spec)
        _write_beside(folder, report, writer.corrupt)
        sheet = _sheet(sources, writer.images, writer.tasks[0], report, seed)
        sheet.save(folder / SHEET)
        folder.rename(out)
    return Prepared(out, report, tuple(writer.corrupt))


@dataclasses.dataclass(frozen=True)
class _How:
    seed: int
    validation_fraction: float
    labels: tuple[str, ...]
    image_column: str | None
    data_dir: str | Path | None


def _opened(spec: str, splits: Sequence[str], how: _How) -> dict[str, Source]:
    unfit = [split for split in splits if not _SPLIT_NAME.fullmatch(split) or split == "all"]
    if unfit:
        raise ValueError(
            f"a prepared set can have no split called {unfit[0]!r}: letters, digits, '-' and '_' "
            "make a name, and 'all' stands for all; rename it, or name others in `splits`"
        )
    skip = spec.partition(":")[0] in ("folder", "manifest")
    with verify.postponed():
        sources = {
            split: open_source(
                spec, split, data_dir=how.data_dir, seed=how.seed, labels=how.labels,
                validation_fraction=how.validation_fraction, image_column=how.image_column,
                on_corrupt="skip" if skip else "raise",
            )
            for split in splits
        }  # fmt: skip
    first = tasks_of(sources[splits[0]])
    for split, source in sources.items():
        if tasks_of(source) != first:
            raise ValueError(
                f"splits {splits[0]!r} and {split!r} of {spec} have different classes: {first} and "
                f"{tasks_of(source)}; make them equal, or prepare them one by one"
            )
    if first[0].name in ("image", "path"):
        raise ValueError(
            f"the labels of {spec} are called {first[0].name!r}, as something else in a prepared "
            "set is; rename their column"
        )
    return sources


def _check_options(out: Path, max_side: int | None, encoding: str, workers: int | None) -> None:
    if encoding not in get_args(Encoding):
        known = get_args(Encoding)
        raise ValueError(
            f"got encoding={encoding!r}; expected {', '.join(known)}{messages.hint(encoding, known)}"
        )
    if max_side is not None and max_side < 1:
        raise ValueError(f"got max_side={max_side}; expected a positive number of pixels")
    if workers is not None and workers < 1:
        raise ValueError(f"got workers={workers}; expected at least 1")
    if out.exists() or out.is_symlink():
        whole = (out / REPORT).exists()
        raise FileExistsError(
            f"{out} exists{' and is prepared: open it as prepared:' + str(out) if whole else ''}; "
            "name another folder, or remove it first"
        )


def _base(spec: str) -> Path | None:
    """Returns the folder that the files of a source are named from, if it has one."""
    path = Path(spec.partition(":")[2]).expanduser()
    return path if path.is_dir() else path.parent if path.is_file() else None


@contextlib.contextmanager
def _part_folder(out: Path) -> Iterator[Path]:
    """Makes a hidden folder beside `out` and removes it in the end, and those of killed runs."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{out.name}.{socket.gethostname()}"
    for left in out.parent.glob(f"{glob.escape(stem)}.*.part"):
        if not _alive(int(left.suffixes[-2][1:])):
            shutil.rmtree(left, ignore_errors=True)
    part = out.with_name(f"{stem}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _clear_when_full(folder: Path) -> Iterator[None]:
    """Turns whatever fails because the disk is full into an error that says so."""
    try:
        yield
    except Exception as error:
        # array_record raises RuntimeError; only its text names the cause.
        full = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
        if not any(text in str(error) for text in full):
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk is full, and nothing was kept: {folder.parent} needs room for the images, "
            "and twice that for more than 1 GB; make room, name another folder, or give max_side",
        ) from error


def _write_beside(
    folder: Path, report: Mapping[str, Any], corrupt: Sequence[inspection.Corrupt]
) -> None:
    lines = [
        {"file": one.name, "split": one.split, "class": one.label, "reason": one.reason}
        for one in corrupt
    ]
    _write(folder / QUARANTINE, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
    _write(folder / REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    _write(folder / PAGE, set_report.markdown(report, corrupt))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sheet(
    sources: Mapping[str, Source],
    images: Sequence[inspection.Facts],
    task: Task,
    report: Mapping[str, Any],
    seed: int,
) -> Image.Image:
    """Draws a few images of each class of the main task, chosen by the seed."""
    by_class: dict[str, list[inspection.Facts]] = {}
    for one in images:
        for name in inspection.class_names(one.labels[task.name], task) or ["(no label)"]:
            by_class.setdefault(name, []).append(one)
    order = [name for name in (*task.class_names, "(no label)") if name in by_class]
    rows = [
        contact_sheet.Row(name, [_tile(sources, one) for one in _chosen(by_class[name], seed)])
        for name in order[:_SHEET_CLASSES]
    ]
    more = len(order) - len(rows)
    return contact_sheet.draw(
        rows,
        heading=f"{report['source']}: {report['images']} images of {len(order)} classes",
        footer=(f"{more} more classes; " if more else "")
        + f"{report['corrupt']} corrupt images, named in {QUARANTINE}",
    )


def _chosen(images: Sequence[inspection.Facts], seed: int) -> list[inspection.Facts]:
    def place(one: inspection.Facts) -> bytes:
        return hashlib.sha256(f"{seed}:{one.split}:{one.index}".encode()).digest()

    return sorted(images, key=place)[:_SHEET_IMAGES]


def _tile(sources: Mapping[str, Source], one: inspection.Facts) -> contact_sheet.Tile:
    return contact_sheet.Tile(
        sources[one.split][one.index]["image"], f"{one.split}: {Path(one.name).name}"
    )

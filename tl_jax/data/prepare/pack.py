"""Prepares a source: decodes its images once, packs them into array_record files, and reports."""

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

from tl_jax import files, messages
from tl_jax.data.prepare import contact_sheet
from tl_jax.data.prepare.image_reader import Encoding, ImageReader
from tl_jax.data.prepare.inspection import CorruptImage, ImageInfo, class_names
from tl_jax.data.prepare.records import write_records
from tl_jax.data.prepare.report import Report, make_report, markdown
from tl_jax.data.source import Source, Task
from tl_jax.data.sources.open import open_with_options, split_names
from tl_jax.data.sources.options import OpenOptions

REPORT, PAGE = "report.json", "report.md"
QUARANTINE, SHEET = "quarantine.jsonl", "contact_sheet.png"

_SHEET_CLASSES, _SHEET_IMAGES = 60, 8
_SPLIT_NAME = re.compile(r"[\w-]+")  # TFDS does not find the files of splits with other names.


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """A set that was prepared.

    Attributes:
      folder: its folder; the source "prepared:FOLDER" reads it.
      report: the content of `report.json`.
      corrupt: the images that were left out, as in `quarantine.jsonl`.
    """

    folder: Path
    report: Mapping[str, Any]
    corrupt: Sequence[CorruptImage]


def prepare_source(
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
    value_range: tuple[float, float] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PreparedSet:
    """Decodes every image of a source once and writes the good ones to array_record files.

    TFDS reads the result (`tfds.builder_from_directory`), and so does the source "prepared:OUT".
    Beside the records the folder has `report.json` and `report.md` (counts, sizes, duplicates,
    leakage, imbalance), `quarantine.jsonl` (the corrupt images: file, split, class, reason) and
    `contact_sheet.png`. The folder appears only when all of it is written.

    Args:
      spec: a source, as in `open_source`; its files are only read.
      out: folder to write; it must not exist.
      splits: names of the splits; the default is all that the source has.
      max_side: larger images are shrunk to this many pixels on the longer side (bicubic).
      encoding: "as-is" keeps each file's bytes; an image that `max_side` shrinks is stored as JPEG
        of quality 95 if the file's format is lossy, and as PNG otherwise. "jpeg" and "png" store
        all images in that format.
      seed, validation_fraction, labels, image_column, data_dir: as in `open_source`.
      value_range: as in `open_source`; the set remembers it, and is opened with it.
      workers: threads that decode; the default is one per core.
      progress: show a bar on the terminal.

    Raises:
      FileExistsError: if `out` exists.
      ValueError: if an option is wrong, the source cannot be opened, or all images of a split are
        corrupt.
      OSError: if the disk is full.

    Examples:
      >>> prepared = prepare_source("digits", Path("packed"), splits=["test"], progress=False)
      >>> prepared.report["images"], prepared.report["corrupt"]
      (450, 0)
    """
    out = files.user_path(out)
    _check_options(out, max_side, encoding, workers)
    # The reader decodes every image, so they are not verified on opening.
    options = OpenOptions(
        data_dir=data_dir,
        seed=seed,
        validation_fraction=validation_fraction,
        labels=tuple(labels),
        image_column=image_column,
        verify=False,
        value_range=value_range,
    )
    sources = _open_splits(spec, splits or split_names(spec, data_dir=data_dir), options)
    tasks = next(iter(sources.values())).tasks
    path = files.user_path(spec.partition(":")[2])
    base = path if path.is_dir() else path.parent if path.is_file() else None
    reader = ImageReader(base, max_side, encoding)
    with _temporary_folder(out) as part, _disk_full_explained(out):
        written = write_records(
            sources, reader, part, num_threads=workers or os.cpu_count() or 1, progress=progress
        )
        report = make_report(
            written.images,
            written.corrupt,
            tasks,
            source=spec,
            value_range=options.value_range,
            notes=tuple(dict.fromkeys(note for each in sources.values() for note in each.notes)),
        )
        _write_texts(written.folder, report, written.corrupt)
        sheet = _draw_sheet(sources, written.images, tasks[0], report, seed=seed)
        sheet.save(written.folder / SHEET)
        written.folder.rename(out)
    return PreparedSet(out, report, tuple(written.corrupt))


def _check_options(out: Path, max_side: int | None, encoding: str, workers: int | None) -> None:
    encodings = get_args(Encoding)
    if encoding not in encodings:
        raise ValueError(
            f"got encoding={encoding!r}; expected {', '.join(encodings)}"
            f"{messages.hint(encoding, encodings)}"
        )
    if max_side is not None and max_side < 1:
        raise ValueError(f"got max_side={max_side}; expected a positive number of pixels")
    if workers is not None and workers < 1:
        raise ValueError(f"got workers={workers}; expected at least 1")
    if (out / REPORT).exists():
        raise FileExistsError(
            f"{out} exists and is prepared: open it as prepared:{out}; name another folder, or "
            "remove it first"
        )
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} exists; name another folder, or remove it first")


def _open_splits(spec: str, names: Sequence[str], options: OpenOptions) -> dict[str, Source]:
    """Opens the splits of a source; all have the same tasks."""
    for name in names:
        if not _SPLIT_NAME.fullmatch(name) or name == "all":
            raise ValueError(
                f"a prepared set can have no split called {name!r}; expected letters, digits, '-' "
                "and '_', and not 'all', which stands for all splits: rename the split, or leave "
                "it out of `splits`"
            )
    sources = {name: open_with_options(spec, name, options) for name in names}
    tasks = sources[names[0]].tasks
    for name, source in sources.items():
        if source.tasks != tasks:
            raise ValueError(
                f"splits {names[0]!r} and {name!r} of {spec} have different classes: {tasks} and "
                f"{source.tasks}; make them equal, or prepare them one by one"
            )
    for source in sources.values():
        if not source.inputs.is_one_image or any(task.kind == "regression" for task in tasks):
            raise ValueError(
                f"{spec} has views, further inputs or numbers as labels, and a prepared set holds "
                "single images with classes; train on the source itself"
            )
    if tasks[0].name in ("image", "path"):
        raise ValueError(
            f"the labels of {spec} are called {tasks[0].name!r}, a name that prepared sets use for "
            "another feature; rename the column"
        )
    return sources


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """Makes a hidden folder beside `out` and removes it at the end.

    Folders that killed processes of this machine left behind are removed first.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {out}: {out.parent} is no folder and cannot be made one "
            f"({error.strerror}: {error.filename}); name another",
        ) from error
    stem = f".{out.name}.{socket.gethostname()}"
    for leftover in out.parent.glob(f"{glob.escape(stem)}.*.part"):
        if not _is_alive(int(leftover.suffixes[-2][1:])):
            shutil.rmtree(leftover, ignore_errors=True)
    part = out.with_name(f"{stem}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _disk_full_explained(out: Path) -> Iterator[None]:
    """Replaces any error whose cause is a full disk by an OSError that says so."""
    try:
        yield
    except Exception as error:
        # array_record raises RuntimeError; only its text names the cause.
        causes = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
        if not any(cause in str(error) for cause in causes):
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk is full, and nothing was kept: {out.parent} needs space for the images, and "
            "twice that for sets above 1 GB; free some, name another folder, or set max_side",
        ) from error


def _write_texts(folder: Path, report: Report, corrupt: Sequence[CorruptImage]) -> None:
    """Writes the report and the list of corrupt images."""
    lines = [
        {"file": image.name, "split": image.split, "class": image.label, "reason": image.reason}
        for image in corrupt
    ]
    texts = {
        QUARANTINE: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        REPORT: json.dumps(report, ensure_ascii=False, indent=1) + "\n",
        PAGE: markdown(report, corrupt),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _draw_sheet(
    sources: Mapping[str, Source],
    images: Sequence[ImageInfo],
    task: Task,
    report: Report,
    *,
    seed: int,
) -> Image.Image:
    """Draws a few images of each class of the main task, chosen by the seed."""

    def order(image: ImageInfo) -> bytes:
        return hashlib.sha256(f"{seed}:{image.split}:{image.index}".encode()).digest()

    def tile(image: ImageInfo) -> contact_sheet.Tile:
        pixels = sources[image.split][image.index]["image"]
        return contact_sheet.Tile(pixels, f"{image.split}: {Path(image.name).name}")

    unlabelled = "(no label)"
    by_class: dict[str, list[ImageInfo]] = {name: [] for name in (*task.class_names, unlabelled)}
    for image in images:
        for name in class_names(image.labels[task.name], task) or [unlabelled]:
            by_class[name].append(image)
    classes = [name for name, members in by_class.items() if members]
    rows = [
        contact_sheet.Row(
            name, [tile(i) for i in sorted(by_class[name], key=order)[:_SHEET_IMAGES]]
        )
        for name in classes[:_SHEET_CLASSES]
    ]
    more = f"{len(classes) - len(rows)} more classes; " if len(classes) > len(rows) else ""
    return contact_sheet.draw(
        rows,
        heading=f"{report['source']}: {report['images']} images of {len(classes)} classes",
        footer=f"{more}{report['corrupt']} corrupt images, named in {QUARANTINE}",
    )

"""Prepares a source once: its images verified, written to array_record files, reported on."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from tl_jax import trees
from tl_jax.data import contact_sheet, decode, inspection, set_report, verify
from tl_jax.data.open import open_source
from tl_jax.data.source import EncodedSource, Source, Task, tasks_of
from tl_jax.data.split_names import split_names

Encoding = Literal["as-is", "jpeg", "png"]

REPORT, PAGE = "report.json", "report.md"
QUARANTINE, SHEET = "quarantine.jsonl", "contact_sheet.png"

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_JPEG_QUALITY = 95
_SHEET_CLASSES, _SHEET_IMAGES = 60, 8
_SPLIT_NAME = re.compile(r"[\w-]+")  # TFDS finds the files of no other name again.
# What a machine lacks, not a file.
_OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


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
    reader = _Reader(_base(spec), max_side, encoding)
    with _part_folder(out) as part, _clear_when_full(part):
        writer = _Writer(sources, reader, workers or os.cpu_count() or 1, progress, part)
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
            f"got encoding={encoding!r}; expected {', '.join(known)}{trees.hint(encoding, known)}"
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


@dataclasses.dataclass(frozen=True)
class _Image:
    """A good image: what goes into the records, and what into the report."""

    data: bytes
    facts: inspection.Facts


@runtime_checkable
class _OfFiles(Protocol):
    paths: Sequence[Path]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads, decodes and, if asked to, re-encodes one image of a source."""

    base: Path | None
    max_side: int | None
    encoding: Encoding

    def __call__(self, source: Source, index: int) -> _Image | inspection.Corrupt:
        name = f"{source.split}[{index}]"
        tasks = tasks_of(source)
        example: Mapping[str, Any] = {}
        try:
            data, example = self._read(source, index)
            name = self._name(example.get("path", name))
            whole = decode.decode_whole(data)
        except (decode.CorruptImageError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OWN_FAULTS:
                raise
            if isinstance(source, _OfFiles):
                name = self._name(source.paths[index])
            label = example["label"] if example else source.labels()[index]
            classes = "/".join(inspection.class_names(label, tasks[0]))
            return inspection.Corrupt(source.split, index, name, classes, _reason(error))
        labels = _labels(example, tasks)
        facts = inspection.facts(
            data, whole, split=source.split, index=index, name=name, labels=labels
        )
        return _Image(self._stored(data, whole), facts)

    def _read(self, source: Source, index: int) -> tuple[bytes, Mapping[str, Any]]:
        if isinstance(source, _OfFiles):
            decode.check_file(source.paths[index])
        if isinstance(source, EncodedSource):
            return source.encoded(index)
        example = source[index]
        return _encode(example["image"], "png"), example

    def _stored(self, data: bytes, decoded: decode.Decoded) -> bytes:
        height, width = decoded.pixels.shape[:2]
        larger = self.max_side is not None and max(height, width) > self.max_side
        if self.encoding == "as-is" and not larger:
            return data
        as_is = "jpeg" if decoded.format in _LOSSY else "png"
        pixels = _smaller(decoded.pixels, self.max_side) if larger else decoded.pixels
        return _encode(pixels, as_is if self.encoding == "as-is" else self.encoding)

    def _name(self, path: str | bytes | Path) -> str:
        # Names that are no UTF-8 can be neither printed nor stored as text.
        whole = os.fsencode(path).decode("utf-8", "backslashreplace")
        return whole.removeprefix(f"{self.base}{os.sep}")


def _skipped(source: Source, line: str) -> inspection.Corrupt:
    """Returns what a source has left out on opening: "NAME: REASON"."""
    name, _, reason = line.partition(": ")
    return inspection.Corrupt(source.split, -1, name, "", reason)


def _reason(error: Exception) -> str:
    if isinstance(error, decode.CorruptImageError):
        return error.reason or str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or it is a link that leads nowhere"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _labels(example: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Returns an example's labels by task, as numbers and tuples."""
    found = {}
    for number, task in enumerate(tasks):
        label = example[task.name if number else "label"]
        found[task.name] = tuple(np.asarray(label).tolist()) if task.multi_label else int(label)
    return found


def _smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _encode(pixels: np.ndarray, encoding: Literal["jpeg", "png"]) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(buffer, encoding, **options)
    return buffer.getvalue()


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the examples of given generators."""

    name = "prepared"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar = None  # Nothing is downloaded.

    def __init__(
        self,
        examples: Mapping[str, Callable[[], Iterator[tuple[int, dict[str, Any]]]]],
        tasks: Sequence[Task],
        description: str,
        data_dir: Path,
    ) -> None:
        self._examples, self._features, self._main = examples, _features(tasks), tasks[0].name
        self._description = description
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=self._features,
            supervised_keys=("image", self._main),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {split: examples() for split, examples in self._examples.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the generators are given to the builder")


@dataclasses.dataclass
class _Writer:
    """Writes sources through TFDS, and notes what it finds on the way."""

    sources: Mapping[str, Source]
    reader: _Reader
    workers: int
    progress: bool
    folder: Path
    images: list[inspection.Facts] = dataclasses.field(default_factory=list)
    corrupt: list[inspection.Corrupt] = dataclasses.field(default_factory=list)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tasks_of(next(iter(self.sources.values())))

    def write(self) -> Path:
        """Returns the folder of the records; it must hold all that was read, and nothing less."""
        total = sum(map(len, self.sources.values()))
        tfds.display_progress_bar(enable=False)  # TFDS's bars know no totals.
        try:
            with tqdm.tqdm(total=total, unit=" images", disable=not self.progress) as bar:
                builder = self._builder(bar)
                with contextlib.redirect_stdout(io.StringIO()):  # It tells of a download.
                    builder.download_and_prepare(
                        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                    )
        finally:
            tfds.display_progress_bar(enable=True)
        folder = Path(builder.data_path)
        self._check_whole(folder)
        return folder

    def _builder(self, bar: tqdm.tqdm) -> _Builder:
        examples = {
            split: lambda source=source: self._examples(source, bar)
            for split, source in self.sources.items()
        }
        first = next(iter(self.sources.values()))
        return _Builder(examples, self.tasks, f"Prepared from {first.name}.", self.folder)

    def _examples(self, source: Source, bar: tqdm.tqdm) -> Iterator[tuple[int, dict[str, Any]]]:
        good = 0
        self.corrupt += [_skipped(source, line) for line in source.skipped]
        for index, found in enumerate(self._read(source)):
            bar.update()
            if isinstance(found, inspection.Corrupt):
                self.corrupt.append(found)
                continue
            good += 1
            self.images.append(found.facts)
            yield index, _record(found, self.tasks)
        if not good:
            raise decode.CorruptImageError(
                f"none of the {len(source)} images in split {source.split!r} of {source.name} can "
                f"be decoded; the last one: {self.corrupt[-1].name}: {self.corrupt[-1].reason}"
            )

    def _read(self, source: Source) -> Iterator[_Image | inspection.Corrupt]:
        """Reads all examples in order by threads, which are never far ahead."""
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        indices = iter(range(len(source)))
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            for index in itertools.islice(indices, 4 * self.workers):
                waiting.append(pool.submit(self.reader, source, index))
            while waiting:
                found = waiting.popleft().result()
                for index in itertools.islice(indices, 1):
                    waiting.append(pool.submit(self.reader, source, index))
                yield found

    def _check_whole(self, folder: Path) -> None:
        written = tfds.builder_from_directory(folder).as_data_source(
            decoders={"image": tfds.decode.SkipDecoding()}
        )
        for split in self.sources:
            expected = sum(one.split == split for one in self.images)
            if len(written[split]) != expected:
                raise OSError(
                    f"{len(written[split])} of the {expected} images of split {split!r} were "
                    f"written to {folder}; check the disk and try again"
                )


def _features(tasks: Sequence[Task]) -> tfds.features.FeaturesDict:
    labels = {}
    for task in tasks:
        names = tfds.features.ClassLabel(names=list(task.class_names))
        labels[task.name] = tfds.features.Sequence(names) if task.multi_label else names
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            **labels,
            "path": tfds.features.Text(),
        }
    )


def _record(image: _Image, tasks: Sequence[Task]) -> dict[str, Any]:
    labels = {
        task.name: _listed(image.facts, task) if task.multi_label else image.facts.labels[task.name]
        for task in tasks
    }
    return {"image": io.BytesIO(image.data), "path": image.facts.name, **labels}


def _listed(facts: inspection.Facts, task: Task) -> list[int]:
    """Returns the classes that an image has, after -1 if it is not known of the others."""
    label = facts.labels[task.name]
    if {0, -1} <= set(label):
        raise ValueError(
            f"of some classes of {task.name!r} {facts.name} is known not to be, of others it is "
            "not known; a prepared set says one or the other of all classes that an image is not "
            "said to have: fill in the missing ones"
        )
    return [-1] * (-1 in label) + [i for i, has in enumerate(label) if has == 1]


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

"""The source of images that a table lists, with their labels: CSV, JSONL or Parquet."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import files, messages
from tl_jax.data import splits
from tl_jax.data.images import decode, verify
from tl_jax.data.source import Example, Source, Task, check_tasks
from tl_jax.data.sources import (
    label_columns,
    manifest_columns,
    manifest_images,
    manifest_rows,
    tables,
)
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.manifest_rows import Labels
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"on_corrupt", "labels", "image_column", "value_range"})


@dataclasses.dataclass(frozen=True)
class ManifestSource(Source):
    """One split of a table of images.

    Examples hold `image`, `label`, the labels of further tasks, and `path` (of the file, or the row
    of the table).

    Attributes:
      name, split, tasks, skipped, notes, value_range: as in `Source`.
      images: the column of images.
      rows: int64 [N], the rows of the split, from 0.
      targets: the labels of all rows for each task: int32, or int8 [rows, classes].
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    images: ImageColumn
    rows: np.ndarray
    targets: tuple[np.ndarray, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        content, name = self.images.content(row)
        image = decode.decode(content, name=name, value_range=self.value_range)
        return {"image": image, **self._labels(row), "path": name}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets[0][self.rows]

    def encoded(self, index: int) -> tuple[bytes, Example]:
        """As in `Source`."""
        row = int(self.rows[index])
        content, name = self.images.content(row)
        data = content.read_bytes() if isinstance(content, Path) else content
        return data, {**self._labels(row), "path": name}

    def content_marks(self) -> Sequence[str]:
        """As in `Source`: those of the files (`files.marks`), sizes of the bytes in the table."""
        contents = (self.images.content(int(row))[0] for row in self.rows)
        places = [each if isinstance(each, Path) else len(each) for each in contents]
        marks = iter(files.marks([each for each in places if isinstance(each, Path)]))
        return [next(marks) if isinstance(each, Path) else str(each) for each in places]

    def identities(self) -> Sequence[str]:
        """As in `Source`: the files' paths, or hashes of the bytes in the table."""
        names = manifest_rows.picture_names(self.images, read_bytes=True)
        return [names[row] for row in self.rows]

    def _labels(self, row: int) -> Example:
        return {
            "label" if number == 0 else task.name: (
                values[row] if task.multi_label else int(values[row])
            )
            for number, (task, values) in enumerate(zip(self.tasks, self.targets, strict=True))
        }


def open(address: str, split: str, options: OpenOptions) -> ManifestSource:
    """Opens a split of the images that a table lists, and decodes each of them once.

    Each row is an image. Its cell in the column `image` (or `path`, `file`, `file_name` ...) is the
    path of a file, absolute or relative to the table's folder, and complete but for the suffix, if
    one image has that name; in Parquet also its bytes, or a
    struct of `bytes` and `path` as Hugging Face's library writes it (bytes are kept in memory).

    A label is a name or a whole number; an empty cell is a missing label. A list in any cell of a
    column (in CSV: names with `|` between them, a single `|` for an empty list) makes it a
    multi-label task. The classes are those of the whole table, sorted: by name, or as numbers if
    all are numbers.

    The column `split` gives the splits (or another whose values are plainly splits); "Training",
    "val" and other usual spellings mean "train", "validation" and "test". Without one there are
    `train` and `validation`: a picture is held out if the hash of its name is among the lowest
    fifth (`validation_fraction`), and each class has one on both sides. "all" is the whole table.
    Rows of one picture stay together, and their labels must agree. Slices are written as in TFDS
    and cut from an order hashed from the images' names.

    Args:
      address: the table: .csv, .tsv, .jsonl or .parquet.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: all of them are used; the default of `labels` is the column `label`, or the only
        one with another usual name, such as `target` or `class_id`.

    Raises:
      FileNotFoundError: if there is no such table.
      ValueError: if it cannot be read; a column or split is unknown; a file is missing; a label is
        not a name; the training split lacks a class. All such rows are listed together.
      CorruptImageError: if images cannot be decoded.
    """
    path = files.user_path(address)
    table = tables.read(path)
    image_column = manifest_columns.image_column(table, options.image_column)
    columns, column_notes = manifest_columns.label_columns(table, options.labels)
    split_column, notes = manifest_columns.split_column(table, (image_column, *columns))
    labels, label_notes = label_columns.encode_all(table, columns)
    check_tasks(str(path), tuple(task for task, _ in labels))
    # The table's other columns are dropped: those of Parquet could not be sent to processes.
    images, image_notes = manifest_images.with_suffixes(
        ImageColumn(dataclasses.replace(table, columns={}), table.columns[image_column])
    )
    parts = _divided(table, images, labels, split_column, split, options)
    _check_training_split(table, parts.rows, labels)
    notes = (
        *table.notes, *image_notes, *column_notes, *notes, *label_notes, *parts.notes
    )  # fmt: skip
    source = ManifestSource(
        name=f"manifest:{path}",
        split=split,
        tasks=tuple(task for task, _ in labels),
        images=images,
        rows=manifest_rows.select(split, parts.rows, images, parts.names, parts.spelled),
        targets=tuple(targets for _, targets in labels),
        notes=notes,
        value_range=options.value_range,
    )
    _check_files(source)
    if not options.verify:
        return source
    source = _without_corrupt(source, options)
    wanted = {each.split for each in splits.parse(split, parts.rows)}
    named = [text for name in parts.skipped if name in wanted for text in parts.skipped[name]]
    return dataclasses.replace(source, skipped=(*named, *source.skipped))


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the splits in the table, or of those that are held out."""
    del options
    return own_splits(address) or splits.HELD_OUT


def own_splits(address: str) -> tuple[str, ...]:
    """Returns the usual names of the splits that the table has; none if it has no such column."""
    table = tables.read(files.user_path(address))
    used = [name for name in table.columns if name.strip().casefold() == "label"]
    column, _ = manifest_columns.split_column(table, used)
    return () if column is None else tuple(manifest_columns.rows_by_split(table, column)[0])


@dataclasses.dataclass(frozen=True)
class _Parts:
    """How a table is divided.

    Attributes:
      rows: the rows of each split.
      spelled: how the table writes the splits.
      names: a name for the picture of each row.
      skipped: the corrupt images of each split that were left out before it was divided.
      notes: what was decided, as sentences.
    """

    rows: Mapping[str, np.ndarray]
    spelled: Mapping[str, str]
    names: Sequence[str]
    skipped: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]


def _divided(
    table: tables.Table,
    images: ImageColumn,
    labels: Sequence[Labels],
    split_column: str | None,
    split: str,
    options: OpenOptions,
) -> _Parts:
    """Divides a table as its column says, or holds a part of it out."""
    names = manifest_rows.picture_names(images, read_bytes=split_column is None)
    if split_column is not None:
        rows, spelled = manifest_columns.rows_by_split(table, split_column)
        said = manifest_rows.check_pictures(images, names, labels, rows)
        return _Parts(rows, spelled, names, {}, (f"splits: {splits.listed(rows, spelled)}", *said))
    notes = manifest_rows.check_pictures(images, names, labels, {})
    if split == splits.WHOLE:
        return _Parts({splits.WHOLE: np.arange(len(table))}, {}, names, {}, notes)
    reasons = {}
    if options.verify and options.on_corrupt == "skip":
        every = np.arange(len(table))
        _check_file_of_rows(images, every, f"{table.path}")
        reasons = _corrupt_rows(images, every, options)
    rows, bad = manifest_rows.hold_out(table, names, labels[0], options, corrupt=list(reasons))
    skipped = {
        name: [_problem(images, row, reasons[row]) for row in each] for name, each in bad.items()
    }
    how = (
        f"no column of splits in {table.path.name}: about {options.validation_fraction:g} of each "
        f"class is held out as 'validation', by a hash of the images' names and the seed "
        f"{options.seed}"
    )
    return _Parts(rows, {}, names, skipped, (how, *notes))


def _check_training_split(
    table: tables.Table, rows_by_split: Mapping[str, np.ndarray], labels: Sequence[Labels]
) -> None:
    """Checks that every class has an example in the training split, if there is one."""
    problems = []
    for task, targets in labels if "train" in rows_by_split else ():
        for label in np.flatnonzero(~label_columns.present(task, targets, rows_by_split["train"])):
            has = (targets[:, label] == 1) if task.multi_label else (targets == label)
            where = f"; {table.place(int(has.argmax()))} has it" if has.any() else ""
            problems.append(f"class {task.class_names[label]!r} of {task.name!r}{where}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} classes have no row in the training split of {table.path}:",
                problems,
                "move some of their rows to it, or rename or remove the classes",
            )
        )


def _check_files(source: ManifestSource) -> None:
    place = f"split {source.split!r} of {source.images.table.path}"
    _check_file_of_rows(source.images, source.rows, place)


def _check_file_of_rows(images: ImageColumn, rows: np.ndarray, place: str) -> None:
    table, problems, missing = images.table, [], []
    for row in rows.tolist():
        try:
            content, name = images.content(row)
        except ValueError as error:
            problems.append(str(error))
        else:
            if isinstance(content, Path) and not content.is_file():
                problems.append(f"{table.place(row)}: no file {name}")
                missing.append(row)
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} images in {place} are missing:",
                problems,
                f"paths are relative to {table.path.parent.resolve()}; fix or remove these rows"
                f"{manifest_images.elsewhere(images, missing)}",
            )
        )


def _corrupt_rows(images: ImageColumn, rows: np.ndarray, options: OpenOptions) -> dict[int, str]:
    """Returns the rows whose images cannot be decoded, each with the reason."""
    table = images.table
    record = verify.record_path(table.path, options.local_data_dir)
    paths: dict[int, Path] = {}
    packed = []
    for row in rows.tolist():
        content, _ = images.content(row)
        if isinstance(content, Path):
            paths[row] = content
        else:
            packed.append(row)
    in_files = verify.corrupt_files(
        list(dict.fromkeys(paths.values())), record, value_range=options.value_range
    )
    in_table = verify.corrupt_rows(
        table.path,
        packed,
        lambda row: images.content(row)[0],
        record.with_name(f"{record.stem}-bytes.json"),
        value_range=options.value_range,
    )
    reasons = {row: in_files[path] for row, path in paths.items() if path in in_files} | in_table
    return dict(sorted(reasons.items()))


def _problem(images: ImageColumn, row: int, reason: str) -> str:
    content, name = images.content(row)
    return f"{images.table.place(row)}{f' ({name})' if isinstance(content, Path) else ''}: {reason}"


def _without_corrupt(source: ManifestSource, options: OpenOptions) -> ManifestSource:
    """Returns a source without the images that cannot be decoded, as `on_corrupt` says."""
    reasons = _corrupt_rows(source.images, source.rows, options)
    if not reasons:
        return source
    corrupt = list(reasons)
    problems = [_problem(source.images, row, reason) for row, reason in reasons.items()]
    place = f"split {source.split!r} of {source.images.table.path}"
    if options.on_corrupt == "raise":
        raise verify.corrupt_error(place, problems)
    rows = source.rows[~np.isin(source.rows, corrupt)]
    for task, targets in zip(source.tasks, source.targets, strict=True):
        lost = label_columns.present(task, targets, source.rows) & ~label_columns.present(
            task, targets, rows
        )
        if lost.any() or not len(rows):
            names = [task.class_names[label] for label in np.flatnonzero(lost)]
            raise ValueError(
                f"no image of {place} can be decoded in the classes {messages.some(names)} of "
                f"{task.name!r}; replace the files, or remove the classes everywhere"
            )
    return dataclasses.replace(source, rows=rows, skipped=tuple(problems))

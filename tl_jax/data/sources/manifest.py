"""The source of images that a table lists, with their labels: CSV, JSONL or Parquet."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.images import decode, verify
from tl_jax.data.source import Example, Source, Task, check_tasks
from tl_jax.data.sources import label_columns, tables
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"on_corrupt", "labels", "image_column"})
IMAGE_COLUMNS = ("image", "path", "file", "file_name")
SPLIT_COLUMN = "split"

_SLICE_SEED = 0

# The task of a column, and the labels of all rows.
Labels = tuple[Task, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ImageColumn:
    """The column of a table that holds the images.

    Attributes:
      table: the table, without its columns.
      cells: a path, bytes, or a dict of `bytes` and `path` for each row.
    """

    table: tables.Table
    cells: tables.Cells

    def content(self, row: int) -> tuple[Path | bytes, str]:
        """Returns the file or the bytes of a row's image, and its name.

        The name is the path of the file, or the row: "row 3 of birds.parquet".

        Raises:
          ValueError: if the cell holds no image.
        """
        cell = self.cells[row]
        value = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
        if isinstance(value, bytes) and value:
            return value, self._place(row)
        if isinstance(value, str) and value:
            path = self.table.path.parent / value
            return path, str(path)
        raise ValueError(f"{self.table.place(row)}: got {cell!r}; expected a path or bytes")

    def key(self, row: int) -> str:
        """Returns a name of a row's image that is the same on every machine."""
        cell = self.cells[row]
        return cell if isinstance(cell, str) else self._place(row)

    def _place(self, row: int) -> str:
        return f"{self.table.place(row)} of {self.table.path.name}"


@dataclasses.dataclass(frozen=True)
class ManifestSource(Source):
    """One split of a table of images.

    Examples hold `image`, `label`, the labels of further tasks, and `path` (of the file, or the row
    of the table).

    Attributes:
      name, split, tasks, skipped: as in `Source`.
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

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        content, name = self.images.content(row)
        return {"image": decode.decode(content, name=name), **self._labels(row), "path": name}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets[0][self.rows]

    def encoded(self, index: int) -> tuple[bytes, Example]:
        """As in `Source`."""
        row = int(self.rows[index])
        content, name = self.images.content(row)
        data = content.read_bytes() if isinstance(content, Path) else content
        return data, {**self._labels(row), "path": name}

    def _labels(self, row: int) -> Example:
        return {
            "label" if number == 0 else task.name: (
                values[row] if task.multi_label else int(values[row])
            )
            for number, (task, values) in enumerate(zip(self.tasks, self.targets, strict=True))
        }


def open(address: str, split: str, options: OpenOptions) -> ManifestSource:
    """Opens a split of the images that a table lists, and decodes each of them once.

    Each row is an image. Its cell in the column `image` (or `path`, `file`, `file_name`) is the
    path of a file, absolute or relative to the table's folder; in Parquet also its bytes, or a
    struct of `bytes` and `path` as Hugging Face's library writes it (bytes are kept in memory).

    A label is a name or a whole number; an empty cell is a missing label. A list in any cell of a
    column (in CSV: names with `|` between them, a single `|` for an empty list) makes it a
    multi-label task. The classes are those of the whole table, sorted: by name, or as numbers if
    all are numbers.

    The column `split` gives the splits. Without one there are `train` and `validation`, held out
    class by class (label set by label set of a multi-label task); rows of one file stay together.
    Slices are written as in TFDS and cut from an order hashed from the images' names.

    Args:
      address: the table: .csv, .tsv, .jsonl or .parquet.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: all of them are used; the default of `labels` is the column `label`.

    Raises:
      FileNotFoundError: if there is no such table.
      ValueError: if it cannot be read; a column or split is unknown; a file is missing; a label is
        not a name; the training split lacks a class. All such rows are listed together.
      CorruptImageError: if images cannot be decoded.
    """
    path = Path(address).expanduser()
    table = tables.read(path)
    image_column = _image_column(table, options.image_column)
    labels = []
    for column in options.labels or ("label",):
        _check_column(table, column)
        labels.append(label_columns.encode(table, column))
    tasks = tuple(task for task, _ in labels)
    check_tasks(str(path), tasks)
    # The table's other columns are dropped: those of Parquet could not be sent to processes.
    images = ImageColumn(dataclasses.replace(table, columns={}), table.columns[image_column])
    if SPLIT_COLUMN in table.columns:
        rows_by_split = _named_splits(table)
    else:
        rows_by_split = _held_out(images, labels[0], options)
    _check_training_split(table, rows_by_split, labels)
    source = ManifestSource(
        name=f"manifest:{path}",
        split=split,
        tasks=tasks,
        images=images,
        rows=_select_rows(split, rows_by_split, images),
        targets=tuple(targets for _, targets in labels),
    )
    _check_files(source)
    return _without_corrupt(source, options) if options.verify else source


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names in the column `split`, or of the splits that are held out."""
    del options
    columns = tables.read(Path(address).expanduser()).columns
    if SPLIT_COLUMN not in columns:
        return ("train", "validation")
    names = (str(value).strip() for value in columns[SPLIT_COLUMN] if value)
    return tuple(dict.fromkeys(map(splits.canonical_name, names)))


def _image_column(table: tables.Table, name: str | None) -> str:
    if name is not None:
        _check_column(table, name)
        return name
    for name in IMAGE_COLUMNS:
        if name in table.columns:
            return name
    raise ValueError(
        f"{table.path} has the columns {messages.some(list(table.columns))}; expected the images "
        f"in one called {', '.join(IMAGE_COLUMNS)}, or its name as image_column"
    )


def _check_column(table: tables.Table, column: str) -> None:
    if column not in table.columns:
        raise ValueError(
            f"no column {column!r} in {table.path}; it has {messages.some(list(table.columns))}"
            f"{messages.hint(column, table.columns)}"
        )


def _named_splits(table: tables.Table) -> dict[str, np.ndarray]:
    """Returns the rows of each split that the table names."""
    names = [str(value).strip() if value else "" for value in table.columns[SPLIT_COLUMN]]
    empty = [table.place(row) for row, name in enumerate(names) if not name]
    if empty:
        raise ValueError(
            messages.report(
                f"{len(empty)} rows of {table.path} have no split:",
                empty,
                "fill the column 'split' (train, validation, test ...), or remove the whole column",
            )
        )
    canonical = np.asarray([splits.canonical_name(name) for name in names])
    return {str(name): np.flatnonzero(canonical == name) for name in dict.fromkeys(canonical)}


def _held_out(images: ImageColumn, labels: Labels, options: OpenOptions) -> dict[str, np.ndarray]:
    """Returns the rows of the training and validation splits, held out by label.

    All rows of one file are in the same part; the label of its first row is its stratum.
    """
    fraction = options.validation_fraction
    splits.check_fraction(fraction, name="validation_fraction")
    (task, targets), table = labels, images.table
    rows_by_file: dict[str, list[int]] = {}
    for row in range(len(table)):
        rows_by_file.setdefault(images.key(row), []).append(row)
    strata: dict[tuple[int, ...], list[str]] = {}
    for key, rows in rows_by_file.items():
        strata.setdefault(tuple(np.atleast_1d(targets[rows[0]]).tolist()), []).append(key)
    classes = set() if task.multi_label else strata.keys() - {(-1,)}
    single = [
        f"{table.place(rows_by_file[strata[label][0]][0])}: the only image of class "
        f"{task.class_names[label[0]]!r}"
        for label in sorted(classes)
        if len(strata[label]) < 2
    ]
    if single:
        raise ValueError(
            messages.report(
                f"{len(single)} classes of {table.path} have one image:",
                single,
                "a class needs two, one to train on and one to hold out; or write a column 'split'",
            )
        )
    rows_by_split: dict[str, list[int]] = {"train": [], "validation": []}
    for label, keys in sorted(strata.items()):
        parts = splits.hold_out(
            keys, fraction=fraction, seed=options.seed, nonempty=label in classes
        )
        for rows, part in zip(rows_by_split.values(), parts, strict=True):
            rows += [row for key in part for row in rows_by_file[key]]
    return {split: np.sort(np.asarray(rows, np.int64)) for split, rows in rows_by_split.items()}


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


def _select_rows(
    spec: str, rows_by_split: Mapping[str, np.ndarray], images: ImageColumn
) -> np.ndarray:
    """Returns the rows that a split's specification selects, slice by slice, each in order."""
    sizes = {name: len(rows) for name, rows in rows_by_split.items()}
    if spec not in sizes:
        spec = splits.canonical_name(spec)
    selected = []
    for split, positions in splits.select(spec, sizes, name=f"manifest:{images.table.path}"):
        rows = rows_by_split[split]
        if len(positions) < len(rows):
            row_of = {f"{images.key(row)}#{row}": row for row in rows}
            order = splits.shuffled(row_of, seed=_SLICE_SEED)
            rows = np.sort([row_of[key] for key in order[positions.start : positions.stop]])
        selected.append(rows)
    return np.concatenate(selected).astype(np.int64)


def _check_files(source: ManifestSource) -> None:
    table, problems = source.images.table, []
    for row in source.rows.tolist():
        try:
            content, _ = source.images.content(row)
        except ValueError as error:
            problems.append(str(error))
        else:
            if isinstance(content, Path) and not content.is_file():
                problems.append(f"{table.place(row)}: no file {content}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} images in split {source.split!r} of {table.path} are missing:",
                problems,
                f"paths are relative to {table.path.parent.resolve()}; fix or remove these rows",
            )
        )


def _without_corrupt(source: ManifestSource, options: OpenOptions) -> ManifestSource:
    """Returns a source without the images that cannot be decoded, as `on_corrupt` says."""
    images, table = source.images, source.images.table
    record = verify.record_path(table.path, options.local_data_dir)
    paths: dict[int, Path] = {}
    packed = []
    for row in source.rows.tolist():
        content, _ = images.content(row)
        if isinstance(content, Path):
            paths[row] = content
        else:
            packed.append(row)
    in_files = verify.corrupt_files(list(dict.fromkeys(paths.values())), record)
    in_table = verify.corrupt_rows(
        table.path,
        packed,
        lambda row: images.content(row)[0],
        record.with_name(f"{record.stem}-bytes.json"),
    )
    reasons = {row: in_files[path] for row, path in paths.items() if path in in_files} | in_table
    if not reasons:
        return source
    corrupt = sorted(reasons)
    problems = [
        f"{table.place(row)}{f' ({paths[row]})' if row in paths else ''}: {reasons[row]}"
        for row in corrupt
    ]
    place = f"split {source.split!r} of {table.path}"
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

"""The source of images that a table lists, with their labels: CSV, JSONL or Parquet."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import slices
from tl_jax.data.images import decode, verify
from tl_jax.data.partition import check_fraction, hold_out, shuffled
from tl_jax.data.source import Example, Task, check_tasks
from tl_jax.data.sources import tables
from tl_jax.data.sources.folder import VALIDATION_NAMES, OnCorrupt, record_of, split_called
from tl_jax.data.sources.label_columns import encode, present

IMAGE_COLUMNS = ("image", "path", "file", "file_name")
SPLIT_COLUMN = "split"
_SLICE_SEED = 0


@dataclasses.dataclass(frozen=True)
class ManifestSource:
    """One split of a table of images.

    Examples hold `image`, `label`, the labels of further tasks, and `path` (of the file, or what
    the table calls the image).

    Attributes:
      name, split, tasks, skipped: as in `Source`.
      table: the file, without its columns.
      images: the cells that hold the images: paths, bytes, or structs of both.
      rows: int64 [N], the rows that the split holds, from 0.
      targets: for each task the labels of all rows: int32, or int8 [rows, classes].
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    table: tables.Table
    images: Sequence[Any]
    rows: np.ndarray
    targets: tuple[np.ndarray, ...]
    skipped: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in `Source`."""
        return self.tasks[0].class_names

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets[0][self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        data, name = self._data(index)
        return {"image": decode.decode(data, name=name), **self._facts(index, name)}

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """As in `EncodedSource`."""
        data, name = self._data(index)
        content = data.read_bytes() if isinstance(data, Path) else data
        return content, self._facts(index, name)

    def _data(self, index: int) -> tuple[Path | bytes, str]:
        row = int(self.rows[index])
        data = _content(self.table, self.images[row])
        return data, str(data) if isinstance(data, Path) else _title(self.table, row)

    def _facts(self, index: int, name: str) -> dict[str, Any]:
        row = self.rows[index]
        labels = {
            task.name: values[row] if task.multi_label else int(values[row])
            for task, values in zip(self.tasks, self.targets, strict=True)
        }
        main = labels.pop(self.tasks[0].name)
        return {"label": main, **labels, "path": name}


def open_manifest(
    path: Path,
    split: str,
    *,
    seed: int,
    validation_fraction: float,
    labels: Sequence[str] = ("label",),
    image_column: str | None = None,
    on_corrupt: OnCorrupt = "raise",
    data_dir: Path | None = None,
) -> ManifestSource:
    """Opens a split of the images that a table lists, and decodes every one of them once.

    A row is an image. Its cell in the column `image` (or `path`, `file`, `file_name`) is the path
    of a file, absolute or from the table's folder; in Parquet also its bytes, or a struct of
    `bytes` and `path` as Hugging Face's library writes it (bytes are kept in memory).

    A label is a name or a whole number; an empty cell is a missing label. A list in any cell of a
    column (in CSV: names with `|` between them, a mere `|` for none) makes it a multi-label task.
    The classes are those of the whole table, sorted: by name, or by number if all are numbers.

    The column `split` gives the splits. Without one there are `train` and `validation`, held out
    class by class (set by set of a multi-label task); rows of one file stay together. Slices are
    written as in TFDS and cut from an order hashed from the images' names.

    Args:
      path: the table: .csv, .tsv, .jsonl or .parquet.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      seed: chooses the rows held out of a table without splits.
      validation_fraction: part of each class held out of a table without splits.
      labels: the columns of labels, that of the main task first.
      image_column: the column of images, if it is called otherwise.
      on_corrupt: "raise", or "skip" to leave out what cannot be decoded and list it in `skipped`.
      data_dir: where to remember which images were found good; the default is the user's cache.

    Raises:
      FileNotFoundError: if there is no such table.
      ValueError: if it cannot be read; a column or split is unknown; a file is missing; a label is
        no name; the training split lacks a class. All rows at fault are listed together.
      CorruptImageError: if images cannot be decoded.
    """
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(f"got on_corrupt={on_corrupt!r}; expected 'raise' or 'skip'")
    table = tables.read(path)
    images = table.columns[_image_column(table, image_column)]
    for column in labels:
        _check_column(table, column)
    encoded = [encode(table, column) for column in labels]
    tasks = tuple(task for task, _ in encoded)
    check_tasks(str(path), tasks)
    splits = _splits(table, images, encoded[0], seed=seed, fraction=validation_fraction)
    _check_training(table, splits, encoded)
    # Columns of no further use are let go; those of Parquet would not go to other processes either.
    facts = dataclasses.replace(table, columns={})
    targets = tuple(labels for _, labels in encoded)
    whole = ManifestSource(f"manifest:{path}", split, tasks, facts, images, np.arange(0), targets)
    chosen = dataclasses.replace(whole, rows=_select(whole, split, splits))
    _check_files(chosen)
    return _without_corrupt(chosen, on_corrupt, data_dir)


def _image_column(table: tables.Table, named: str | None) -> str:
    if named is not None:
        _check_column(table, named)
        return named
    found = [name for name in IMAGE_COLUMNS if name in table.columns]
    if not found:
        raise ValueError(
            f"{table.path} has the columns {messages.some(list(table.columns))}; expected the "
            f"images in one called {', '.join(IMAGE_COLUMNS)}, or its name as image_column"
        )
    return found[0]


def _check_column(table: tables.Table, column: str) -> None:
    if column not in table.columns:
        raise ValueError(
            f"no column {column!r} in {table.path}; it has {messages.some(list(table.columns))}"
            f"{messages.hint(column, table.columns)}"
        )


def _splits(
    table: tables.Table,
    images: Sequence[Any],
    main: tuple[Task, np.ndarray],
    *,
    seed: int,
    fraction: float,
) -> dict[str, np.ndarray]:
    """Returns the rows of each split."""
    if SPLIT_COLUMN not in table.columns:
        return _held_out(table, images, main, seed=seed, fraction=fraction)
    names = [str(value).strip() if value else "" for value in table.columns[SPLIT_COLUMN]]
    empty = [table.place(row) for row, name in enumerate(names) if not name]
    if empty:
        raise ValueError(
            messages.report(
                f"{len(empty)} rows of {table.path} are of no split:",
                empty,
                "fill the column 'split' (train, validation, test ...), or remove it as a whole",
            )
        )
    kinds = np.asarray([split_called(name) for name in names])
    return {str(name): np.flatnonzero(kinds == name) for name in dict.fromkeys(kinds)}


def _held_out(
    table: tables.Table,
    images: Sequence[Any],
    main: tuple[Task, np.ndarray],
    *,
    seed: int,
    fraction: float,
) -> dict[str, np.ndarray]:
    """Holds rows out by label. The rows of one file go one way, that of the first one's label."""
    check_fraction(fraction, name="validation_fraction")
    task, targets = main
    files: dict[str, list[int]] = {}
    for row in range(len(table)):
        files.setdefault(_identity(table, images, row), []).append(row)
    strata: dict[tuple[int, ...], list[str]] = {}
    for name, rows in files.items():
        strata.setdefault(tuple(np.atleast_1d(targets[rows[0]]).tolist()), []).append(name)
    whole = set() if task.multi_label else {key for key in strata if key != (-1,)}
    lonely = [
        f"{table.place(files[strata[key][0]][0])}: the only image of class "
        f"{task.class_names[key[0]]!r}"
        for key in sorted(whole)
        if len(strata[key]) < 2
    ]
    if lonely:
        raise ValueError(
            messages.report(
                f"{len(lonely)} classes of {table.path} have one image:",
                lonely,
                "a class needs two, one to train on and one to hold out; or write a column 'split'",
            )
        )
    dealt = [
        hold_out(names, fraction=fraction, seed=seed, both=key in whole)
        for key, names in sorted(strata.items())
    ]
    train, held = (
        np.sort([row for pair in dealt for name in pair[side] for row in files[name]])
        for side in (0, 1)
    )
    return {"train": train.astype(np.int64), "validation": held.astype(np.int64)}


def _identity(table: tables.Table, images: Sequence[Any], row: int) -> str:
    """Returns what an image is called, the same on every machine."""
    cell = images[row]
    return cell if isinstance(cell, str) else _title(table, row)


def _title(table: tables.Table, row: int) -> str:
    return f"{table.place(row)} of {table.path.name}"


def _check_training(
    table: tables.Table,
    splits: Mapping[str, np.ndarray],
    encoded: Sequence[tuple[Task, np.ndarray]],
) -> None:
    """Checks that every class has an example to learn from, if there is a training split."""
    problems = []
    for task, targets in encoded if "train" in splits else ():
        for label in np.flatnonzero(~present(task, targets, splits["train"])):
            has = (targets[:, label] == 1) if task.multi_label else (targets == label)
            where = f"; {table.place(int(has.argmax()))} has it" if has.any() else ""
            problems.append(f"class {task.class_names[label]!r} of {task.name!r}{where}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} classes have no row in the training split of {table.path}:",
                problems,
                "give some of their rows to it, rename them, or remove them",
            )
        )


def _select(whole: ManifestSource, spec: str, splits: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the rows that a split's specification selects, in their order, part by part."""
    sizes = {name: len(rows) for name, rows in splits.items()}
    if spec in VALIDATION_NAMES and spec not in sizes:
        spec = "validation"
    chosen = []
    for split, positions in slices.select(spec, sizes, name=whole.name):
        rows = splits[split]
        if len(positions) < len(rows):
            names = {f"{_identity(whole.table, whole.images, row)}#{row}": row for row in rows}
            order = shuffled(list(names), seed=_SLICE_SEED)[positions.start : positions.stop]
            rows = np.sort([names[name] for name in order])
        chosen.append(rows)
    return np.concatenate(chosen).astype(np.int64)


def _content(table: tables.Table, cell: Any) -> Path | bytes | None:
    """Returns the file or the bytes that a cell stands for; None if it is no image."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) or not cell:
        return cell or None
    return table.path.parent / cell if isinstance(cell, str) else None


def _check_files(source: ManifestSource) -> None:
    problems = []
    for row in source.rows:
        data = _content(source.table, source.images[row])
        if data is None:
            problems.append(f"{source.table.place(row)}: no image, but {source.images[row]!r}")
        elif isinstance(data, Path) and not data.is_file():
            problems.append(f"{source.table.place(row)}: no file {data}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} images in split {source.split!r} of {source.table.path} are "
                "missing:",
                problems,
                f"paths count from {source.table.path.parent.resolve()}; mend or remove these rows",
            )
        )


def _without_corrupt(
    source: ManifestSource, on_corrupt: OnCorrupt, data_dir: Path | None
) -> ManifestSource:
    corrupt = _corrupt(source, record_of(source.table.path, data_dir))
    if not corrupt:
        return source
    problems = [f"{_shown(source, row)}: {reason}" for row, reason in corrupt.items()]
    where = f"split {source.split!r} of {source.table.path}"
    if on_corrupt == "raise":
        raise decode.CorruptImageError(
            messages.report(
                f"{len(problems)} images in {where} cannot be decoded:",
                problems,
                "replace or remove them, or leave them out with data.on_corrupt='skip'",
            )
        )
    rows = np.asarray([row for row in source.rows if int(row) not in corrupt], np.int64)
    for task, targets in zip(source.tasks, source.targets, strict=True):
        lost = present(task, targets, source.rows) & ~present(task, targets, rows)
        if lost.any() or not len(rows):
            names = [task.class_names[label] for label in np.flatnonzero(lost)]
            raise ValueError(
                f"no image of {where} can be decoded in the classes {messages.some(names)} of "
                f"{task.name!r}; replace the files, or remove the classes everywhere"
            )
    return dataclasses.replace(source, rows=rows, skipped=tuple(problems))


def _shown(source: ManifestSource, row: int) -> str:
    place, data = source.table.place(row), _content(source.table, source.images[row])
    return f"{place} ({data})" if isinstance(data, Path) else place


def _corrupt(source: ManifestSource, record: Path) -> dict[int, str]:
    """Returns the rows whose image cannot be decoded, each with the reason."""
    paths: dict[int, Path] = {}
    packed = []
    for row in source.rows.tolist():
        data = _content(source.table, source.images[row])
        if isinstance(data, Path):
            paths[row] = data
        else:
            packed.append(row)
    reasons = verify.find_corrupt(list(dict.fromkeys(paths.values())), record)
    found = {row: reasons[path] for row, path in paths.items() if path in reasons}
    found |= verify.find_corrupt_rows(
        source.table.path,
        packed,
        lambda row: _content(source.table, source.images[row]),
        record.with_name(f"{record.stem}-bytes.json"),
    )
    return dict(sorted(found.items()))

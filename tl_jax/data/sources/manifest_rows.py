"""The rows of a manifest: which of them are one picture, and how they are held out and cut."""

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.class_names import printable
from tl_jax.data.source import Task
from tl_jax.data.sources import tables
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.options import OpenOptions

Labels = tuple[Task, np.ndarray]
"""The task of a column, and the labels of all rows."""


def picture_names(images: ImageColumn, *, read_bytes: bool) -> list[str]:
    """Returns a name for the picture of each row; rows with the same name are the same picture.

    A file has the name of its shortest path, as the table has it but without detours ("./a.jpg",
    "x/../a.jpg", the table's own folder, a link). It is the same on every machine.

    Args:
      images: the column.
      read_bytes: name pictures in the table itself by a hash of their bytes, instead of their rows.
    """
    names, by_file = [], dict[object, str]()
    file_ids = list[object]()
    for row in range(len(images.table)):
        path = images.path(row)
        if path is None:
            names.append(images.bytes_name(row) if read_bytes else images.place(row))
            file_ids.append(names[-1])
            continue
        name = _plain_name(path, images.table.folder)
        file_id = _file_id(path) or name
        names.append(name)
        file_ids.append(file_id)
        by_file[file_id] = min(by_file.get(file_id, name), name, key=lambda n: (len(n), n))
    return [by_file.get(each, name) for each, name in zip(file_ids, names, strict=True)]


def _plain_name(path: Path, folder: Path) -> str:
    # `normpath` removes "x/.." by the names alone, as the table's writer meant it.
    plain, base = Path(os.path.normpath(path)), Path(os.path.normpath(folder))
    name = plain.relative_to(base) if plain.is_relative_to(base) else plain
    return printable(unicodedata.normalize("NFC", name.as_posix()))


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def check_pictures(
    images: ImageColumn,
    names: Sequence[str],
    labels: Sequence[Labels],
    rows_by_split: Mapping[str, np.ndarray],
) -> tuple[str, ...]:
    """Checks that rows of one file have the same labels, and are in one split.

    Returns:
      A note on how many rows name a picture that an earlier row names.

    Raises:
      ValueError: if not; the rows are listed.
    """
    table = images.table
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if images.path(row) is not None:
            rows_of.setdefault(name, []).append(row)
    repeated = {name: rows for name, rows in rows_of.items() if len(rows) > 1}
    if not repeated:
        return ()
    split_of = {
        int(row): split
        for split, rows in rows_by_split.items()
        if splits.is_split_name(split)
        for row in rows
    }
    other_labels, other_splits = [], []
    for name, rows in repeated.items():
        places = f"{name}: {messages.some([table.place(row) for row in rows], quoted=False)}"
        if any(differ(targets[rows]) for _, targets in labels):
            other_labels.append(places)
        if len({split_of[row] for row in rows if row in split_of}) > 1:
            other_splits.append(places)
    if other_labels:
        raise ValueError(
            messages.report(
                f"{len(other_labels)} pictures of {table.path} have rows with different labels:",
                other_labels,
                "one picture has one label: remove the wrong rows, or write the classes of a "
                "picture as a list in one row",
            )
        )
    if other_splits:
        raise ValueError(
            messages.report(
                f"{len(other_splits)} pictures of {table.path} are in two splits:",
                other_splits,
                "keep each picture in one of train, validation and test: what is trained on "
                "cannot measure",
            )
        )
    count = sum(len(rows) - 1 for rows in repeated.values())
    return (f"{count} rows of {table.path.name} name a picture that an earlier row names",)


def differ(labels: np.ndarray) -> bool:
    """Returns whether labels [N] or [N, classes] contradict each other.

    What is missing, -1 or of floats NaN, contradicts nothing.
    """
    columns = labels.reshape(len(labels), -1).T
    is_known = ~np.isnan(columns) if columns.dtype.kind == "f" else columns >= 0
    return any(
        len(np.unique(column[known])) > 1 for column, known in zip(columns, is_known, strict=True)
    )


def hold_out(
    table: tables.Table,
    names: Sequence[str],
    labels: Labels,
    options: OpenOptions,
    *,
    corrupt: Sequence[int],
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Divides rows into a training and a validation split; each class has a picture in both.

    All rows of one picture are on one side. Corrupt rows are left out before.

    Returns:
      The rows of each split, and the corrupt rows that would be in each split.

    Raises:
      ValueError: if a class has a single picture.
    """
    fraction = options.validation_fraction
    splits.check_fraction(fraction, name="validation_fraction")
    task, targets = labels
    bad = set(corrupt)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if row not in bad:
            rows_of.setdefault(name, []).append(row)
    strata: dict[int, list[str]] = {}
    has_classes = task.kind in ("multi_class", "ordinal")
    for name, rows in rows_of.items():
        known = [int(each) for each in targets[rows] if each >= 0] if has_classes else []
        strata.setdefault((known[0] if known else -1) if has_classes else 0, []).append(name)
    _check_two_each(table, task, strata, rows_of)
    held: dict[str, list[int]] = {split: [] for split in splits.HELD_OUT}
    for label, members in strata.items():
        parts = splits.hold_out(
            members,
            fraction=fraction,
            seed=options.seed,
            nonempty=label >= 0 and len(members) > 1,
        )
        for split, part in zip(splits.HELD_OUT, parts, strict=True):
            held[split] += [row for name in part for row in rows_of[name]]
    sides = splits.hold_out(
        list(dict.fromkeys(names[row] for row in corrupt)),
        fraction=fraction,
        seed=options.seed,
        nonempty=False,
    )
    skipped = {
        split: [row for row in corrupt if names[row] in set(side)]
        for split, side in zip(splits.HELD_OUT, sides, strict=True)
    }
    return {s: np.sort(np.asarray(rows, np.int64)) for s, rows in held.items()}, skipped


def _check_two_each(
    table: tables.Table,
    task: Task,
    strata: Mapping[int, Sequence[str]],
    rows_of: Mapping[str, Sequence[int]],
) -> None:
    if task.kind not in ("multi_class", "ordinal"):
        return
    single = [
        f"{table.place(rows_of[names[0]][0])}: the only image of class {task.class_names[label]!r}"
        for label, names in sorted(strata.items())
        if label >= 0 and len(names) < 2
    ]
    if single:
        raise ValueError(
            messages.report(
                f"{len(single)} classes of {table.path} have one image:",
                single,
                "a class needs two, one to train on and one to hold out; or write a column 'split'",
            )
        )


def select(
    spec: str,
    rows_by_split: Mapping[str, np.ndarray],
    key_of: Callable[[int], str],
    names: Sequence[str],
    spelled: Mapping[str, str],
    *,
    place: str,
) -> np.ndarray:
    """Returns the rows that a split's specification selects, slice by slice, each in order.

    All rows of a picture are in the slice that has the first of them.

    Args:
      spec: the specification.
      rows_by_split: the rows of each split.
      key_of: returns what the table has for a row's picture, by which slices are ordered.
      names: a name for the picture of each row.
      spelled: how the table writes the splits.
      place: name of the set.
    """
    sizes = {name: len(rows) for name, rows in rows_by_split.items()}
    selected = []
    for split, positions in splits.select(spec, sizes, name=place, spelled=spelled):
        rows = rows_by_split[split]
        if len(positions) < len(rows):
            row_of = {f"{key_of(row)}#{row}": int(row) for row in rows}
            first: dict[str, int] = {}
            places = {}
            for place_in_order, key in enumerate(splits.shuffled(row_of, seed=splits.SLICE_SEED)):
                row = row_of[key]
                places[row] = first.setdefault(names[row], place_in_order)
            rows = np.asarray([row for row in rows if places[int(row)] in positions], np.int64)
        selected.append(rows)
    chosen = np.concatenate(selected).astype(np.int64)
    splits.check_not_empty(spec, len(chosen), name=place)
    return chosen

"""The objects of a manifest that have several images: columns of a row, or rows of a group."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names, inputs
from tl_jax.data.sources import manifest_rows, tables
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.manifest_rows import Labels


@dataclasses.dataclass(frozen=True)
class Objects:
    """What the examples of a table are, if one example has several images.

    Attributes:
      table: the objects as rows: a table without columns whose places name rows or groups.
      images: the images of all objects, one after the other, as one column.
      members: the positions in `images` of each object's views, -1 where a view is missing.
      rows: the rows of the file that each object has.
      keys: what the file has for each object: its group, or the path of its first image.
      is_grouped: whether objects are groups of rows.
      views: largest number of views.
    """

    table: tables.Table
    images: ImageColumn
    members: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    keys: tuple[str, ...]
    is_grouped: bool
    views: int

    @property
    def owners(self) -> np.ndarray:
        """The object of each image: int64 [images]."""
        owners = np.full(len(self.images.cells), -1)
        for number, places in enumerate(self.members):
            owners[[place for place in places if place >= 0]] = number
        return owners

    def present(self, number: int) -> list[int]:
        """Returns the positions in `images` of the views that an object has."""
        return [place for place in self.members[number] if place >= 0]

    def without(self, corrupt: Sequence[int]) -> "Objects":
        """Returns the objects without some images: these views are missing."""
        bad = set(corrupt)
        members = tuple(
            tuple(-1 if place in bad else place for place in places) for places in self.members
        )
        return dataclasses.replace(self, members=members)


class _Picked:
    """Cells of several columns, in any order; each is copied when it is read."""

    def __init__(self, columns: Sequence[tables.Cells], places: Sequence[tuple[int, int]]) -> None:
        self._columns, self._places = columns, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> Any:
        column, row = self._places[index]
        return self._columns[column][row]


def find(
    table: tables.Table,
    image_columns: Sequence[str],
    group: str | None,
    *,
    views: int | None,
) -> tuple[Objects, tuple[str, ...]]:
    """Returns the objects of a table, and notes on what was decided.

    Without a group each row is an object and each column a view at its own place. The views of a
    group are those of its rows, one after the other, without the empty cells.

    Args:
      table: the table.
      image_columns: the columns of images.
      group: the column that names the group of each row, or None.
      views: largest number of views; None: as many as there are. Of a group with more, as many are
        taken, evenly spaced.

    Raises:
      ValueError: if an object has no image, or a row no group.
    """
    columns = [table.columns[name] for name in image_columns]
    names, rows = _groups(table, group)
    places: list[tuple[int, int]] = []
    members, num_cut, empty = [], 0, []
    for number, own in enumerate(rows):
        found = [(c, row) for row in own for c in range(len(columns))]
        found = [each if _has_image(columns[each[0]][each[1]]) else (-1, -1) for each in found]
        if group is not None:
            found = [each for each in found if each[0] >= 0]
            if views is not None and len(found) > views:
                spaced = np.linspace(0, len(found) - 1, views).round().astype(int)
                found, num_cut = [found[place] for place in spaced], num_cut + 1
        if not any(column >= 0 for column, _ in found):
            empty.append(f"group {names[number]!r}" if group else table.place(own[0]))
        members.append(_numbered(found, len(places)))
        places += [each for each in found if each[0] >= 0]
    if empty:
        raise ValueError(
            messages.report(
                f"{len(empty)} objects of {table.path} have no image:",
                empty,
                "an object needs one view at least: fill in one of the columns "
                f"{messages.some(image_columns)}, or remove these rows",
            )
        )
    bare = dataclasses.replace(table, columns={})
    numbers = [table.numbers[row] for _, row in places]
    images = ImageColumn(
        dataclasses.replace(bare, numbers=numbers),
        _Picked(columns, places),
        name=f"{'|'.join(image_columns)} by {group} up to {views}",
    )
    objects = Objects(
        table=dataclasses.replace(bare, unit="group", numbers=[repr(name) for name in names])
        if group is not None
        else bare,
        images=images,
        members=tuple(members),
        rows=rows,
        keys=names
        if group is not None
        else tuple(images.key(min(p for p in own if p >= 0)) for own in members),
        is_grouped=group is not None,
        views=max(map(len, members)) if views is None else views,
    )
    return objects, _notes(table, objects, image_columns, group, num_cut)


def _groups(
    table: tables.Table, group: str | None
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Returns the names of the groups in the order in which they begin, and the rows of each."""
    if group is None:
        return (), tuple((row,) for row in range(len(table)))
    rows_of: dict[str, list[int]] = {}
    nameless = []
    for row, cell in enumerate(table.columns[group]):
        number = isinstance(cell, float) and cell.is_integer()
        name = class_names.tidy(str(int(cell) if number else cell))
        if cell is None or cell != cell or not name:
            nameless.append(table.place(row))
        rows_of.setdefault(name, []).append(row)
    if nameless:
        raise ValueError(
            messages.report(
                f"{len(nameless)} rows of {table.path} have no group:",
                nameless,
                f"fill the column {group!r}: rows with the same name are views of one object",
            )
        )
    return tuple(rows_of), tuple(tuple(rows) for rows in rows_of.values())


def _has_image(cell: Any) -> bool:
    if isinstance(cell, dict):
        return bool(cell.get("bytes") or cell.get("path"))
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None and cell == cell


def _numbered(found: Sequence[tuple[int, int]], first: int) -> tuple[int, ...]:
    """Returns consecutive numbers from `first` on for the cells that have images, and -1."""
    numbers = iter(range(first, first + len(found)))
    return tuple(next(numbers) if column >= 0 else -1 for column, _ in found)


def _notes(
    table: tables.Table,
    objects: Objects,
    image_columns: Sequence[str],
    group: str | None,
    num_cut: int,
) -> tuple[str, ...]:
    """Says what the objects are, and which views they lack."""
    count = len(objects.members)
    if group is None:
        missing = sum(place < 0 for places in objects.members for place in places)
        said = [f"the columns {messages.some(image_columns)} are views of one object"]
        if missing:
            said.append(f"{missing} of {count * len(image_columns)} views are missing")
        return tuple(said)
    sizes = [len(places) for places in objects.members]
    between = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
    said = [f"{count} groups of the column {group!r} are objects of {between} views"]
    if num_cut:
        said.append(
            f"{num_cut} groups have more than {objects.views} images: {objects.views} are taken, "
            "evenly spaced"
        )
    return tuple(said)


def labels_of(objects: Objects, labels: Sequence[Labels]) -> list[Labels]:
    """Returns the labels of objects, from those of the rows of a table.

    Raises:
      ValueError: if rows of one object have different labels; the groups are listed.
    """
    joined = []
    for task, targets in labels:
        different = [
            f"{objects.table.place(number)}"
            for number, rows in enumerate(objects.rows)
            if len(rows) > 1 and manifest_rows.differ(targets[list(rows)])
        ]
        if different:
            raise ValueError(
                messages.report(
                    f"{len(different)} groups of {objects.table.path} have rows with different "
                    f"labels {task.name!r}:",
                    different,
                    "the rows of a group are views of one object and have one label: correct or "
                    "empty the wrong cells",
                )
            )
        joined.append((task, _joined(targets, objects)))
    return joined


def _joined(values: np.ndarray, objects: Objects) -> np.ndarray:
    """Returns for each object the values of its first row that has any, of rows that agree."""
    # The larger of two values is the one that is known: what is missing is NaN or -1.
    larger = np.fmax if values.dtype.kind == "f" else np.maximum
    chosen = [larger.reduce(values[list(rows)]) for rows in objects.rows]
    return np.asarray(chosen, values.dtype)


def columns_of(objects: Objects, columns: inputs.Columns) -> inputs.Columns:
    """Returns the further inputs of objects, from those of the rows of a table.

    Raises:
      ValueError: if rows of one object have different values; the groups are listed.
    """

    def names(column: str, values: inputs.Texts) -> list[str | None]:
        joined: list[str | None] = []
        different = []
        for number, rows in enumerate(objects.rows):
            present = {value for row in rows if (value := values[row])}
            different += [objects.table.place(number)] * (len(present) > 1)
            joined.append(next(iter(present), None))
        check(column, different)
        return joined

    def numbers(column: str, values: np.ndarray) -> np.ndarray:
        differing = [manifest_rows.differ(values[list(rows)]) for rows in objects.rows]
        check(column, [objects.table.place(int(n)) for n in np.flatnonzero(differing)])
        return _joined(values, objects)

    def check(column: str, different: Sequence[str]) -> None:
        if different:
            raise ValueError(
                messages.report(
                    f"{len(different)} groups of {objects.table.path} have rows with different "
                    f"values of {column!r}:",
                    different,
                    "an input is one of the whole object: correct or empty the wrong cells",
                )
            )

    return inputs.Columns(
        numeric={name: numbers(name, values) for name, values in columns.numeric.items()},
        categorical={name: names(name, values) for name, values in columns.categorical.items()},
        text=None if columns.text is None else names("text", columns.text),
        vector=None if columns.vector is None else numbers("vector", columns.vector),
    )


def weights_of(objects: Objects, weights: np.ndarray | None) -> np.ndarray | None:
    """Returns the weights of objects, from those of the rows of a table; None of none.

    Raises:
      ValueError: if rows of one object have different weights; the groups are listed.
    """
    if weights is None:
        return None
    different = [
        objects.table.place(number)
        for number, rows in enumerate(objects.rows)
        if manifest_rows.differ(weights[list(rows)])
    ]
    if different:
        raise ValueError(
            messages.report(
                f"{len(different)} groups of {objects.table.path} have rows with different example "
                "weights:",
                different,
                "the weight is one of the whole object: correct or empty the wrong cells",
            )
        )
    return _joined(weights, objects)


def splits_of(objects: Objects, rows_by_split: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the objects of each split, from its rows.

    Raises:
      ValueError: if the rows of a group are in several splits; the groups are listed.
    """
    split_of = {int(row): split for split, rows in rows_by_split.items() for row in rows}
    found: dict[str, list[int]] = {split: [] for split in rows_by_split}
    divided = []
    for number, rows in enumerate(objects.rows):
        own = dict.fromkeys(split_of[row] for row in rows)
        if len(own) > 1:
            divided.append(f"{objects.table.place(number)}: {', '.join(own)}")
        found[next(iter(own))].append(number)
    if divided:
        raise ValueError(
            messages.report(
                f"{len(divided)} groups of {objects.table.path} are in several splits:",
                divided,
                "the rows of a group are views of one object, which is in one split",
            )
        )
    return {split: np.asarray(numbers, np.int64) for split, numbers in found.items()}


def names_of(objects: Objects, pictures: Sequence[str]) -> list[str]:
    """Returns a name for each object; objects that share a picture have the same name.

    Args:
      objects: the objects.
      pictures: a name for each of their images, as `manifest_rows.picture_names` returns them.
    """
    own = list(objects.keys)
    for number in range(0 if objects.is_grouped else len(own)):
        if places := objects.present(number):  # None is left of one that cannot be decoded.
            own[number] = pictures[places[0]]
    root = {name: name for name in own}

    def find_root(name: str) -> str:
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    seen: dict[str, str] = {}
    for number, name in enumerate(own):
        for place in objects.present(number):
            other = find_root(seen.setdefault(pictures[place], name))
            low, high = sorted((other, find_root(name)))
            root[high] = low
    return [find_root(name) for name in own]

"""The images, views and columns of a manifest for a network that exists: it needs no labels."""

from collections.abc import Sequence

import numpy as np

from tl_jax import files
from tl_jax.data import inputs, splits
from tl_jax.data.source import Inputs, Task
from tl_jax.data.sources import (
    input_columns,
    manifest_columns,
    manifest_images,
    manifest_rows,
    manifest_views,
    tables,
)
from tl_jax.data.sources.manifest import ManifestSource
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.manifest_views import Objects
from tl_jax.data.sources.options import InputColumns


def open_unlabelled(
    address: str,
    split: str = splits.WHOLE,
    *,
    tasks: Sequence[Task],
    meaning: Inputs,
    columns: InputColumns,
    image_column: str | Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> ManifestSource:
    """Opens a split of a table whose labels, if it has any, are not read.

    Images are looked at only when they are read: one that is missing or corrupt is an error then.

    Args:
      address: the table, as for `manifest.open`.
      split: name of the split, a slice, a sum of these, or "all" for the whole table.
      tasks: of the network; all labels are missing.
      meaning: what the further inputs mean, as the network was trained.
      columns: the columns of these, and the column that joins rows to views of one object.
      image_column: column of the images, or columns of views; the default is found by its name.
      value_range: as in `open_source`.

    Raises:
      FileNotFoundError: if there is no such table.
      ValueError: if it cannot be read, lacks a column or the split, or an object has no image.
    """
    path = files.user_path(address)
    table = tables.read(path)
    image_columns = manifest_columns.image_columns(table, image_column)
    further = input_columns.existing(table, columns, image_columns)
    cells, notes = input_columns.read(table, further)
    images = ImageColumn(table, table.columns[image_columns[0]])
    objects: Objects | None = None
    if len(image_columns) > 1 or further.group is not None:
        views = meaning.views or None
        objects, said = manifest_views.find(table, image_columns, further.group, views=views)
        cells, notes = manifest_views.columns_of(objects, cells), (*notes, *said)
        images = objects.images
    inputs.check_match(cells, meaning, name=str(path))
    _check_views(table, 0 if objects is None else objects.views, meaning.views)
    images, completed = manifest_images.completed(images)
    used = (*image_columns, *further.named)
    rows, said = _rows(table, split, used, images, objects)
    count = len(table) if objects is None else len(objects.members)
    return ManifestSource(
        name=f"manifest:{path}",
        split=split,
        tasks=tuple(tasks),
        images=images,
        rows=rows,
        targets=tuple(_missing(task, count) for task in tasks),
        notes=(*table.notes, *notes, *completed, *said, *inputs.notes(cells, meaning, rows)),
        value_range=value_range,
        inputs=meaning,
        objects=objects,
        arrays=inputs.encode(cells, meaning),
    )


def _check_views(table: tables.Table, views: int, expected: int) -> None:
    if views != expected:
        raise ValueError(
            f"got {views or 'single images, no'} views in {table.path}; expected "
            f"{expected or 'single images'}, as the network was trained"
        )


def _missing(task: Task, count: int) -> np.ndarray:
    """Returns labels of a task that are all missing."""
    value = np.nan if task.kind == "regression" else -1
    return np.full((count, *task.shape), value, task.dtype)


def _rows(
    table: tables.Table,
    split: str,
    used: Sequence[str],
    images: ImageColumn,
    objects: Objects | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the rows (objects) of a split, and notes on what was decided."""
    count = len(table) if objects is None else len(objects.members)
    if split == splits.WHOLE:
        return np.arange(count), ()
    column, notes = manifest_columns.split_column(table, used)
    if column is None:
        raise ValueError(
            f"{table.path} has no column of splits, so that there is no split {split!r}; leave "
            f"the split out, for the whole table ({splits.WHOLE!r})"
        )
    rows, spelled = manifest_columns.rows_by_split(table, column)
    if objects is not None:
        rows = manifest_views.splits_of(objects, rows)
    pictures = manifest_rows.picture_names(images, read_bytes=False)
    names = pictures if objects is None else manifest_views.names_of(objects, pictures)
    key = images.key if objects is None else objects.keys.__getitem__
    chosen = manifest_rows.select(split, rows, key, names, spelled, place=f"manifest:{table.path}")
    return chosen, notes

"""What a manifest holds, an entry for each example: images, labels, further inputs, splits."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax.data import inputs, splits
from tl_jax.data.source import Inputs, check_tasks
from tl_jax.data.sources import (
    input_columns,
    label_columns,
    manifest_columns,
    manifest_images,
    manifest_rows,
    manifest_views,
    tables,
    weights,
)
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.manifest_rows import Labels
from tl_jax.data.sources.manifest_views import Objects
from tl_jax.data.sources.options import OpenOptions


@dataclasses.dataclass(frozen=True)
class Content:
    """The examples of a table: its rows, or objects of several images.

    Attributes:
      table: the table without its columns; its places name the examples.
      images: the images, one for each row, or those of all objects.
      objects: which images are views of one object; None: each row is an image.
      labels: the tasks with the labels of all examples.
      columns: the further inputs of all examples.
      weights: the weights of their losses, float64, NaN where one is missing; None: there are none.
      rows: the examples of each split, if the table has splits.
      spelled: how the table writes its splits.
    """

    table: tables.Table
    images: ImageColumn
    objects: Objects | None
    labels: Sequence[Labels]
    columns: inputs.Columns
    weights: np.ndarray | None
    rows: Mapping[str, np.ndarray] | None
    spelled: Mapping[str, str]

    def key(self, row: int) -> str:
        """Returns what the table has for an example: a path, a group, or the place of a row."""
        return self.images.key(row) if self.objects is None else self.objects.keys[row]

    def places(self, row: int) -> list[int]:
        """Returns the positions of an example's images in `images`."""
        return [row] if self.objects is None else self.objects.present(row)

    def checked_weights(self, rows: np.ndarray, split: str) -> np.ndarray | None:
        """Returns the weights of all examples as float32, if those of a split are weights.

        Raises:
          ValueError: if they are not; the rows are listed.
        """
        if self.weights is None:
            return None
        weights.checked_weights(
            self.weights[rows],
            name=f"the example weights in split {split!r} of {self.table.path}",
            count=len(rows),
            place=lambda place: self.table.place(int(rows[place])),
        )
        return self.weights.astype(np.float32)

    def check_pictures(
        self, pictures: Sequence[str], rows: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Checks that one picture has one label and is in one split; see `manifest_rows`.

        Args:
          pictures: a name for each image.
          rows: the examples of each split.
        """
        if self.objects is None:
            return manifest_rows.check_pictures(self.images, pictures, self.labels, rows)
        owners = self.objects.owners
        return manifest_rows.check_pictures(
            self.images,
            pictures,
            [(task, targets[owners]) for task, targets in self.labels],
            {split: np.flatnonzero(np.isin(owners, own)) for split, own in rows.items()},
        )


def names(images: ImageColumn, objects: Objects | None, *, read_bytes: bool) -> list[str]:
    """Returns a name for each example; examples that share a picture have the same name."""
    pictures = manifest_rows.picture_names(images, read_bytes=read_bytes)
    return pictures if objects is None else manifest_views.names_of(objects, pictures)


def read(table: tables.Table, options: OpenOptions) -> tuple[Content, tuple[str, ...]]:
    """Reads what a table holds, and says what was decided.

    Raises:
      ValueError: as `manifest.open`.
    """
    image_columns = manifest_columns.image_columns(table, options.image_column)
    labelled, column_notes = manifest_columns.label_columns(table, options.labels)
    used = (*image_columns, *labelled)
    further = input_columns.existing(table, options.columns, used)
    weight_column = options.example_weights and manifest_columns.existing(
        table, options.example_weights
    )
    split_column, split_notes = manifest_columns.split_column(
        table, (*used, *further.named, *([weight_column] if weight_column else []))
    )
    labels, label_notes = label_columns.encode_all(table, labelled, options.label_kinds)
    check_tasks(str(table.path), tuple(task for task, _ in labels))
    columns, input_notes = input_columns.read(table, further)
    example_weights = None
    if weight_column:
        example_weights, _ = label_columns.read_numbers(table, weight_column)
    rows, spelled = None, dict[str, str]()
    if split_column is not None:
        rows, spelled = manifest_columns.rows_by_split(table, split_column)
    # The table's other columns are dropped: those of Parquet could not be sent to processes.
    bare, objects = dataclasses.replace(table, columns={}), None
    name = "" if options.image_column is None else image_columns[0]
    images = ImageColumn(bare, table.columns[image_columns[0]], name)
    view_notes: tuple[str, ...] = ()
    if len(image_columns) > 1 or further.group is not None:
        views = _views(options, image_columns, further.group)
        objects, view_notes = manifest_views.find(table, image_columns, further.group, views=views)
        labels = manifest_views.labels_of(objects, labels)
        columns = manifest_views.columns_of(objects, columns)
        example_weights = manifest_views.weights_of(objects, example_weights)
        rows = None if rows is None else manifest_views.splits_of(objects, rows)
        bare, images = objects.table, objects.images
    images, image_notes = manifest_images.completed(images)
    if objects is not None:
        objects = dataclasses.replace(objects, images=images)
    notes = (
        *image_notes, *column_notes, *split_notes, *label_notes, *view_notes, *input_notes
    )  # fmt: skip
    return Content(bare, images, objects, labels, columns, example_weights, rows, spelled), notes


def _views(options: OpenOptions, image_columns: Sequence[str], group: str | None) -> int | None:
    """Returns the number of views of an object, None for the largest group's.

    Raises:
      ValueError: if it is not that of the image columns, where these are the views.
    """
    fixed = options.inputs.views if options.inputs else 0
    views = fixed or options.columns.views
    if group is None and views not in (None, len(image_columns)):
        raise ValueError(
            f"got {len(image_columns)} image columns ({', '.join(image_columns)}) and {views} "
            "views; expected as many, each column being a view"
        )
    return views


def fix_inputs(
    content: Content,
    rows_by_split: Mapping[str, np.ndarray],
    rows: np.ndarray,
    split: str,
    options: OpenOptions,
) -> tuple[Inputs, tuple[str, ...]]:
    """Returns what the further inputs mean, and says what is missing and unknown in a split.

    Args:
      content: the examples of the table.
      rows_by_split: the examples of each split.
      rows: the examples of the split that is opened.
      split: its specification.
      options: `inputs` are taken if they are given; otherwise they are fixed by these rows, if the
        split is the training split or a part of it or there is none, and else by that.

    Raises:
      ValueError: if the given inputs are not those of the table's columns, or a column is empty.
    """
    views = 0 if content.objects is None else content.objects.views
    if options.inputs is not None and options.inputs != Inputs():
        fixed = options.inputs
        inputs.check_match(content.columns, fixed, name=str(content.table.path))
        if views != fixed.views:
            raise ValueError(
                f"got {views or 'single images, no'} views in {content.table.path}; expected "
                f"{fixed.views or 'single images'}, as the inputs were fixed by the training split"
            )
        return fixed, inputs.notes(content.columns, fixed, rows)
    place = f"manifest:{content.table.path}"
    asked = {each.split for each in splits.parse_known(split, rows_by_split, name=place)}
    is_training = "train" not in rows_by_split or asked == {"train"}
    of_training = rows if is_training else rows_by_split["train"]
    fixed = inputs.fit(content.columns, of_training, views=views, text=options.columns.text_options)
    return fixed, inputs.notes(content.columns, fixed, rows)

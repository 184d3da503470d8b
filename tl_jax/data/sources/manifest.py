"""The source of images that a table lists, with their labels: CSV, JSONL or Parquet."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import files, messages
from tl_jax.data import inputs, splits
from tl_jax.data.images import decode, verify
from tl_jax.data.source import ONE_IMAGE, WEIGHT, Example, Inputs, Source, Task, label_keys
from tl_jax.data.sources import (
    label_columns,
    manifest_columns,
    manifest_content,
    manifest_files,
    manifest_rows,
    manifest_views,
    tables,
)
from tl_jax.data.sources.manifest_content import Content
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.manifest_views import Objects
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset(
    {"on_corrupt", "labels", "image_column", "value_range"}
    | {"numbers", "ordered", "several", "columns", "inputs", "example_weights"}
)


@dataclasses.dataclass(frozen=True)
class ManifestSource(Source):
    """One split of a table of images.

    Examples hold `image`, `label`, the labels of further tasks, further inputs, and `path` (of the
    file, or the row of the table; with views one for each, "" where it is missing).

    Attributes:
      name, split, tasks, skipped, notes, value_range, inputs: as in `Source`.
      images: the column of images.
      rows: int64 [N], the rows of the split, from 0; with views the objects of the split.
      targets: the labels of all rows (objects) for each task: int32, int8 [rows, classes], or
        float32 for numbers.
      objects: which images are views of one object; None: each row is one image.
      arrays: the further inputs of all rows (objects), by key.
      weights: float32, the weights of the losses of all rows (objects), NaN where a row of another
        split has none; None: there are none.
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
    inputs: Inputs = ONE_IMAGE
    objects: Objects | None = None
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        if self.objects is None:
            image, name = self._decoded(row)
            return {"image": image, **self._others(row), "path": name}
        views = [self._decoded(place) if place >= 0 else None for place in self._members(row)]
        images, names = zip(*(view or (None, "") for view in views), strict=True)
        return {"image": images, **self._others(row), "path": names}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets[0][self.rows]

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        keys = label_keys(self.tasks)
        return {key: each[self.rows] for key, each in zip(keys, self.targets, strict=True)}

    def input_arrays(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        return {key: array[self.rows] for key, array in self.arrays.items()}

    @property
    def has_weights(self) -> bool:
        """As in `Source`."""
        return self.weights is not None

    def example_weights(self) -> np.ndarray:
        """As in `Source`."""
        return super().example_weights() if self.weights is None else self.weights[self.rows]

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """As in `Source`."""
        if self.objects is not None:
            return None
        row = int(self.rows[index])
        data, name = self._bytes(row)
        return data, {**self._others(row), "path": name}

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        """As in `Source`."""
        if self.objects is None:
            return None
        row = int(self.rows[index])
        views = [self._bytes(place) if place >= 0 else None for place in self._members(row)]
        contents, names = zip(*(view or (None, "") for view in views), strict=True)
        return contents, {**self._others(row), "path": names}

    def content_marks(self) -> Sequence[str]:
        """As in `Source`: those of the files (`files.marks`), sizes of the bytes in the table.

        With views they are those of all of an example's images.
        """
        by_row = [
            [row] if self.objects is None else self.objects.present(row)
            for row in self.rows.tolist()
        ]
        contents = [self.images.content(place)[0] for places in by_row for place in places]
        on_file = iter(files.marks([each for each in contents if isinstance(each, Path)]))
        marks = iter(
            [next(on_file) if isinstance(each, Path) else str(len(each)) for each in contents]
        )
        return [" ".join(next(marks) for _ in places) for places in by_row]

    def identities(self) -> Sequence[str]:
        """As in `Source`: the files' paths, or hashes of the bytes in the table; or the groups."""
        names = manifest_content.names(self.images, self.objects, read_bytes=True)
        return [names[row] for row in self.rows]

    def _members(self, row: int) -> tuple[int, ...]:
        return () if self.objects is None else self.objects.members[row]

    def _decoded(self, place: int) -> tuple[np.ndarray, str]:
        content, name = self.images.content(place)
        return decode.decode(content, name=name, value_range=self.value_range), name

    def _bytes(self, place: int) -> tuple[bytes, str]:
        content, name = self.images.content(place)
        return content.read_bytes() if isinstance(content, Path) else content, name

    def _others(self, row: int) -> Example:
        """Returns the labels, the further inputs and the weight of a row."""
        labels = {
            key: values[row] if task.multi_label else values[row].item()
            for key, task, values in zip(
                label_keys(self.tasks), self.tasks, self.targets, strict=True
            )
        }
        weight = {} if self.weights is None else {WEIGHT: self.weights[row].item()}
        return {**labels, **{key: array[row] for key, array in self.arrays.items()}, **weight}


def open(address: str, split: str, options: OpenOptions) -> ManifestSource:
    """Opens a split of the images that a table lists, and decodes each of them once.

    Each row is an image. Its cell in the column `image` (or `path`, `file`, `file_name` ...) is the
    path of a file, absolute or relative to the table's folder, and complete but for the suffix, if
    one image has that name; in Parquet also its bytes, or a
    struct of `bytes` and `path` as Hugging Face's library writes it (bytes are kept in memory).

    A label is a name or a whole number; an empty cell is a missing label. A list in any cell of a
    column (in CSV: names with `|` between them, a single `|` for an empty list) makes it a
    multi-label task. The classes are those of the whole table, sorted: by name, or as numbers if
    all are numbers. `numbers`, `ordered` and `several` (`LabelKinds`) say which labels are others.

    Several image columns, or the rows of one group (`InputColumns`), are views of one object, and
    an example is an object. Its views are in one split, and its labels and inputs must agree.
    Further columns are inputs as `tl_jax.data.inputs` describes. A column of weights needs a number
    in the rows of the split alone.

    The column `split` gives the splits (or another whose values are plainly splits); "Training",
    "val" and other usual spellings mean "train", "validation" and "test". Without one there are
    `train` and `validation`: a picture is held out if the hash of its name is among the lowest
    fifth (`validation_fraction`), and each class has one on both sides. "all" is the whole table.
    Rows of one picture stay together, and their labels must agree. Slices are written as in TFDS
    and cut from an order hashed from the images' names.

    Args:
      address: the table: .csv, .tsv, .jsonl or .parquet, or a folder of Parquet files, whose names
        are their splits if they name any.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: all of them are used; the default of `labels` is the column `label`, or the only
        one with another usual name, such as `target` or `class_id`.

    Raises:
      FileNotFoundError: if there is no such table.
      ValueError: if it cannot be read; a column or split is unknown; a file is missing; a label is
        not a name, an input not what it should be; the training split lacks a class; the rows of a
        group differ. All such rows are listed together.
      CorruptImageError: if images cannot be decoded.
    """
    path = files.user_path(address)
    table = tables.read(path)
    content, notes = manifest_content.read(table, options)
    parts = _divided(content, split, options)
    _check_training_split(content, parts.rows)
    rows = manifest_rows.select(
        split, parts.rows, content.key, parts.names, content.spelled, place=f"manifest:{path}"
    )
    fixed, input_notes = manifest_content.fix_inputs(content, parts.rows, rows, split, options)
    source = ManifestSource(
        name=f"manifest:{path}",
        split=split,
        tasks=tuple(task for task, _ in content.labels),
        images=content.images,
        rows=rows,
        targets=tuple(targets for _, targets in content.labels),
        notes=(*table.notes, *notes, *parts.notes, *input_notes),
        value_range=options.value_range,
        inputs=fixed,
        objects=content.objects,
        arrays=inputs.encode(content.columns, fixed),
        weights=content.checked_weights(rows, split),
    )
    manifest_files.check(source.images, _places(source), _place(source))
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
      rows: the examples of each split.
      names: a name for each example; those that share a picture have the same.
      skipped: the corrupt images of each split that were left out before it was divided.
      notes: what was decided, as sentences.
    """

    rows: Mapping[str, np.ndarray]
    names: Sequence[str]
    skipped: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]


def _divided(content: Content, split: str, options: OpenOptions) -> _Parts:
    """Divides a table as its column says, or holds a part of it out."""
    read_bytes = content.rows is None
    pictures = manifest_rows.picture_names(content.images, read_bytes=read_bytes)
    objects, table = content.objects, content.table
    names = pictures if objects is None else manifest_views.names_of(objects, pictures)
    if content.rows is not None:
        said = content.check_pictures(pictures, content.rows)
        listed = splits.listed(content.rows, content.spelled)
        return _Parts(content.rows, names, {}, (f"splits: {listed}", *said))
    notes = content.check_pictures(pictures, {})
    if split == splits.WHOLE:
        return _Parts({splits.WHOLE: np.arange(len(names))}, names, {}, notes)
    reasons = {}
    if options.verify and options.on_corrupt == "skip":
        every = range(len(pictures))
        manifest_files.check(content.images, every, f"{table.path}")
        reasons = manifest_files.corrupt(content.images, every, options)
    lost = [row for row in range(len(names)) if reasons.keys() >= set(content.places(row))]
    rows, bad = manifest_rows.hold_out(table, names, content.labels[0], options, corrupt=lost)
    skipped = {
        name: [
            manifest_files.problem(content.images, place, reasons[place])
            for row in each
            for place in content.places(row)
        ]
        for name, each in bad.items()
    }
    how = (
        f"no column of splits in {table.path.name}: about {options.validation_fraction:g} of each "
        f"class is held out as 'validation', by a hash of the images' names and the seed "
        f"{options.seed}"
    )
    return _Parts(rows, names, skipped, (how, *notes))


def _check_training_split(content: Content, rows_by_split: Mapping[str, np.ndarray]) -> None:
    """Checks that every class has an example in the training split, if there is one.

    Levels that were named and that no image has are no error: the scale is known.
    """
    problems = []
    for task, targets in content.labels if "train" in rows_by_split else ():
        for label in np.flatnonzero(~label_columns.present(task, targets, rows_by_split["train"])):
            has = (targets[:, label] == 1) if task.multi_label else (targets == label)
            if task.ordered and not has.any():
                continue
            where = f"; {content.table.place(int(has.argmax()))} has it" if has.any() else ""
            problems.append(f"class {task.class_names[label]!r} of {task.name!r}{where}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} classes have no row in the training split of "
                f"{content.table.path}:",
                problems,
                "move some of their rows to it, or rename or remove the classes",
            )
        )


def _places(source: ManifestSource) -> list[int]:
    """Returns the positions of all images of a split in the column of images."""
    if source.objects is None:
        return source.rows.tolist()
    return [place for row in source.rows.tolist() for place in source.objects.present(row)]


def _without_corrupt(source: ManifestSource, options: OpenOptions) -> ManifestSource:
    """Returns a source without the images that cannot be decoded, as `on_corrupt` says.

    A view that cannot be decoded is a missing one; an object without any is left out.
    """
    images, place = source.images, _place(source)
    reasons = manifest_files.corrupt(images, _places(source), options)
    if not reasons:
        return source
    corrupt = list(reasons)
    problems = [manifest_files.problem(images, each, why) for each, why in reasons.items()]
    if options.on_corrupt == "raise":
        raise verify.corrupt_error(place, problems)
    objects = source.objects
    if objects is None:
        rows = source.rows[~np.isin(source.rows, corrupt)]
    else:
        objects = objects.without(corrupt)
        kept = [bool(objects.present(row)) for row in source.rows.tolist()]
        rows = source.rows[np.asarray(kept)]
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
    return dataclasses.replace(source, rows=rows, objects=objects, skipped=tuple(problems))


def _place(source: ManifestSource) -> str:
    return f"split {source.split!r} of {source.images.table.path}"

"""The source of images in memory: NumPy arrays."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.data import inputs as further
from tl_jax.data import splits
from tl_jax.data.images import decode
from tl_jax.data.images.values import Range, check_range, suggested, to_8_bits
from tl_jax.data.source import (
    ONE_IMAGE,
    WEIGHT,
    Example,
    Inputs,
    Source,
    Task,
    check_tasks,
    label_keys,
)
from tl_jax.data.sources.array_inputs import check_columns
from tl_jax.data.sources.array_labels import Labels, encode_tasks
from tl_jax.data.sources.weights import checked_weights

Views = Sequence[np.ndarray | None]
Images = np.ndarray | Sequence[np.ndarray] | Sequence[Views]


@dataclasses.dataclass(frozen=True)
class ArraySource(Source):
    """Images in memory.

    Attributes:
      name, split, tasks, skipped, notes, inputs: as in `Source`; nothing is skipped.
      images: [N, H, W] or [N, H, W, 1, 3 or 4], or one such array per image; uint8, or any
        numbers if there is a `value_range`. With views [N, V, H, W, 1, 3 or 4], or a sequence of
        images for each example, None where one is missing.
      targets: int32 [N], int8 [N, classes] for a multi-label task, float32 [N] for a regression.
      other_targets: those of the tasks after the first.
      view_mask: bool [N, V], which views there are; None: all that are not None.
      arrays: the further inputs by key.
      weights: float32 [N], the weights of the examples' losses; None: there are none.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    images: Images
    targets: np.ndarray
    value_range: Range | None = None
    notes: tuple[str, ...] = ()
    inputs: Inputs = ONE_IMAGE
    other_targets: tuple[np.ndarray, ...] = ()
    view_mask: np.ndarray | None = None
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Example:
        views = tuple(view if view is None else self._rgb(view) for view in self._views(index))
        labels = {
            key: values[index] if task.multi_label else values[index].item()
            for key, task, values in zip(
                label_keys(self.tasks), self.tasks, self._all_targets, strict=True
            )
        }
        others = {key: array[index] for key, array in self.arrays.items()}
        if self.weights is not None:
            others[WEIGHT] = self.weights[index].item()
        return {"image": views if self.inputs.views else views[0], **labels, **others}

    @property
    def _all_targets(self) -> tuple[np.ndarray, ...]:
        return (self.targets, *self.other_targets)

    def _views(self, index: int) -> Views:
        """Returns the views of an example, None where one is missing; or its one image."""
        image: Any = self.images[index]
        if not self.inputs.views:
            return [image]
        if self.view_mask is None:
            return list(image)
        return [v if has else None for v, has in zip(image, self.view_mask[index], strict=True)]

    def _rgb(self, image: np.ndarray) -> np.ndarray:
        if self.value_range is not None and image.dtype != np.uint8:
            image = to_8_bits(image, self.value_range)
        if image.ndim == 2 or image.shape[-1] == 1:
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        elif image.shape[-1] == 4:
            image = np.asarray(decode.as_rgb(image))
        return image

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        return dict(zip(label_keys(self.tasks), self._all_targets, strict=True))

    def input_arrays(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        return dict(self.arrays)

    @property
    def has_weights(self) -> bool:
        """As in `Source`."""
        return self.weights is not None

    def example_weights(self) -> np.ndarray:
        """As in `Source`."""
        return super().example_weights() if self.weights is None else self.weights

    def content_marks(self) -> Sequence[str]:
        """As in `Source`: hashes of the pixels, of all views together."""
        marks = []
        for index in range(len(self)):
            digest = hashlib.sha256()
            for view in self._views(index):
                digest.update(b"" if view is None else np.ascontiguousarray(view).data)
            marks.append(digest.hexdigest())
        return marks


def from_arrays(
    images: Images,
    labels: Labels | Mapping[str, Labels],
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
    value_range: Range | None = None,
    numbers: Collection[str] = (),
    ordered: Collection[str] = (),
    view_mask: np.ndarray | None = None,
    columns: further.Columns | None = None,
    text_options: further.TextOptions | None = None,
    inputs: Inputs | None = None,
    example_weights: Sequence[float] | np.ndarray | None = None,
) -> ArraySource:
    """Makes a source of images and labels in memory.

    Args:
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4] (gray, RGB, RGBA), values in [0, 255]; or a
        list of such arrays of any sizes, one per image. Of several views of one object
        [N, V, H, W, 1, 3 or 4]; or for each object a list of images, None where one is missing.
      labels: the classes' indices [N] (or [N, 1]), -1 where one is missing; or their names [N]; or
        for a multi-label task [N, classes]: 1 or True for a class that the image has, 0 for one
        that it does not have, -1 if that is not known. Of several tasks such labels by the tasks'
        names, the main one first.
      class_names: in the order of the indices; of several tasks by their names. The default is
        the names sorted (as numbers, if all are numbers), or the numbers that occur: labels 1, 2
        and 5 are the classes "1", "2" and "5" with the indices 0, 1 and 2. Name them if other
        splits may have other classes.
      name: what messages and records call the source.
      split: name of the split.
      value_range: the values of black and white in images that are not uint8, such as (0, 1) or
        (0, 4095); images of uint8 are 0 to 255 always.
      numbers: the tasks whose labels are numbers [N] to be regressed, NaN where one is missing; a
        single task is called "label".
      ordered: the tasks whose classes are levels, from low to high: the class names in their
        order, or numbers.
      view_mask: bool [N, V], False for a view that is missing; by default all of an array are
        there.
      columns: further inputs of the N examples.
      text_options: which words of their texts are kept.
      inputs: what the further inputs mean, such as `inputs` of the source that is trained on; the
        default is what this source has.
      example_weights: factor of each example's loss in training [N], finite, 0 or more; None: there
        are none.

    Raises:
      ValueError: if there are not as many labels as images, or they have another form; if columns
        have another length, hold infinity, or are not those of `inputs`; if weights are out of
        range.
      TypeError: if the images are neither an array nor a list of arrays.

    Examples:
      >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"])
      >>> source.class_names, source.labels().tolist()
      (('cat', 'dog'), [0, 1, 0])
      >>> columns = further.Columns(numeric={"age": np.array([3.0, np.nan])})
      >>> views = np.zeros((2, 5, 8, 8, 3), np.uint8)
      >>> source = from_arrays(views, [0.5, 2.5], numbers=("label",), columns=columns)
      >>> source.tasks[0].kind, source.inputs.views, source.inputs.keys
      ('regression', 5, ('numeric',))
    """
    num_views = check_views(images, view_mask, name=name)
    value_range = check_images(images, name=name, value_range=value_range)
    tasks, targets, notes = encode_tasks(
        labels, class_names, numbers=numbers, ordered=ordered, name=name
    )
    check_tasks(name, tasks)
    for each in targets:
        check_count(images, each, name=name)
    columns = check_columns(columns or further.Columns(), len(images), name=name)
    if inputs is None:
        every = np.arange(len(images))
        inputs = further.fit(columns, every, views=num_views, text=text_options)
    further.check_match(columns, inputs, name=name)
    if num_views > inputs.views or (inputs.views and not num_views):
        raise ValueError(
            f"got {num_views or 'single images, no'} views in {name}; expected at most "
            f"{inputs.views or 'single images'}, as `inputs` says"
        )
    notes = (*notes, *further.notes(columns, inputs, np.arange(len(images))))
    weights = None
    if example_weights is not None:
        weights = checked_weights(
            example_weights, name=f"the example_weights of {name}", count=len(images)
        )
    return ArraySource(
        name, split, tasks, images, targets[0], value_range, notes, inputs, targets[1:], view_mask,
        further.encode(columns, inputs), weights,
    )  # fmt: skip


def check_views(images: Images, view_mask: np.ndarray | None, *, name: str) -> int:
    """Checks the views of examples, and returns the largest number; 0 of single images.

    Raises:
      ValueError: if the mask has another shape than the views, or an example has no view.
    """
    present: np.ndarray
    if isinstance(images, np.ndarray) and images.dtype != object:
        if images.ndim != 5 and view_mask is None:
            return 0
        present = np.ones(images.shape[:2], bool)
        if view_mask is not None:
            if images.ndim != 5 or view_mask.dtype != bool or view_mask.shape != present.shape:
                raise ValueError(
                    f"got a view_mask {view_mask.dtype}{list(view_mask.shape)} for the images "
                    f"{list(images.shape)} of {name}; expected bool [N, V] for [N, V, H, W, C]"
                )
            present = view_mask
    else:
        if view_mask is not None:
            raise ValueError(
                f"got a view_mask for lists of images in {name}; write None for a view"
            )
        # What is no list at all is refused by `check_images`.
        every = images if isinstance(images, Sequence) else ()
        listed = [each for each in every if isinstance(each, list | tuple)]
        if len(listed) not in (0, len(every)):
            raise ValueError(
                f"got {len(listed)} lists of views among {len(every)} examples of {name}; "
                "expected one for each, or single images only"
            )
        present = np.zeros((len(listed), max(map(len, listed), default=0)), bool)
        for row, views in enumerate(listed):
            present[row, : len(views)] = [view is not None for view in views]
    if (empty := np.flatnonzero(~present.any(axis=1))).size:
        raise ValueError(f"example {empty[0]} of {name} has no view; expected one at least")
    return present.shape[1]


def select_split(
    images: Mapping[str, Images],
    targets: Mapping[str, np.ndarray],
    spec: str,
    *,
    task: Task,
    name: str,
    weights: Mapping[str, np.ndarray] | None = None,
) -> ArraySource:
    """Selects the examples that a split's specification names from splits in memory.

    Args:
      images: images of each split that the specification names; slices count in their order.
      targets: encoded labels of every split.
      spec: name, slice or sum, as in `splits`.
      task: what the labels mean.
      name: name of the source.
      weights: those of the examples' losses of each split that is named; None: there are none.

    Raises:
      ValueError: if the specification cannot be read, names an unknown split, or selects no
        example.
    """
    sizes = {split: len(values) for split, values in targets.items()}
    slices = [
        (split, slice(positions.start, positions.stop))
        for split, positions in splits.select(spec, sizes, name=name)
    ]
    chosen: list[Any] = [images[split][each] for split, each in slices]
    joined_targets = np.concatenate([targets[split][each] for split, each in slices])
    arrays = [part for part in chosen if isinstance(part, np.ndarray)]
    joined: Images
    if len(chosen) == 1:
        joined = chosen[0]
    elif len(arrays) == len(chosen) and len({(a.dtype, a.shape[1:]) for a in arrays}) == 1:
        joined = np.concatenate(arrays)
    else:
        # Views in an array of four axes become a list, as those of another number are.
        joined = [list(each) if np.ndim(each) == 4 else each for part in chosen for each in part]
    inputs = Inputs(views=check_views(joined, None, name=name))
    joined_weights = None
    if weights is not None:
        joined_weights = np.concatenate([weights[split][each] for split, each in slices])
    return ArraySource(
        name, spec, (task,), joined, joined_targets, inputs=inputs, weights=joined_weights
    )


def check_images(images: Images, *, name: str, value_range: Range | None = None) -> Range | None:
    """Checks that images have a form that `from_arrays` takes.

    Returns:
      The range, or None if it is not used because all images are uint8.

    Raises:
      TypeError: if they are neither an array nor a list of arrays.
      ValueError: if they have another type or shape, or values that are not finite.
    """
    value_range = check_range(value_range)
    if isinstance(images, str) or not isinstance(images, np.ndarray | Sequence):
        raise TypeError(
            f"got images of type {type(images).__name__} in {name}; expected a NumPy array or a "
            "list of them"
        )
    if isinstance(images, np.ndarray) and images.dtype != object:
        _check_image(images, images.shape[2 if images.ndim == 5 else 1 :], name, value_range)
        return None if images.dtype == np.uint8 else value_range
    each_image: Any = images
    if any(isinstance(image, list | tuple) for image in images):
        each_image = [view for views in each_image for view in views if view is not None]
    for index, image in enumerate(each_image):
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"image {index} of {name} is a {type(image).__name__}; expected a NumPy array"
            )
        _check_image(image, image.shape, f"image {index} of {name}", value_range)
    return None if all(image.dtype == np.uint8 for image in each_image) else value_range


def _check_image(
    images: np.ndarray, shape: tuple[int, ...], name: str, value_range: Range | None
) -> None:
    """Checks one image of this shape, or the array of all of them."""
    dtype = images.dtype
    channels_last = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))
    got = f"got images {dtype}{list(shape)} in {name}"
    if not channels_last or 0 in shape:
        channels_first = len(shape) == 3 and shape[0] in (1, 3, 4)
        move = ": move the channels to the end, images.transpose(0, 2, 3, 1)"
        raise ValueError(
            f"{got}; expected uint8 [H, W] or [H, W, 1, 3 or 4]{move if channels_first else ''}"
        )
    if dtype.kind not in "biuf":
        raise ValueError(f"{got}; expected uint8, 0 to 255")
    if dtype != np.uint8 and images.size:
        _check_values(images, got, value_range)


def _check_values(images: np.ndarray, got: str, value_range: Range | None) -> None:
    """Checks numbers other than uint8: all finite, and with values of black and white."""
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{got} that hold NaN or infinity; replace these values by numbers")
    if value_range is None:
        black, white = suggested(low, high)
        raise ValueError(
            f"{got}, values from {low:g} to {high:g}; expected uint8, or the values of black and "
            f"white as value_range, such as {black:g} {white:g} (data.value_range in a "
            "configuration)"
        )


def check_count(images: Images, targets: np.ndarray, *, name: str) -> None:
    """Raises ValueError unless there is a label for each image."""
    if len(targets) != len(images):
        raise ValueError(
            f"got {len(images)} images and {len(targets)} labels in {name}; expected one "
            "label per image"
        )

"""The source of images in memory: NumPy arrays."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax.data import splits
from tl_jax.data.images import decode
from tl_jax.data.images.values import Range, check_range, suggested, to_8_bits
from tl_jax.data.source import Example, Source, Task
from tl_jax.data.sources.array_labels import Labels, encode_labels

Images = np.ndarray | Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class ArraySource(Source):
    """Images in memory.

    Attributes:
      name, split, tasks, skipped, notes: as in `Source`; nothing is skipped.
      images: [N, H, W] or [N, H, W, 1, 3 or 4], or one such array per image; uint8, or any
        numbers if there is a `value_range`.
      targets: int32 [N], or int8 [N, classes] for a multi-label task.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    images: Images
    targets: np.ndarray
    value_range: Range | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Example:
        image, target = self.images[index], self.targets[index]
        if self.value_range is not None and image.dtype != np.uint8:
            image = to_8_bits(image, self.value_range)
        if image.ndim == 2 or image.shape[-1] == 1:
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        elif image.shape[-1] == 4:
            image = np.asarray(decode.as_rgb(image))
        return {"image": image, "label": target if self.tasks[0].multi_label else int(target)}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets

    def content_marks(self) -> Sequence[str]:
        """As in `Source`: hashes of the pixels."""
        return [
            hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in self.images
        ]


def from_arrays(
    images: Images,
    labels: Labels,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
    value_range: Range | None = None,
) -> ArraySource:
    """Makes a source of images and labels in memory.

    Args:
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4] (gray, RGB, RGBA), values in [0, 255]; or a
        list of such arrays of any sizes, one per image.
      labels: the classes' indices [N] (or [N, 1]), -1 where one is missing; or their names [N]; or
        for a multi-label task [N, classes]: 1 or True for a class that the image has, 0 for one
        that it does not have, -1 if that is not known.
      class_names: in the order of the indices. The default is the names sorted (as numbers, if all
        are numbers), or the numbers that occur: labels 1, 2 and 5 are the classes "1", "2" and "5"
        with the indices 0, 1 and 2. Name them if other splits may have other classes.
      name: what messages and records call the source.
      split: name of the split.
      value_range: the values of black and white in images that are not uint8, such as (0, 1) or
        (0, 4095); images of uint8 are 0 to 255 always.

    Raises:
      ValueError: if there are not as many labels as images, or they have another form.
      TypeError: if the images are neither an array nor a list of arrays.

    Examples:
      >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"])
      >>> source.class_names, source.labels().tolist()
      (('cat', 'dog'), [0, 1, 0])
    """
    value_range = check_images(images, name=name, value_range=value_range)
    task, targets, notes = encode_labels(labels, class_names, name=name)
    check_count(images, targets, name=name)
    return ArraySource(name, split, (task,), images, targets, value_range, notes)


def select_split(
    images: Mapping[str, Images],
    targets: Mapping[str, np.ndarray],
    spec: str,
    *,
    task: Task,
    name: str,
) -> ArraySource:
    """Selects the examples that a split's specification names from splits in memory.

    Args:
      images: images of each split that the specification names; slices count in their order.
      targets: encoded labels of every split.
      spec: name, slice or sum, as in `splits`.
      task: what the labels mean.
      name: name of the source.

    Raises:
      ValueError: if the specification cannot be read, names an unknown split, or selects no
        example.
    """
    sizes = {split: len(values) for split, values in targets.items()}
    slices = [
        (split, slice(positions.start, positions.stop))
        for split, positions in splits.select(spec, sizes, name=name)
    ]
    chosen = [images[split][each] for split, each in slices]
    joined_targets = np.concatenate([targets[split][each] for split, each in slices])
    arrays = [part for part in chosen if isinstance(part, np.ndarray)]
    joined: Images
    if len(chosen) == 1:
        joined = chosen[0]
    elif len(arrays) == len(chosen) and len({(a.dtype, a.shape[1:]) for a in arrays}) == 1:
        joined = np.concatenate(arrays)
    else:
        joined = [image for part in chosen for image in part]
    return ArraySource(name, spec, (task,), joined, joined_targets)


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
        _check_image(images, images.shape[1:], name, value_range)
        return None if images.dtype == np.uint8 else value_range
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"image {index} of {name} is a {type(image).__name__}; expected a NumPy array"
            )
        _check_image(image, image.shape, f"image {index} of {name}", value_range)
    return None if all(image.dtype == np.uint8 for image in images) else value_range


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

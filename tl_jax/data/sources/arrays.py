"""The source of images in memory: NumPy arrays."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.images import decode
from tl_jax.data.source import Example, Source, Task

Images = np.ndarray | Sequence[np.ndarray]
Labels = np.ndarray | Sequence[int] | Sequence[str]


@dataclasses.dataclass(frozen=True)
class ArraySource(Source):
    """Images in memory.

    Attributes:
      name, split, tasks, skipped: as in `Source`; nothing is skipped.
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4], or one such array per image.
      targets: int32 [N], or int8 [N, classes] for a multi-label task.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    images: Images
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Example:
        image, target = self.images[index], self.targets[index]
        if image.ndim == 2 or image.shape[-1] == 1:
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        elif image.shape[-1] == 4:
            image = np.asarray(decode.as_rgb(image))
        return {"image": image, "label": target if self.tasks[0].multi_label else int(target)}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets


def from_arrays(
    images: Images,
    labels: Labels,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
) -> ArraySource:
    """Makes a source of images and labels in memory.

    Args:
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4] (gray, RGB, RGBA), values in [0, 255]; or a
        list of such arrays of any sizes, one per image.
      labels: the classes' indices [N] (or [N, 1]), -1 where one is missing; or their names [N]; or
        for a multi-label task [N, classes]: 1 or True for a class that the image has, 0 for one
        that it does not have, -1 if that is not known.
      class_names: in the order of the indices. The default is the names sorted, or "0", "1", ...
        up to the largest index: name them if other splits may have other classes.
      name: what messages and records call the source.
      split: name of the split.

    Raises:
      ValueError: if there are not as many labels as images, or they have another form.
      TypeError: if the images are neither an array nor a list of arrays.

    Examples:
      >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"])
      >>> source.class_names, source.labels().tolist()
      (('cat', 'dog'), [0, 1, 0])
    """
    check_images(images, name=name)
    task, targets = encode_labels(labels, class_names, name=name)
    check_count(images, targets, name=name)
    return ArraySource(name, split, (task,), images, targets)


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
    elif len(arrays) == len(chosen) and len({array.shape[1:] for array in arrays}) == 1:
        joined = np.concatenate(arrays)
    else:
        joined = [image for part in chosen for image in part]
    return ArraySource(name, spec, (task,), joined, joined_targets)


def encode_labels(
    labels: Labels, class_names: Sequence[str] | None = None, *, name: str
) -> tuple[Task, np.ndarray]:
    """Returns the task and the encoded labels of the labels that `from_arrays` takes.

    Raises:
      ValueError: if the labels have another form, or do not match the class names.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    are_names = values.ndim == 1 and values.dtype.kind in "US"
    are_indices = values.ndim == 1 and values.dtype.kind in "iu"
    are_vectors = values.ndim == 2 and values.dtype.kind in "iub"
    if not (are_names or are_indices or are_vectors):
        raise ValueError(
            f"got labels of type {values.dtype} and shape {list(values.shape)} in {name}; expected "
            "whole numbers [N], names [N], or 0 and 1 for each class [N, classes]: "
            "labels.astype(int), or labels.argmax(axis=1) of probabilities"
        )
    values = values.astype(str if are_names else np.int64)
    if are_indices and values.max(initial=-1) < 0:
        raise ValueError(f"{name} holds no label; expected at least one")
    if class_names is not None:
        classes = [str(each) for each in class_names]
    elif are_names:
        classes = sorted(set(values.tolist()))
    else:
        classes = [str(i) for i in range(values.shape[1] if are_vectors else values.max() + 1)]
    if len(set(classes)) < len(classes):
        raise ValueError(f"got the class names {classes} for {name}; expected each once")
    task = Task("label", tuple(classes), multi_label=are_vectors)
    if are_names:
        indices = {each: i for i, each in enumerate(classes)}
        unknown = sorted(set(values.tolist()) - set(classes))
        if unknown:
            raise ValueError(
                f"label {unknown[0]!r} in {name} is none of the {len(classes)} class names"
                f"{messages.hint(unknown[0], classes)}"
            )
        return task, np.asarray([indices[each] for each in values.tolist()], np.int32)
    if are_vectors and len(classes) != values.shape[1]:
        raise ValueError(
            f"got {len(classes)} class names for labels {list(values.shape)} in {name}; expected "
            "one name per column"
        )
    highest = 1 if are_vectors else len(classes) - 1
    if values.min(initial=0) < -1 or values.max(initial=0) > highest:
        raise ValueError(
            f"got labels from {values.min(initial=0)} to {values.max(initial=0)} in {name}; "
            f"expected -1 (missing) to {highest}"
        )
    return task, values.astype(np.int8 if are_vectors else np.int32)


def check_images(images: Images, *, name: str) -> None:
    """Checks that images have a form that `from_arrays` takes.

    Raises:
      TypeError: if they are neither an array nor a list of arrays.
      ValueError: if they have another type or shape.
    """
    if isinstance(images, str) or not isinstance(images, np.ndarray | Sequence):
        raise TypeError(
            f"got images of type {type(images).__name__} in {name}; expected a NumPy array or a "
            "list of them"
        )
    if isinstance(images, np.ndarray) and images.dtype != object:
        _check_image(images.shape[1:], images.dtype, name)
        return
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"image {index} of {name} is a {type(image).__name__}; expected a NumPy array"
            )
        _check_image(image.shape, image.dtype, f"image {index} of {name}")


def _check_image(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    channels_last = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))
    if channels_last and dtype == np.uint8 and 0 not in shape:
        return
    if not channels_last and len(shape) == 3 and shape[0] in (1, 3, 4):
        remedy = ": move the channels to the end, images.transpose(0, 2, 3, 1)"
    elif dtype.kind == "f":
        remedy = ": floats in [0, 1] must be scaled by 255 first"
    else:
        remedy = ""
    raise ValueError(
        f"got images {dtype}{list(shape)} in {name}; expected uint8 [H, W] or [H, W, 1, 3 or 4]"
        f"{remedy}"
    )


def check_count(images: Images, targets: np.ndarray, *, name: str) -> None:
    """Raises ValueError unless there is a label for each image."""
    if len(targets) != len(images):
        raise ValueError(
            f"got {len(images)} images and {len(targets)} labels in {name}; expected one "
            "label per image"
        )

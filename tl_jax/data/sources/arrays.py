"""Sources of images in memory: NumPy arrays, and `.npz` files of them."""

import dataclasses
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import messages
from tl_jax.data import slices
from tl_jax.data.images import decode
from tl_jax.data.source import Example, Task
from tl_jax.data.sources.folder import split_called

Images = np.ndarray | Sequence[np.ndarray]
Labels = np.ndarray | Sequence[int] | Sequence[str]

_IMAGES, _LABELS = "x|images?|data", "y|labels?|targets?"
_HOW = (
    "expected `images` and `labels`; or for each split `x_train` and `y_train`, or `train_images` "
    "and `train_labels`; and perhaps `class_names`"
)


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images in memory.

    Attributes:
      name, split, tasks, skipped: as in `Source`; nothing is skipped.
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4], or one such array an image.
      targets: int32 [N], or int8 [N, classes] for a multi-label task.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    images: Images
    targets: np.ndarray
    skipped: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in `Source`."""
        return self.tasks[0].class_names

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Example:
        target = self.targets[index]
        return {
            "image": _rgb(self.images[index]),
            "label": target if self.tasks[0].multi_label else int(target),
        }


def from_arrays(
    images: Images,
    labels: Labels,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
) -> ArraySource:
    """Makes a source of images and labels in memory, such as a notebook has them.

    Args:
      images: uint8 [N, H, W] or [N, H, W, 1, 3 or 4] (gray, RGB, RGBA), values in [0, 255]; or a
        list of such arrays of any sizes, one an image.
      labels: the classes' indices [N] (or [N, 1]), -1 where one is missing; or their names [N]; or
        for a multi-label task [N, classes]: 1 or True for a class that the image has, 0 for one
        that it has not, -1 if that is not known.
      class_names: in the order of the indices. The default is the names sorted, or "0", "1", ...
        up to the largest index: name them if other splits may hold other ones.
      name: what messages and records call the source.
      split: name of the split.

    Raises:
      ValueError: if there are not as many labels as images, or either are of another form.
      TypeError: if the images are neither an array nor a list of arrays.
    """
    _check_images(images, name)
    task, targets = encode(labels, class_names, name=name)
    _check_count(images, targets, name)
    return ArraySource(name, split, (task,), images, targets)


def encode(
    labels: Labels, class_names: Sequence[str] | None = None, *, name: str
) -> tuple[Task, np.ndarray]:
    """Returns the task and the encoded labels of what `from_arrays` takes.

    Raises:
      ValueError: if the labels are of another form, or do not go with the class names.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    names = None if class_names is None else tuple(str(each) for each in class_names)
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"got the class names {list(names)} for {name}; expected each once")
    if values.ndim == 1 and values.dtype.kind in "US":
        return _from_names(values.astype(str), names, name)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return _from_indices(values, names, name)
    if values.ndim == 2 and values.dtype.kind in "iub":
        return _from_vectors(values, names, name)
    raise ValueError(
        f"got labels of type {values.dtype} and shape {list(values.shape)} in {name}; expected "
        "whole numbers [N], names [N], or 0 and 1 for each class [N, classes]: "
        "labels.astype(int), or labels.argmax(axis=1) of probabilities"
    )


def _from_names(
    values: np.ndarray, names: tuple[str, ...] | None, name: str
) -> tuple[Task, np.ndarray]:
    if names is None:
        names = tuple(sorted(set(values.tolist())))
    places = {each: i for i, each in enumerate(names)}
    unknown = sorted(set(values.tolist()) - set(names))
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} in {name} is none of the {len(names)} class names"
            f"{messages.hint(unknown[0], names)}"
        )
    return Task("label", names), np.asarray([places[each] for each in values.tolist()], np.int32)


def _from_indices(
    values: np.ndarray, names: tuple[str, ...] | None, name: str
) -> tuple[Task, np.ndarray]:
    values = values.astype(np.int64)
    largest = int(values.max(initial=-1))
    if largest < 0:
        raise ValueError(f"{name} holds no label; expected one at least")
    if names is None:
        names = tuple(str(i) for i in range(largest + 1))
    _check_range(values, -1, len(names) - 1, name)
    return Task("label", names), values.astype(np.int32)


def _from_vectors(
    values: np.ndarray, names: tuple[str, ...] | None, name: str
) -> tuple[Task, np.ndarray]:
    if names is None:
        names = tuple(str(i) for i in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise ValueError(
            f"got {len(names)} class names for labels {list(values.shape)} in {name}; expected a "
            "name a column"
        )
    if values.dtype.kind != "b":
        _check_range(values, -1, 1, name)
    return Task("label", names, multi_label=True), values.astype(np.int8)


def _check_range(values: np.ndarray, least: int, most: int, name: str) -> None:
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < least or high > most:
        raise ValueError(
            f"got labels from {low} to {high} in {name}; expected {least}, for missing, to {most}"
        )


def _check_count(images: Images, targets: np.ndarray, name: str) -> None:
    if len(targets) != len(images):
        raise ValueError(
            f"got {len(images)} images and {len(targets)} labels in {name}; expected a label an "
            "image"
        )


def _check_images(images: Images, name: str) -> None:
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
    mend = ": floats in [0, 1] must be scaled by 255 first" if dtype.kind == "f" else ""
    if not channels_last and len(shape) == 3 and shape[0] in (1, 3, 4):
        mend = ": move the channels to the end, images.transpose(0, 2, 3, 1)"
    raise ValueError(
        f"got images {dtype}{list(shape)} in {name}; expected uint8 [H, W] or [H, W, 1, 3 or 4]"
        f"{mend}"
    )


def _rgb(image: np.ndarray) -> np.ndarray:
    """Returns an image in RGB; what needs no conversion of colours takes no detour over Pillow."""
    if image.ndim == 2 or image.shape[-1] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image if image.shape[-1] == 3 else np.asarray(decode.as_rgb(image))


def open_splits(
    images: Mapping[str, Images],
    targets: Mapping[str, np.ndarray],
    spec: str,
    *,
    task: Task,
    name: str,
) -> ArraySource:
    """Opens what a split's specification selects of splits in memory.

    Args:
      images: of each split that the specification names, in the order that slices count.
      targets: encoded labels of each split.
      spec: name, slice or sum, as in `slices`.
      task: what the labels mean.
      name: of the source.

    Raises:
      ValueError: if the specification cannot be read, or names no split, or no example.
    """
    sizes = {split: len(values) for split, values in targets.items()}
    chosen = slices.select(spec, sizes, name=name)
    return ArraySource(
        name,
        spec,
        (task,),
        _joined([images[split][place.start : place.stop] for split, place in chosen]),
        np.concatenate([targets[split][place.start : place.stop] for split, place in chosen]),
    )


def _joined(parts: Sequence[Images]) -> Images:
    if len(parts) == 1:
        return parts[0]
    shapes = {part.shape[1:] if isinstance(part, np.ndarray) else None for part in parts}
    if len(shapes) == 1 and None not in shapes:
        return np.concatenate(parts)
    return [image for part in parts for image in part]


def open_npz(path: Path, split: str) -> ArraySource:
    """Opens a split of a `.npz` file of images and labels.

    Its arrays are called `images` and `labels` (one split, "train"), or by split: `x_train` and
    `y_train`, or `train_images` and `train_labels`, and so for any split, as Keras and MedMNIST
    name them; `val` and `valid` are opened as "validation". They are of the forms that
    `from_arrays` takes. `class_names` may name the classes; else they come from the labels of all
    splits. Slices count in the file's order: of a file sorted by class, `train[:90%]` lacks the
    last classes.

    Args:
      path: the file.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it cannot be read, its arrays are called or shaped otherwise, or the split is
        unknown.
    """
    name = f"npz:{path}"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a .npz file, as np.savez writes it")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no whole .npz file; write it with np.savez")
    with np.load(path, allow_pickle=False) as archive:
        keys = find_keys(archive.files, path)
        names = _read(archive, "class_names", path) if "class_names" in archive.files else None
        labels = {key: _read(archive, pair[1], path) for key, pair in keys.items()}
        task, targets = _encode_all(labels, names, name)
        # Images of other splits stay in the file.
        wanted = {part.split for part in slices.parse(split, keys)} & set(keys)
        images = {key: _read(archive, keys[key][0], path) for key in wanted}
    for key, values in images.items():
        _check_images(values, f"{name}, {keys[key][0]!r}")
        _check_count(values, targets[key], f"split {key!r} of {name}")
    return open_splits(images, targets, split, task=task, name=name)


def find_keys(files: Sequence[str], path: Path) -> dict[str, tuple[str, str]]:
    """Returns the names of the arrays of images and of labels of each split."""
    images, labels = _by_split(files, _IMAGES), _by_split(files, _LABELS)
    if not images or set(images) != set(labels):
        raise ValueError(f"{path} holds the arrays {', '.join(files) or 'none'}; {_HOW}")
    return {split: (images[split], labels[split]) for split in images}


def _by_split(files: Sequence[str], words: str) -> dict[str, str]:
    found = {}
    for file in files:
        match = re.fullmatch(rf"(?:{words})(?:_(\w+))?|(\w+)_(?:{words})", file, re.IGNORECASE)
        if match:
            split = (match[1] or match[2] or "train").lower()
            found[split_called(split)] = file
    return found


def _read(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return archive[key]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"cannot read {key!r} of {path}: {error}; write the file anew with np.savez, images as "
            "one uint8 array and names as np.array(names, dtype=str)"
        ) from error


def _encode_all(
    labels: Mapping[str, np.ndarray], class_names: np.ndarray | None, name: str
) -> tuple[Task, dict[str, np.ndarray]]:
    """Encodes the labels of all splits alike."""
    if len({(values.shape[1:], values.dtype.kind) for values in labels.values()}) > 1:
        forms = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in labels.items())
        raise ValueError(f"the splits of {name} have labels of several forms: {forms}")
    task, encoded = encode(np.concatenate(list(labels.values())), class_names, name=name)
    ends = np.cumsum([len(values) for values in labels.values()])[:-1]
    return task, dict(zip(labels, np.split(encoded, ends), strict=True))

"""The source of images and labels in a `.npz` file of NumPy arrays."""

import dataclasses
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as np_format

from tl_jax import files
from tl_jax.data import splits
from tl_jax.data.sources import array_labels, arrays
from tl_jax.data.sources.options import OpenOptions
from tl_jax.data.sources.weights import checked_weights

OPTIONS = frozenset({"value_range", "numbers", "ordered", "example_weights"})

# Deflate makes at most 1,032 bytes of one.
_MOST_BYTES_OF_ONE = 1032
_HEADERS = {(1, 0): np_format.read_array_header_1_0, (2, 0): np_format.read_array_header_2_0}
_IMAGES, _LABELS = "x|images?|data", "y|labels?|targets?"


def open(address: str, split: str, options: OpenOptions) -> arrays.ArraySource:
    """Opens a split of a `.npz` file of images and labels.

    Its arrays are called `images` and `labels` (one split, "train"), or for each split, as in the
    files of Keras and MedMNIST, `x_train` and `y_train` or `train_images` and `train_labels`; `val`
    and `valid` are opened as "validation". They have the forms that `arrays.from_arrays` takes. An
    array `class_names` may name the classes; otherwise they come from the labels of all splits.
    Images [N, V, H, W, C] are V views of one object. The labels are called "label": numbers to be
    regressed if `numbers` has that name, levels if `ordered` has it.
    Weights of the examples' losses are an array beside these, named in the same way: with
    `example_weights="certainty"` the array `certainty`, or `certainty_train` or `train_certainty`.
    Slices are taken in the file's order: if it is sorted by class, `train[:90%]` lacks the last
    classes.

    Args:
      address: the file.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: `value_range`, `example_weights`, and of `label_kinds` the numbers and levels are
        used.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it cannot be read, its arrays have other names or shapes, or the split is
        unknown.
    """
    path = _existing(address)
    name = f"npz:{path}"

    def read(key: str) -> np.ndarray:
        try:
            _check_size(path, key)
            return archive[key]
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"cannot read {key!r} of {path}: {error}; write the file again with np.savez, "
                "images as one uint8 array and names as np.array(names, dtype=str)"
            ) from error

    with np.load(path, allow_pickle=False) as archive:
        keys = _find_keys(archive.files, path)
        class_names = list(read("class_names")) if "class_names" in archive.files else None
        labels = {each: read(label_key) for each, (_, label_key) in keys.items()}
        # The images of other splits are not read.
        wanted = {splits.resolve(each.split, keys) for each in splits.parse(split, keys)}
        images = {each: read(keys[each][0]) for each in keys if each in wanted}
        weights = None
        if options.example_weights is not None:
            weight_keys = _find_weights(archive.files, options.example_weights, path, [*images])
            weights = {
                each: checked_weights(read(key), name=f"{name}, {key!r}", count=len(labels[each]))
                for each, key in weight_keys.items()
            }
    if len({(values.shape[1:], values.dtype.kind) for values in labels.values()}) > 1:
        forms = ", ".join(f"{each} {v.dtype}{list(v.shape)}" for each, v in labels.items())
        raise ValueError(
            f"the splits of {name} have labels of several forms: {forms}; write all in one form"
        )
    levels = options.label_kinds.levels
    if others := {*options.label_kinds.numbers, *levels} - {"label"}:
        raise ValueError(f"got the labels {sorted(others)} for {name}; they are called 'label'")
    task, encoded, notes = array_labels.encode_kind(
        np.concatenate(list(labels.values())),
        levels.get("label") or class_names,
        key="label",
        are_numbers="label" in options.label_kinds.numbers,
        is_ordered="label" in levels,
        name=name,
    )
    ends = np.cumsum([len(values) for values in labels.values()])[:-1]
    targets = dict(zip(labels, np.split(encoded, ends), strict=True))
    value_range = None
    for each, values in images.items():
        value_range = value_range or arrays.check_images(
            values, name=f"{name}, {keys[each][0]!r}", value_range=options.value_range
        )
        arrays.check_count(values, targets[each], name=f"split {each!r} of {name}")
    source = arrays.select_split(images, targets, split, task=task, name=name, weights=weights)
    spelled = {each: images_key for each, (images_key, _) in keys.items()}
    notes = (f"splits: {splits.listed(keys, spelled)}", *notes)
    return dataclasses.replace(source, value_range=value_range, notes=notes)


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the splits that the file's arrays are named by."""
    del options
    path = _existing(address)
    with np.load(path, allow_pickle=False) as archive:
        return tuple(_find_keys(archive.files, path))


def _check_size(path: Path, key: str) -> None:
    """Checks that an array is no larger than the file can hold, before memory is reserved for it.

    Raises:
      ValueError: if it is.
    """
    with zipfile.ZipFile(path) as archive:
        name = key if key in archive.namelist() else f"{key}.npy"
        with archive.open(name) as stream:
            read_header = _HEADERS.get(np_format.read_magic(stream))
            if read_header is None:  # A later version; NumPy reads it.
                return
            shape, _, dtype = read_header(stream)
        stored = min(archive.getinfo(name).file_size, _MOST_BYTES_OF_ONE * path.stat().st_size)
    promised = math.prod(shape) * dtype.itemsize
    if promised > stored and not dtype.hasobject:
        raise ValueError(
            f"its header promises an array {list(shape)} of {promised} bytes, and the file holds "
            f"at most {stored}"
        )


def _existing(address: str) -> Path:
    path = files.user_path(address)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a .npz file, as np.savez writes it")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete .npz file; write it with np.savez")
    return path


def _find_keys(files: Sequence[str], path: Path) -> dict[str, tuple[str, str]]:
    """Returns the names of the arrays of images and of labels of each split."""
    images, labels = _by_split(files, _IMAGES, path), _by_split(files, _LABELS, path)
    if not images or images.keys() != labels.keys():
        raise ValueError(
            f"{path} holds the arrays {', '.join(files) or 'none'}; expected `images` and "
            "`labels`; or for each split `x_train` and `y_train`, or `train_images` and "
            "`train_labels`; and optionally `class_names`"
        )
    return {split: (images[split], labels[split]) for split in images}


def _find_weights(
    files: Sequence[str], name: str, path: Path, wanted: Collection[str]
) -> dict[str, str]:
    """Returns the names of the arrays of weights of some splits."""
    found = _by_split(files, re.escape(name), path)
    if missing := [split for split in wanted if split not in found]:
        raise ValueError(
            f"{path} holds the arrays {', '.join(files)}, and no weights {name!r} of the split "
            f"{missing[0]!r}; expected {name}, {name}_{missing[0]} or {missing[0]}_{name}"
        )
    return {split: found[split] for split in wanted}


def _by_split(files: Sequence[str], words: str, path: Path) -> dict[str, str]:
    """Returns the arrays that are called by some words, by the splits in their names."""
    keys = dict[str, str]()
    for file in files:
        match = re.fullmatch(rf"(?:{words})(?:_(\w+))?|(\w+)_(?:{words})", file, re.IGNORECASE)
        if match:
            split = splits.canonical_name((match[1] or match[2] or "train").lower())
            if split in keys:
                raise ValueError(
                    f"the arrays {keys[split]!r} and {file!r} of {path} both mean the split "
                    f"{split!r}; expected one of each: leave one out"
                )
            keys[split] = file
    return {split: keys[split] for split in splits.in_order(keys)}

"""What the files of a TFDS set may name, and which of its images TFDS must not decode."""

import os
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from tl_jax import files

_FEATURES = "features.json"
_OWN = "tensorflow_datasets."
# TFDS imports the module of a feature's class; both spellings of the key are read.
_CLASS_KEYS = ("pythonClassName", "python_class_name")


def check_features(folder: tfds.core.Path) -> None:
    """Checks that features.json of a set names no module but TFDS's own, before TFDS imports it.

    Modules that the program has imported itself are fine, too.

    Raises:
      ValueError: if it names another, or cannot be read.
    """
    file = folder / _FEATURES
    try:
        names = [*_class_names(files.parse_json(file.read_text()))]
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"cannot read {_FEATURES} of {folder}: {reason}; copy the whole set, or prepare it "
            "again"
        ) from error
    other = next((name for name in names if not _is_known(name)), None)
    if other is not None:
        raise ValueError(
            f"{file} names the class {other!r}, and reading it would run that module's code; "
            "expected features of tensorflow_datasets. If you trust the module, import it before "
            "you open the set"
        )


def check_found(address: str, data_dir: str | None) -> None:
    """Checks features.json of every version and configuration of a set, as `check_features`.

    Args:
      address: `NAME[/CONFIG][:VERSION]`.
      data_dir: folder of prepared sets; None: all that are registered with TFDS.
    """
    name = address.partition(":")[0].partition("/")[0]
    for root in tfds.core.utils.file_utils.list_data_dirs(given_data_dir=data_dir):
        for pattern in (f"*/{_FEATURES}", f"*/*/{_FEATURES}"):
            for file in sorted((tfds.core.Path(root) / name).glob(pattern)):
                check_features(file.parent)


def check_inside(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Checks that the record files of a set, as dataset_info.json names them, are in its folder.

    Raises:
      ValueError: if one is not.
    """
    root = posixpath.normpath(os.fspath(folder))
    for name in names:
        if posixpath.dirname(posixpath.normpath(name)) != root:
            raise ValueError(
                f"dataset_info.json of {folder} names the file {name}, which is not in that "
                "folder; copy the whole set, or prepare it again"
            )


class _Encoded(tfds.decode.SkipDecoding):
    """Leaves images as they are encoded, also in lists and in lists of lists."""

    def decode_batch_example_np(self, values: Any) -> Any:
        return values

    def decode_ragged_example_np(self, values: Any) -> Any:
        return values


def undecoded(features: Mapping[str, tfds.features.FeatureConnector]) -> dict[str, Any]:
    """Returns what tells TFDS to leave images and videos, at any depth, as they are encoded.

    The source decodes the image of an example, within the limit on pixels; it uses no other.
    """
    decoders: dict[str, Any] = {}
    for key, feature in features.items():
        inner = feature
        while isinstance(inner, tfds.features.Sequence):  # A video is one.
            inner = inner.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            decoders[key] = undecoded(inner)
        elif isinstance(inner, tfds.features.Image):
            decoders[key] = _Encoded()
    return decoders


def _is_known(name: str) -> bool:
    return name.startswith(_OWN) or name.rpartition(".")[0] in sys.modules


def _class_names(value: Any) -> Iterator[str]:
    """Yields the names of classes in the content of features.json."""
    if isinstance(value, list):
        for each in value:
            yield from _class_names(each)
    if not isinstance(value, dict):
        return
    keys = (*_CLASS_KEYS, "type") if "content" in value else _CLASS_KEYS  # Earlier files.
    yield from (value[key] for key in keys if isinstance(value.get(key), str))
    for each in value.values():
        yield from _class_names(each)

"""The file that stores the features of a split, named by a hash of all that they depend on.

It is an `.npz` with the arrays `values` [views, N, ...] and `labels` [N], and the text `facts`: a
JSON object of what the features depend on. It can be deleted at any time.
"""

import dataclasses
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from tl_jax import files, trees
from tl_jax.data.source import Source
from tl_jax.models.model import Model

StorageDtype = Literal["float32", "bfloat16", "float16"]

_FORMAT = 1  # Increased when the same facts would give other features than before.
_SAMPLES = 32
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a split.

    Attributes:
      features: [views, N, ...], in the source's order. View 0 is the evaluation transform.
      labels: of the main task, in the forms of `Source.labels`: int32 [N] of classes.
      facts: what the features depend on, as stored in the file; `{}` without a file.
      from_cache: whether they were read from a file.
    """

    features: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]
    from_cache: bool


def describe(
    model: Model, variables: Mapping[str, Any], source: Source, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the facts that features depend on, as a JSON object.

    The data are identified by their name, split, size and classes, and by the pixels and labels of
    up to 32 examples spread over them. So a changed data set is detected, but a single replaced
    image may not be.

    Args:
      model: the network.
      variables: its variables.
      source: the split.
      options: how the features are computed, as a JSON object; `kept` is their storage dtype.
    """
    # The repr of a function holds its address, which differs between processes.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    samples = np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(int))
    return {
        "format": _FORMAT,
        "variables_sha256": _hash_variables(variables),
        "model": type(model).__name__,
        "model_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "source": source.name,
        "split": source.split,
        "count": len(source),
        "classes": list(source.class_names),
        "samples_sha256": _hash_examples(source, samples),
        **options,
    }


def path_in(folder: str | Path, facts: Mapping[str, Any]) -> Path:
    """Returns the path of the file of features with these facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return files.user_path(folder) / f"features-{digest[:24]}.npz"


def write(path: Path, values: np.ndarray, labels: np.ndarray, facts: dict[str, Any]) -> None:
    """Writes features atomically.

    Args:
      path: the file.
      values: [views, N, ...]; float16, or float32 that are rounded to `facts["kept"]`.
      labels: of the main task.
      facts: of `describe`.
    """
    if facts["kept"] == "bfloat16":
        # An .npz holds no bfloat16: store the upper half of the bits, as the lower half is zero.
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    with files.replacing(path) as part, part.open("wb") as stream:
        np.savez(stream, values=values, labels=labels, facts=np.asarray(json.dumps(facts)))


def read(path: Path, facts: dict[str, Any]) -> Features | None:
    """Returns the features in a file, or None if it is missing, damaged, or has other facts."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if json.loads(str(arrays["facts"])) != facts:
                return None
            values, labels = arrays["values"], arrays["labels"]
    except _DAMAGED:
        return None
    if values.shape[:2] != (facts["views"], len(labels)) or len(labels) != facts["count"]:
        return None
    if facts["kept"] == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return Features(values, labels, facts, from_cache=True)


def _hash_variables(variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of all names, shapes, dtypes and values of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in sorted(trees.flatten(variables).items()):
        array = np.asarray(jax.device_get(leaf))
        digest.update(f"{trees.dotted(path)} {array.shape} {array.dtype};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _hash_examples(source: Source, indices: np.ndarray) -> str:
    digest = hashlib.sha256()
    if not source.inputs.is_one_image:  # The order of categories and words decides their numbers.
        digest.update(repr(source.inputs).encode())
    is_class = source.tasks[0].kind in ("multi_class", "ordinal")
    for index in indices.tolist():
        example = source[index]
        label = int(example["label"]) if is_class else np.asarray(example["label"]).tolist()
        for image in example["image"] if source.inputs.views else [example["image"]]:
            pixels = np.ascontiguousarray(() if image is None else image)
            digest.update(f"{label} {pixels.shape};".encode() + pixels.tobytes())
        for key in source.inputs.keys:
            digest.update(np.ascontiguousarray(example[key]).tobytes())
    return digest.hexdigest()

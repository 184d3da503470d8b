"""What is recorded of an image when a set is prepared."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax.data.images import decode
from tl_jax.data.source import Task

Labels = Mapping[str, int | tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of an image that can be decoded.

    Attributes:
      split: of the set.
      index: position in the split's source.
      name: of its file, or what stands for one.
      labels: label by task, in the forms of `Example`, vectors as tuples.
      format, mode: Pillow's names of how it is stored, such as "JPEG" and "RGB".
      height, width: of the decoded image, in pixels.
      file_digest: of its bytes.
      pixel_digest: of its decoded pixels and size.
    """

    split: str
    index: int
    name: str
    labels: Labels
    format: str
    mode: str
    height: int
    width: int
    file_digest: bytes
    pixel_digest: bytes


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """An image that cannot be decoded, and why; `label` is the main task's, by name."""

    split: str
    index: int
    name: str
    label: str
    reason: str


def digest(data: bytes | np.ndarray) -> bytes:
    """Returns 16 bytes that differ for different bytes, or for arrays of different content."""
    found = hashlib.sha256()
    if isinstance(data, np.ndarray):
        found.update(repr(data.shape).encode())
        data = np.ascontiguousarray(data).data
    found.update(data)
    return found.digest()[:16]


def facts(
    data: bytes, decoded: decode.Decoded, *, split: str, index: int, name: str, labels: Labels
) -> Facts:
    """Returns what is known of an image, from its file's bytes and from its decoded pixels."""
    height, width = decoded.pixels.shape[:2]
    return Facts(
        split, index, name, labels, decoded.format, decoded.mode, height, width,
        file_digest=digest(data), pixel_digest=digest(decoded.pixels),
    )  # fmt: skip


def class_names(label: int | Sequence[int], task: Task) -> list[str]:
    """Returns the names of the classes that an image has; none, if its label is missing."""
    if task.multi_label:
        return [name for name, has in zip(task.class_names, label, strict=True) if has == 1]
    return [task.class_names[label]] if label >= 0 else []

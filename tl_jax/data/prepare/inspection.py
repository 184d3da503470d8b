"""What is recorded of each image when a set is prepared."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from tl_jax.data.images import decode
from tl_jax.data.images.values import Extremes
from tl_jax.data.source import Task

Labels = Mapping[str, tuple[int, ...]]
"""Label by task: the index of the class alone, or a value for each class if it is multi-label."""


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What is known of an image that can be decoded.

    Attributes:
      split: name of its split.
      index: its index in the split's source.
      name: name of its file, or what stands for one.
      labels: its labels; -1 where one is missing.
      format, mode: Pillow's names for how it is stored, such as "JPEG" and "RGB".
      height, width: size of the decoded image, in pixels.
      file_digest: hash of its bytes.
      pixel_digest: hash of its decoded pixels and their shape.
      extremes: its smallest and largest value.
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
    extremes: Extremes

    @classmethod
    def of(
        cls,
        data: bytes,
        decoded: decode.Decoded,
        *,
        split: str,
        index: int,
        name: str,
        labels: Labels,
    ) -> Self:
        """Returns what is known of an image from the bytes of its file and the decoded pixels."""
        height, width = decoded.pixels.shape[:2]
        pixels = hashlib.sha256(repr(decoded.pixels.shape).encode())
        pixels.update(np.ascontiguousarray(decoded.pixels).data)
        return cls(
            split=split,
            index=index,
            name=name,
            labels=labels,
            format=decoded.format,
            mode=decoded.mode,
            height=height,
            width=width,
            file_digest=hashlib.sha256(data).digest()[:16],
            pixel_digest=pixels.digest()[:16],
            extremes=decoded.extremes,
        )


@dataclasses.dataclass(frozen=True)
class CorruptImage:
    """An image that cannot be decoded.

    Attributes:
      split, index, name: as in `ImageInfo`.
      label: name of the main task's class; several are joined by "/".
      reason: why it cannot be decoded.
    """

    split: str
    index: int
    name: str
    label: str
    reason: str


def class_names(label: Sequence[int], task: Task) -> list[str]:
    """Returns the names of the classes that an image has; none if its label is missing."""
    if task.multi_label:
        return [name for name, value in zip(task.class_names, label, strict=True) if value == 1]
    (index,) = label
    return [task.class_names[index]] if index >= 0 else []

"""Examples as arrays in batches: what training and evaluation read of a source."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from tl_jax.data.images import fast_jpeg
from tl_jax.data.images.fast_jpeg import Pixels
from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.source import EncodedSource, Source, tasks_of

Batch = dict[str, np.ndarray]

# Longest side over the canvas, and shape of the largest area, of what is packed: photographs of
# 640 x 480 for networks of 224.
_LONGEST, _ASPECT = 2.5, 4 / 3


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """What both ways to read for training begin with."""

    source: Source
    canvas: int
    fast_jpeg: bool = True

    @functools.cached_property
    def _encoded(self) -> EncodedSource | None:
        """The source, if it has the files' bytes and they are wanted."""
        wanted = self.fast_jpeg and isinstance(self.source, EncodedSource)
        return self.source if wanted else None

    def decoded(self, index: int) -> tuple[dict[str, Any], Pixels]:
        """Returns an example and its pixels."""
        if self._encoded is not None:
            data, example = self._encoded.encoded(index)
            name = example.get("path", _name(self.source, index))
            return dict(example), fast_jpeg.read(data, self.canvas, name=name)
        example = self.source[index]
        image = example["image"]
        return dict(example), Pixels(image, image.shape[:2], image.shape[:2])


@dataclasses.dataclass(frozen=True)
class TrainReader(_Decoder):
    """Reads what training crops from: `image` stretched to a square, `size` and the labels.

    Attributes:
      source: the split.
      canvas: side of the square.
      fast_jpeg: whether large JPEG files are decoded at a reduced size (`fast_jpeg.read`).
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return (self.canvas, self.canvas, 3)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example."""
        example, pixels = self.decoded(index)
        return {**example, "image": pixels.stretched(self.canvas), "size": pixels.size}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero."""
        images = np.zeros((count, *self.shape), np.uint8)
        return {**_blank(self.source, images), "size": np.zeros((count, 2), np.int32)}


@dataclasses.dataclass(frozen=True)
class PackedReader(_Decoder):
    """Reads for training what the device is to stretch to a square (`stretch.stretch`).

    `image` holds the pixels of an image of any size, row after row, at the beginning of an array
    [room]; `packed` (int32 [2]) says of how many rows and columns, `extent` (float32 [2]) what they
    take of them. An image that has no room is stretched at once.

    Attributes:
      source, canvas, fast_jpeg: as in `TrainReader`.
    """

    @property
    def side(self) -> int:
        """Pixels of the longest side that is packed."""
        return math.ceil(_LONGEST * self.canvas)

    @property
    def shape(self) -> tuple[int]:
        """Bytes of an image: with a row to spare, as each row is read with what comes after it."""
        return (3 * self.side * (math.ceil(self.side / _ASPECT) + 1),)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example; `image` has its own length."""
        example, pixels = self.decoded(index)
        image, extent = pixels.image, pixels.extent
        if max(image.shape) > self.side or image.size > self.shape[0] - 3 * self.side:
            image, extent = pixels.stretched(self.canvas), (self.canvas, self.canvas)
        placed = {"image": image.reshape(-1), "packed": image.shape[:2], "extent": extent}
        return {**example, **placed, "size": pixels.size}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero but for the images.

        What these hold behind what is read is of no meaning: zeros would take time.
        """
        return {
            **_blank(self.source, np.empty((count, *self.shape), np.uint8)),
            "size": np.zeros((count, 2), np.int32),
            "packed": np.zeros((count, 2), np.int32),
            "extent": np.zeros((count, 2), np.float32),
        }


@dataclasses.dataclass(frozen=True)
class EvalReader:
    """Reads what is evaluated: `image` resized and cropped as configured, and the labels.

    Attributes:
      source: the split.
      preprocess: size and crop of the images.
    """

    source: Source
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return (*self.preprocess.size, 3)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example."""
        example = self.source[index]
        return {**example, "image": eval_image(example["image"], self.preprocess)}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero."""
        return _blank(self.source, np.zeros((count, *self.shape), np.uint8))


Reader = TrainReader | PackedReader | EvalReader


def _blank(source: Source, images: np.ndarray) -> Batch:
    """Returns the images with labels for them, all zero."""
    batch, count = {"image": images}, len(images)
    for place, task in enumerate(tasks_of(source)):
        several = (len(task.class_names),) if task.multi_label else ()
        batch["label" if place == 0 else task.name] = np.zeros(
            (count, *several), np.int8 if several else np.int32
        )
    return batch


def read(reader: Reader, indices: np.ndarray) -> Batch:
    """Reads examples into new arrays; where an index is -1, they stay zero.

    Raises:
      Exception: what the source raises; a note says of which example.
    """
    batch = reader.blank(len(indices))
    others = batch.keys() - {"image"}
    for place, index in enumerate(indices.tolist()):
        if index < 0:
            continue
        try:
            example = reader[index]
            batch["image"][place][: len(example["image"])] = example["image"]
            for name in others:
                batch[name][place] = example[name]
        except Exception as error:
            error.add_note(f"while reading {_name(reader.source, index)}")
            raise
    return batch


def _name(source: Source, index: int) -> str:
    return f"example {index} of split {source.split!r} of {source.name}"

"""Readers: turn a source's examples into the arrays of training and evaluation batches."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.source import Example, Source

if TYPE_CHECKING:
    from tl_jax.data.images.fast_jpeg import DecodedImage

HostBatch = dict[str, np.ndarray]

# The largest images that `PackedReader` packs at their own size: longest side over the canvas, and
# aspect ratio. For networks of 224 pixels, with a canvas of 256, this is 640 x 480.
_LONGEST, _ASPECT = 2.5, 4 / 3


@dataclasses.dataclass(frozen=True)
class TrainReader:
    """Reads training examples: `image` stretched to a square, `size` and the labels.

    Attributes:
      source: the split.
      canvas: side of the square.
      fast_jpeg: whether large JPEG files are decoded at a reduced size, if the source has files.
    """

    source: Source
    canvas: int
    fast_jpeg: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return (self.canvas, self.canvas, 3)

    def __getitem__(self, index: int) -> Example:
        """Reads one example."""
        example, decoded = self.decode(index)
        return {**example, "image": decoded.stretch(self.canvas), "size": decoded.size}

    def decode(self, index: int) -> tuple[Example, "DecodedImage"]:
        """Returns one example and its decoded image, of any size."""
        from tl_jax.data.images import fast_jpeg

        encoded = self.source.encoded(index) if self.fast_jpeg else None
        if encoded is not None:
            data, example = encoded
            name = example.get("path", _name(self.source, index))
            return example, fast_jpeg.decode_reduced(data, self.canvas, name=name)
        example = self.source[index]
        return example, fast_jpeg.DecodedImage.in_full(example["image"])

    def allocate(self, count: int) -> HostBatch:
        """Returns arrays for `count` examples, all zero."""
        images = np.zeros((count, *self.shape), np.uint8)
        size = np.zeros((count, 2), np.int32)
        return {"image": images, "size": size, **_allocate_labels(self.source, count)}


@dataclasses.dataclass(frozen=True)
class PackedReader(TrainReader):
    """Reads training examples whose images the device stretches to a square (`stretch.stretch`).

    `image` is an array [capacity] that begins with the pixels of an image of any size, row by row;
    `packed` (int32 [2]) is the number of its rows and columns, `extent` (float32 [2]) the part of
    them to be stretched. An image above this capacity is stretched here.

    Attributes:
      source, canvas, fast_jpeg: as in `TrainReader`.
    """

    @property
    def side(self) -> int:
        """Pixels of the longest side that is packed."""
        return math.ceil(_LONGEST * self.canvas)

    @property
    def shape(self) -> tuple[int, ...]:
        """Bytes for an image and one more row: `stretch` reads past the end of its last row."""
        return (3 * self.side * (math.ceil(self.side / _ASPECT) + 1),)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; its `image` has the pixels only, without the rest of the array."""
        example, decoded = self.decode(index)
        image, extent = decoded.pixels, decoded.extent
        if max(image.shape) > self.side or image.size > self.shape[0] - 3 * self.side:
            image, extent = decoded.stretch(self.canvas), (self.canvas, self.canvas)
        packed = {"image": image.reshape(-1), "packed": image.shape[:2], "extent": extent}
        return {**example, **packed, "size": decoded.size}

    def allocate(self, count: int) -> HostBatch:
        """Returns arrays for `count` examples, all zero but for the images.

        The images are not initialised, which would take time: what follows an image's pixels is
        never used.
        """
        return {
            "image": np.empty((count, *self.shape), np.uint8),
            "size": np.zeros((count, 2), np.int32),
            "packed": np.zeros((count, 2), np.int32),
            "extent": np.zeros((count, 2), np.float32),
            **_allocate_labels(self.source, count),
        }


@dataclasses.dataclass(frozen=True)
class EvalReader:
    """Reads evaluation examples: `image` resized and cropped, and the labels.

    Attributes:
      source: the split.
      preprocess: size and crop of the images.
    """

    source: Source
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return (*self.preprocess.size, self.preprocess.channels)

    def __getitem__(self, index: int) -> Example:
        """Reads one example."""
        example = self.source[index]
        return {**example, "image": eval_image(example["image"], self.preprocess)}

    def allocate(self, count: int) -> HostBatch:
        """Returns arrays for `count` examples, all zero."""
        images = np.zeros((count, *self.shape), np.uint8)
        return {"image": images, **_allocate_labels(self.source, count)}


Reader = TrainReader | EvalReader


def read_batch(reader: Reader, indices: np.ndarray) -> HostBatch:
    """Reads examples into new arrays; rows with index -1 stay as allocated.

    Raises:
      Exception: what the source raises, with a note that names the example.
    """
    batch = reader.allocate(len(indices))
    others = batch.keys() - {"image"}
    for row, index in enumerate(indices.tolist()):
        if index < 0:
            continue
        try:
            example = reader[index]
            batch["image"][row][: len(example["image"])] = example["image"]
            for name in others:
                batch[name][row] = example[name]
        except Exception as error:
            error.add_note(f"while reading {_name(reader.source, index)}")
            raise
    return batch


def _allocate_labels(source: Source, count: int) -> HostBatch:
    labels: HostBatch = {}
    for number, task in enumerate(source.tasks):
        name = task.name if number else "label"
        if task.multi_label:
            labels[name] = np.zeros((count, len(task.class_names)), np.int8)
        else:
            labels[name] = np.zeros(count, np.int32)
    return labels


def _name(source: Source, index: int) -> str:
    return f"example {index} of split {source.split!r} of {source.name}"

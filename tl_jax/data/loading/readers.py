"""Readers: turn a source's examples into the arrays of training and evaluation batches."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.source import INPUT_KEYS, WEIGHT, Example, Source, label_keys

if TYPE_CHECKING:
    from tl_jax.data.images.fast_jpeg import DecodedImage

HostBatch = dict[str, np.ndarray]

# The largest images that `PackedReader` packs at their own size: longest side over the canvas, and
# aspect ratio. For networks of 224 pixels, with a canvas of 256, this is 640 x 480.
_LONGEST, _ASPECT = 2.5, 4 / 3


@dataclasses.dataclass(frozen=True)
class TrainReader:
    """Reads training examples: `image` stretched to a square, `size`, labels, inputs, weights.

    Of a source with views there are V of the images, stacked, and of the sizes, zeros where one is
    missing, and `view_mask`.

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
        """Shape of an example's image, or of its views together."""
        return (*_views(self.source), self.canvas, self.canvas, 3)

    def __getitem__(self, index: int) -> Example:
        """Reads one example."""
        if self.source.inputs.views:
            example, views = self.decode_views(index)
            images = [None if view is None else view.stretch(self.canvas) for view in views]
            size = np.zeros((self.source.inputs.views, 2), np.int32)
            for place, view in enumerate(views):
                size[place] = (0, 0) if view is None else view.size
            return {**example, **_stacked(images, self.shape), "size": size}
        example, decoded = self.decode(index)
        return {**example, "image": decoded.stretch(self.canvas), "size": decoded.size}

    def decode(self, index: int) -> tuple[Example, "DecodedImage"]:
        """Returns one example and its decoded image, of any size."""
        from tl_jax.data.images import fast_jpeg

        encoded = self.source.encoded(index) if self.fast_jpeg else None
        if encoded is not None:
            data, example = encoded
            name = example.get("path", _name(self.source, index))
            return example, self._reduced(data, name)
        example = self.source[index]
        return example, fast_jpeg.DecodedImage.in_full(example["image"])

    def decode_views(self, index: int) -> tuple[Example, "list[DecodedImage | None]"]:
        """Returns one example and its decoded views, None where one is missing.

        Raises:
          ValueError: if it has more views than the source says.
        """
        from tl_jax.data.images import fast_jpeg

        encoded = self.source.encoded_views(index) if self.fast_jpeg else None
        if encoded is None:
            example = self.source[index]
            images = _checked_views(example["image"], self.source)
            whole = fast_jpeg.DecodedImage.in_full
            return example, [None if image is None else whole(image) for image in images]
        contents, example = encoded
        paths = example.get("path", [_name(self.source, index)] * len(contents))
        return example, [
            None if data is None else self._reduced(data, path)
            for data, path in zip(_checked_views(contents, self.source), paths, strict=True)
        ]

    def _reduced(self, data: bytes, name: str) -> "DecodedImage":
        from tl_jax.data.images import fast_jpeg

        value_range = self.source.value_range
        return fast_jpeg.decode_reduced(data, self.canvas, name=name, value_range=value_range)

    def allocate(self, count: int) -> HostBatch:
        """Returns arrays for `count` examples, zero or missing in all."""
        images = np.zeros((count, *self.shape), np.uint8)
        size = np.zeros((count, *_views(self.source), 2), np.int32)
        others = {**_allocate_others(self.source, count), **_allocate_weights(self.source, count)}
        return {"image": images, "size": size, **others}


@dataclasses.dataclass(frozen=True)
class PackedReader(TrainReader):
    """Reads training examples whose images the device stretches to a square (`stretch.stretch`).

    It is for sources of one image an example.

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
            **_allocate_others(self.source, count),
            **_allocate_weights(self.source, count),
        }


@dataclasses.dataclass(frozen=True)
class EvalReader:
    """Reads evaluation examples: `image` resized and cropped, labels and further inputs.

    Of a source with views there are V of the images, stacked, and `view_mask`.

    Attributes:
      source: the split.
      preprocess: size and crop of the images.
    """

    source: Source
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example's image, or of its views together."""
        return (*_views(self.source), *self.preprocess.size, self.preprocess.channels)

    def __getitem__(self, index: int) -> Example:
        """Reads one example."""
        example = self.source[index]
        if self.source.inputs.views:
            views = _checked_views(example["image"], self.source)
            images = [None if v is None else eval_image(v, self.preprocess) for v in views]
            return {**example, **_stacked(images, self.shape)}
        return {**example, "image": eval_image(example["image"], self.preprocess)}

    def allocate(self, count: int) -> HostBatch:
        """Returns arrays for `count` examples, zero or missing in all."""
        images = np.zeros((count, *self.shape), np.uint8)
        return {"image": images, **_allocate_others(self.source, count)}


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
                batch[name][row] = _fitting(example, name, batch[name].shape[1:])
        except Exception as error:
            error.add_note(f"while reading {_name(reader.source, index)}")
            raise
    return batch


def _views(source: Source) -> tuple[int, ...]:
    """Returns the axis that the views of an example have in a batch, if it has views."""
    return (source.inputs.views,) if source.inputs.views else ()


def _checked_views(views: Sequence[Any], source: Source) -> Sequence[Any]:
    if len(views) > source.inputs.views:
        raise ValueError(
            f"got {len(views)} views of one object; expected at most {source.inputs.views}, as "
            f"`inputs` of {source.name} says"
        )
    return views


def _stacked(images: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> Example:
    """Returns the images of an example as one array, 0 where one is missing, and a mask."""
    stacked, mask = np.zeros(shape, np.uint8), np.zeros(shape[0], bool)
    for place, image in enumerate(images):
        if image is not None:
            stacked[place], mask[place] = image, True
    return {"image": stacked, "view_mask": mask}


def _fitting(example: Example, name: str, shape: tuple[int, ...]) -> Any:
    """Returns a value of an example; without the check one of another shape might be repeated.

    Raises:
      ValueError: if it is not there, or has another shape than the source says.
    """
    if name not in example:
        says = {WEIGHT: "has_weights", **dict.fromkeys(INPUT_KEYS, "inputs")}.get(name, "tasks")
        raise ValueError(f"the example has no {name!r}, which the source's `{says}` promise")
    value = example[name]
    if shape and np.shape(value) != shape:
        raise ValueError(f"got {name!r} of shape {list(np.shape(value))}; expected {list(shape)}")
    return value


def _allocate_others(source: Source, count: int) -> HostBatch:
    """Returns arrays of the labels and the further inputs of `count` examples.

    Classes are 0, as they always were for what fills a batch; numbers and inputs are missing.
    """
    arrays: HostBatch = {}
    for name, task in zip(label_keys(source.tasks), source.tasks, strict=True):
        arrays[name] = np.zeros((count, *task.shape), task.dtype)
        if task.kind == "regression":
            arrays[name][:] = np.nan
    if source.inputs.views:
        arrays["view_mask"] = np.zeros((count, source.inputs.views), bool)
    return arrays | source.inputs.empty(count)


def _allocate_weights(source: Source, count: int) -> HostBatch:
    """Returns an array for the weights of `count` examples, if the source has weights."""
    return {WEIGHT: np.zeros(count, np.float32)} if source.has_weights else {}


def _name(source: Source, index: int) -> str:
    return f"example {index} of split {source.split!r} of {source.name}"

"""Batches of uint8 images in the host's memory, in an order set by the seed and the step alone."""

import contextlib
import dataclasses
import itertools
from collections.abc import Generator

import numpy as np

from tl_jax.data.loading.memory_cache import MemoryCache
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Order, Stream
from tl_jax.data.loading.readers import EvalReader, HostBatch, PackedReader, TrainReader
from tl_jax.data.loading.workers import read_ahead
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source


def host_train_batches(
    source: Source,
    options: LoadOptions,
    *,
    canvas: int,
    order: Order,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    packed: bool = False,
) -> Generator[HostBatch, None, None]:
    """Yields training batches without end.

    The order is one endless stream of examples, cut into the batches of steps 0, 1, ...; a batch
    may span two epochs. So `start_step=k` continues a run that was stopped after k steps, and the
    processes' batches of a step, concatenated, are the batch of a single process. Workers and cache
    do not change what is in a batch.

    Args:
      source: the split.
      options: how the examples are read; `cache` is "none" or "memory" here.
      canvas: side of the square that each image is stretched to.
      order: order of the examples, such as `order.Uniform(len(source), seed)`.
      start_step: step of the first batch.
      process_index, process_count: which part of each batch this process reads.
      packed: yield images as `PackedReader` reads them, with `packed` and `extent`, for the device
        to stretch. For JPEG files stretching is most of the work.

    Returns:
      A generator of dicts of `image` uint8 [b, canvas, canvas, 3], `size` int32 [b, 2] (height and
      width of each file's image), `label` int32 [b] (int8 [b, classes] for a multi-label task,
      float32 [b] for a regression), the labels of further tasks under their names, the further
      inputs (`Inputs`) and, of a source with weights, `example_weight` float32 [b], with b =
      batch_size / process_count. With V views an example, `image` and `size` have the axis V after
      the first, and `view_mask` is bool [b, V]. Close it to end the workers.

    Raises:
      ValueError: if the batch cannot be shared out evenly, a number is negative, the cache would
        not fit into memory, or the images of a source with views would be packed.
      CorruptImageError: while iterating, if an image cannot be decoded.

    Examples:
      >>> from tl_jax.data.loading.order import Uniform
      >>> from tl_jax.data.sources.arrays import from_arrays
      >>> source = from_arrays(np.zeros((6, 8, 8, 3), np.uint8), [0, 1, 0, 1, 0, 1])
      >>> order, options = Uniform(len(source), seed=0), LoadOptions(batch_size=4, workers=0)
      >>> batches = host_train_batches(source, options, canvas=16, order=order)
      >>> next(batches)["image"].shape
      (4, 16, 16, 3)
    """
    share = ProcessShare(options.batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"got start_step={start_step}; expected 0 or more")
    if packed and source.inputs.views:
        raise ValueError(
            f"{source.name} has {source.inputs.views} views an example, and devices stretch single "
            "images only; let the host stretch them (data.stretch_on 'host' or 'auto')"
        )
    make_reader = PackedReader if packed else TrainReader
    reader = make_reader(source, canvas, options.fast_jpeg)
    stream = Stream(order)
    index_batches = (stream[share.positions(step)] for step in itertools.count(start_step))
    if _is_cached(options):
        cache = MemoryCache(
            reader,
            options,
            needed=lambda: _needed_from(stream, share, start_step, len(source)),
            max_examples=len(source),
            chunk=share.size,
        )
        return cache.batches(index_batches)
    return read_ahead(reader, index_batches, options)


def host_eval_batches(
    source: Source,
    options: LoadOptions,
    *,
    preprocess: Preprocess,
    process_index: int = 0,
    process_count: int = 1,
) -> "HostEvalBatches":
    """Returns the batches that hold every example of a split exactly once.

    The last batch is padded with black images of label 0 (NaN if labels are numbers), without
    views or further inputs, and with index -1, for which `mask` is False.
    All processes get the same number of batches, some of them perhaps all padding.

    Args:
      source: the split.
      options: how the examples are read; `cache="memory"` keeps the prepared images for the next
        pass; "device" is not supported here.
      preprocess: size and crop of the images; they are not normalised here.
      process_index, process_count: which part of each batch this process reads.

    Returns:
      An iterable of dicts of `image` uint8 [b, height, width, channels], `mask` bool [b], `index`
      int32 [b] (position in the source), labels, views and further inputs as in
      `host_train_batches`.

    Raises:
      ValueError, CorruptImageError: as `host_train_batches`; ValueError if the source is empty.
    """
    if len(source) == 0:
        raise ValueError(f"split {source.split!r} of {source.name} holds no example")
    share = ProcessShare(options.batch_size, process_index, process_count)
    batches = HostEvalBatches(EvalReader(source, preprocess), options, share)
    if not _is_cached(options):
        return batches
    cache = MemoryCache(
        batches.reader,
        options,
        needed=batches.needed,
        max_examples=min(len(source), len(batches) * share.size),
        chunk=share.size,
    )
    return dataclasses.replace(batches, cache=cache)


@dataclasses.dataclass(frozen=True)
class ProcessShare:
    """The part of every batch that one process reads."""

    batch_size: int
    process_index: int
    process_count: int

    def __post_init__(self) -> None:
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"got process_index={self.process_index} and process_count={self.process_count}; "
                "expected 0 <= index < count"
            )
        if self.batch_size % self.process_count:
            raise ValueError(
                f"got batch_size={self.batch_size} over {self.process_count} processes; expected "
                "a multiple of their number"
            )

    @property
    def size(self) -> int:
        """Examples of a step that this process reads."""
        return self.batch_size // self.process_count

    def positions(self, step: int) -> range:
        """Returns the positions of these examples in the stream of all examples."""
        start = step * self.batch_size + self.process_index * self.size
        return range(start, start + self.size)


@dataclasses.dataclass(frozen=True)
class HostEvalBatches:
    """The batches of one pass over a split; iterate over it for each pass.

    `len` is the number of batches, the same in every process.
    """

    reader: EvalReader
    options: LoadOptions
    share: ProcessShare
    cache: MemoryCache | None = None

    def __len__(self) -> int:
        return -(-len(self.reader.source) // self.options.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Returns this process's examples of a batch, -1 for padding."""
        positions = np.asarray(self.share.positions(step))
        return np.where(positions < len(self.reader.source), positions, -1)

    def needed(self) -> np.ndarray:
        """Returns all examples that this process evaluates, in order."""
        indices = np.concatenate([self.indices(step) for step in range(len(self))])
        return indices[indices >= 0]

    def __iter__(self) -> Generator[HostBatch, None, None]:
        index_batches = [self.indices(step) for step in range(len(self))]
        if self.cache is None:
            batches = read_ahead(self.reader, index_batches, self.options)
        else:
            batches = self.cache.batches(index_batches)
        with contextlib.closing(batches):
            for indices, batch in zip(index_batches, batches, strict=True):
                yield {**batch, "mask": indices >= 0, "index": indices.astype(np.int32)}


def _is_cached(options: LoadOptions) -> bool:
    if options.cache == "device":
        raise ValueError(
            "got cache='device' for batches of the host; expected 'memory' or 'none', or a call of "
            "tl_jax.data.loading.device_batches"
        )
    return options.cache == "memory"


def _needed_from(stream: Stream, share: ProcessShare, start_step: int, count: int) -> np.ndarray:
    """Returns all `count` examples, in about the order in which training needs them.

    Looks two epochs ahead, which hold every example if one process goes through permutations;
    examples that are not drawn until then come last.
    """
    steps = range(start_step, start_step + -(-2 * count // share.size))
    draws = np.concatenate([stream[share.positions(step)] for step in steps])
    drawn, first = np.unique(draws, return_index=True)
    rest = np.setdiff1d(np.arange(count), drawn, assume_unique=True)
    return np.concatenate([draws[np.sort(first)], rest])

"""Batches of uint8 images read by Grain, in an order that (seed, step) alone decides."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Literal

import grain
import numpy as np

from tl_jax.data.preprocess import Preprocess, canvas_image, eval_image
from tl_jax.data.source import Source

Batch = dict[str, np.ndarray]
Cache = Literal["memory", "none"]


def train_batches(
    source: Source,
    *,
    batch_size: int,
    canvas: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    cache: Cache = "none",
) -> Iterator[Batch]:
    """Yields training batches without end.

    The examples form one endless stream, each epoch a new permutation by (seed, epoch); the
    batch of step k is the k-th piece of it, and a batch may span two epochs. So an iterator with
    `start_step=k` yields what one from the beginning yields from its k-th batch on, and the
    processes' batches of one step, in order, are the batch of a single process.

    Args:
      source: the split.
      batch_size: examples of a step over all processes.
      canvas: side of the square that each image is stretched to.
      seed: chooses the order.
      start_step: step of the first batch.
      process_index, process_count: which part of each batch is this process's.
      workers: threads that decode; each makes whole batches.
      cache: "memory" keeps every canvas once it is decoded (canvas * canvas * 3 bytes each).

    Returns:
      An iterator over dicts of `image` uint8 [b, canvas, canvas, 3], `size` int32 [b, 2] (height
      and width of each file's image) and `label` int32 [b], with b = batch_size / process_count.

    Raises:
      ValueError: if the source is empty, the batch cannot be shared out evenly, or the cache
        would not fit into memory.
      CorruptImageError: while iterating, if an image cannot be decoded.
    """
    local = _local_batch(source, batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"got start_step={start_step}; expected 0 or more")
    reader = _cached(_TrainReader(source, canvas), cache)
    # As good as endless: Grain cannot count batches beyond 2**63.
    positions = grain.MapDataset.range(2**62)
    stream = positions.map(lambda position: reader[_index(position, len(reader), seed)])
    pieces = stream.batch(local)[start_step * process_count + process_index :: process_count]
    return iter(pieces.to_iter_dataset(_read_options(workers)))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The batches of one pass over a split, in order; iterate over it as often as needed.

    `len` is the number of batches, the same in every process.
    """

    pieces: grain.MapDataset
    workers: int

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.pieces.to_iter_dataset(_read_options(self.workers)))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    preprocess: Preprocess,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    cache: Cache = "none",
) -> EvalBatches:
    """Returns the batches that hold every example of a split exactly once.

    The last batch is filled up with black images of label 0 and index -1, for which `mask` is
    False. All processes get the same number of batches, some perhaps all padding.

    Args:
      source: the split.
      batch_size: examples of a step over all processes.
      preprocess: size and crop of the images; they are not normalised here.
      process_index, process_count: which part of each batch is this process's.
      workers: threads that decode; each makes whole batches.
      cache: "memory" keeps every prepared image for the next pass.

    Returns:
      An iterable of dicts of `image` uint8 [b, height, width, 3], `label` int32 [b], `mask`
      bool [b] and `index` int32 [b] (position in the source), with
      b = batch_size / process_count.

    Raises:
      ValueError, CorruptImageError: as `train_batches`.
    """
    local = _local_batch(source, batch_size, process_index, process_count)
    reader = _cached(_EvalReader(source, preprocess), cache)
    steps = -(-len(source) // batch_size)
    positions = grain.MapDataset.range(steps * batch_size)
    examples = positions.map(lambda position: _padded(reader, position, preprocess.size))
    return EvalBatches(examples.batch(local)[process_index::process_count], workers)


@dataclasses.dataclass(frozen=True)
class _TrainReader:
    source: Source
    canvas: int

    @property
    def shape(self) -> tuple[int, int]:
        return (self.canvas, self.canvas)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Batch:
        example = self.source[index]
        return {
            "image": canvas_image(example["image"], self.canvas),
            "size": np.asarray(example["image"].shape[:2], np.int32),
            "label": np.asarray(example["label"], np.int32),
        }


@dataclasses.dataclass(frozen=True)
class _EvalReader:
    source: Source
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, int]:
        return self.preprocess.size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Batch:
        example = self.source[index]
        return {
            "image": eval_image(example["image"], self.preprocess),
            "label": np.asarray(example["label"], np.int32),
        }


_Reader = _TrainReader | _EvalReader


@dataclasses.dataclass(frozen=True)
class _CachedReader:
    """Keeps what a reader has read. Two threads may read one example twice, to the same end."""

    reader: _Reader
    kept: dict[int, Batch] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Batch:
        if index not in self.kept:
            self.kept[index] = self.reader[index]
        return self.kept[index]


def _cached(reader: _Reader, cache: Cache) -> _Reader | _CachedReader:
    if cache not in ("memory", "none"):
        raise ValueError(f"got cache={cache!r}; expected 'memory' or 'none'")
    if cache == "none":
        return reader
    need = len(reader) * reader.shape[0] * reader.shape[1] * 3
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise ValueError(
            f"cache='memory' would keep {len(reader)} images, {need / 2**30:.1f} GiB, in a "
            f"machine of {have / 2**30:.1f} GiB; use cache='none'"
        )
    return _CachedReader(reader)


def _padded(reader: _Reader | _CachedReader, position: int, size: tuple[int, int]) -> Batch:
    real = position < len(reader)
    blank = {"image": np.zeros((*size, 3), np.uint8), "label": np.int32(0)}
    return {
        **(reader[position] if real else blank),
        "mask": np.asarray(real),
        "index": np.asarray(position if real else -1, np.int32),
    }


def _local_batch(source: Source, batch_size: int, process_index: int, process_count: int) -> int:
    if len(source) == 0:
        raise ValueError(f"split {source.split!r} of {source.name} holds no example")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"got process_index={process_index} and process_count={process_count}; expected "
            "0 <= index < count"
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"got batch_size={batch_size} over {process_count} processes; expected a positive "
            "multiple of their number"
        )
    return batch_size // process_count


def _index(position: int, count: int, seed: int) -> int:
    """Returns the example at a position of the endless stream of permutations."""
    epoch, place = divmod(position, count)
    return int(_order(seed, epoch, count)[place])


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Draws the permutation of one epoch.

    Grain's own shuffle takes milliseconds an index for sets of a few examples. Sorting raw bits
    gives the same order with every version of NumPy, which promises that of no other method.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(bits, kind="stable")


def _read_options(workers: int) -> grain.ReadOptions:
    if workers < 1:
        raise ValueError(f"got workers={workers}; expected at least 1")
    return grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers + 1)

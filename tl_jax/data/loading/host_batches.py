"""Batches of uint8 images read by Grain, in an order that (seed, step) alone decides."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

import grain
import numpy as np

from tl_jax.data.loading import order as sampling
from tl_jax.data.loading.memory_cache import MemoryCache
from tl_jax.data.loading.readers import Batch, EvalReader, PackedReader, Reader, TrainReader
from tl_jax.data.loading.workers import Reading, Workers, WorkerType
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source

Cache = Literal["memory", "none"]

# As good as endless: Grain cannot count batches beyond 2**63.
_ENDLESS = 2**62


def train_batches(
    source: Source,
    *,
    batch_size: int,
    canvas: int,
    seed: int | None = None,
    order: sampling.Order | None = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    worker_type: WorkerType = "thread",
    cache: Cache = "none",
    fast_jpeg: bool = True,
    packed: bool = False,
) -> "TrainBatches":
    """Yields training batches without end.

    The examples form one endless stream, by default each epoch a new permutation by (seed, epoch);
    the batch of step k is the k-th piece of it, and a batch may span two epochs. So an iterator
    with `start_step=k` yields what one from the beginning yields from its k-th batch on, and the
    processes' batches of one step, in order, are the batch of a single process. Neither workers nor
    cache change what is in a batch.

    Args:
      source: the split.
      batch_size: examples of a step over all processes.
      canvas: side of the square that each image is stretched to.
      seed: chooses the order, in which every example comes once an epoch; not with `order`.
      order: another order, such as `sampling.Balanced(source.labels(), seed)`.
      start_step: step of the first batch.
      process_index, process_count: which part of each batch is this process's.
      workers: threads or processes that read, each whole batches; 0: the calling thread does.
      worker_type: "thread", or "process" where Python itself holds up the reading.
      cache: "memory" keeps every canvas once it is read (canvas * canvas * 3 bytes each).
      fast_jpeg: whether JPEG files at least twice as large as the canvas are decoded at a reduced
        size, where the source has the files' bytes.
      packed: leaves it to the device to stretch the images, which come as they are then, with
        `packed` and `extent` (`reader.PackedReader`). For JPEG files stretching is most of the
        work.

    Returns:
      An iterator over dicts of `image` uint8 [b, canvas, canvas, 3], `size` int32 [b, 2] (height
      and width of each file's image), `label` int32 [b] (int8 [b, classes] if an image may have
      several) and the labels of further tasks under their names, with
      b = batch_size / process_count. It can be closed, and is where its `with` ends.

    Raises:
      ValueError: if the source is empty, the batch cannot be shared out evenly, or the cache
        would not fit into memory.
      CorruptImageError: while iterating, if an image cannot be decoded.
    """
    share = _Share.of(source, batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"got start_step={start_step}; expected 0 or more")
    if (seed is None) == (order is None):
        raise ValueError(
            f"got seed={seed} and order={order}; expected one of them: an order has its own seed"
        )
    drawn = sampling.Uniform(len(source), seed) if order is None else order
    reader = PackedReader if packed else TrainReader
    return TrainBatches(
        reader(source, canvas, fast_jpeg),
        TrainPlan(share, sampling.Stream(drawn)),
        start_step=start_step,
        workers=Workers(workers, worker_type),
        cache=cache,
    )


class TrainBatches(Iterator[Batch]):
    """The batches of training from a step on, without end; see `train_batches`."""

    def __init__(
        self,
        reader: TrainReader | PackedReader,
        plan: "TrainPlan",
        *,
        start_step: int,
        workers: Workers,
        cache: Cache,
    ) -> None:
        """Begins to read ahead, unless there is a cache."""
        self._plan, self._step = plan, start_step
        count = len(reader.source)
        self._cache = _cached(
            cache,
            reader,
            need=lambda: plan.need(start_step, count),
            count=count,
            chunk=plan.share.local,
            workers=workers,
        )
        self._reading: Reading | None = None
        if self._cache is None:
            steps = grain.MapDataset.range(start_step, start_step + _ENDLESS)
            self._reading = workers.start(reader, steps, plan)

    def __next__(self) -> Batch:
        if self._cache is None:
            return next(self._reading)
        batch = self._cache.take(self._plan(self._step))
        self._step += 1
        return batch

    def close(self) -> None:
        """Ends the workers; no batch is to be taken after that."""
        (self._cache or self._reading).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    preprocess: Preprocess,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    worker_type: WorkerType = "thread",
    cache: Cache = "none",
) -> "EvalBatches":
    """Returns the batches that hold every example of a split exactly once.

    The last batch is filled up with black images of label 0 and index -1, for which `mask` is
    False. All processes get the same number of batches, some perhaps all padding.

    Args:
      source: the split.
      batch_size: examples of a step over all processes.
      preprocess: size and crop of the images; they are not normalised here.
      process_index, process_count: which part of each batch is this process's.
      workers, worker_type: as in `train_batches`.
      cache: "memory" keeps every prepared image for the next pass.

    Returns:
      An iterable of dicts of `image` uint8 [b, height, width, 3], `mask` bool [b], `index`
      int32 [b] (position in the source) and labels as in `train_batches`.

    Raises:
      ValueError, CorruptImageError: as `train_batches`.
    """
    share = _Share.of(source, batch_size, process_index, process_count)
    reader, plan = EvalReader(source, preprocess), EvalPlan(share, len(source))
    chosen = Workers(workers, worker_type)
    count = min(len(source), len(plan) * share.local)
    kept = _cached(cache, reader, need=plan.need, count=count, chunk=share.local, workers=chosen)
    return EvalBatches(reader, plan, chosen, kept)


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The batches of one pass over a split, in order; iterate over it as often as needed.

    `len` is the number of batches, the same in every process.
    """

    reader: EvalReader
    plan: "EvalPlan"
    workers: Workers
    cache: MemoryCache | None

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        if self.cache is not None:
            for step in range(len(self)):
                yield self._whole(step, self.cache.take(self.plan(step)))
            return
        steps = grain.MapDataset.range(len(self))
        with contextlib.closing(self.workers.start(self.reader, steps, self.plan)) as reading:
            for step, batch in enumerate(reading):
                yield self._whole(step, batch)

    def _whole(self, step: int, batch: Batch) -> Batch:
        indices = self.plan(step)
        return {**batch, "mask": indices >= 0, "index": indices.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class _Share:
    """Which part of a global batch is this process's, and how many examples that are."""

    local: int
    index: int
    count: int

    @classmethod
    def of(
        cls, source: Source, batch_size: int, process_index: int, process_count: int
    ) -> "_Share":
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
        return cls(batch_size // process_count, process_index, process_count)

    def positions(self, step: int) -> range:
        """Returns the positions in the stream of all examples that this process has in a step."""
        start = (step * self.count + self.index) * self.local
        return range(start, start + self.local)


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """The examples of each step of training."""

    share: _Share
    stream: sampling.Stream

    def __call__(self, step: int) -> np.ndarray:
        """Returns this process's examples of a step."""
        return self.stream[self.share.positions(step)]

    def need(self, start_step: int, count: int) -> np.ndarray:
        """Returns all of `count` examples, in about the order in which they are needed first.

        The draws that are looked ahead hold every example once, if one process goes through
        permutations; what else they do not hold comes last.
        """
        steps = range(start_step, start_step + -(-2 * count // self.share.local))
        draws = np.concatenate([self(step) for step in steps])
        found, first = np.unique(draws, return_index=True)
        rest = np.setdiff1d(np.arange(count), found, assume_unique=True)
        return np.concatenate([draws[np.sort(first)], rest])


@dataclasses.dataclass(frozen=True)
class EvalPlan:
    """The examples of each batch of evaluation; `len` is their number."""

    share: _Share
    count: int

    def __len__(self) -> int:
        return -(-self.count // (self.share.local * self.share.count))

    def __call__(self, step: int) -> np.ndarray:
        """Returns this process's examples of a batch, -1 for padding."""
        positions = np.asarray(self.share.positions(step))
        return np.where(positions < self.count, positions, -1)

    def need(self) -> np.ndarray:
        """Returns all examples of this process."""
        indices = np.concatenate([self(step) for step in range(len(self))])
        return indices[indices >= 0]


def _cached(
    cache: Cache,
    reader: Reader,
    *,
    need: Callable[[], np.ndarray],
    count: int,
    chunk: int,
    workers: Workers,
) -> MemoryCache | None:
    if cache not in ("memory", "none"):
        raise ValueError(
            f"got cache={cache!r}; expected 'memory' or 'none' (`feed` has 'device' too)"
        )
    if cache == "none":
        return None
    return MemoryCache(reader, need, count=count, chunk=chunk, workers=workers)

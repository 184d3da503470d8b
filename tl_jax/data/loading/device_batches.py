"""Batches on the devices, from a step on or for a pass: each put there ahead of the step."""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, get_args, runtime_checkable

import jax
from jax.sharding import NamedSharding

from tl_jax.data.loading import host_batches, place
from tl_jax.data.loading import order as sampling
from tl_jax.data.loading.device_cache import DeviceCache, Placed, device_memory
from tl_jax.data.loading.memory_cache import check_memory
from tl_jax.data.loading.readers import Batch, PackedReader, TrainReader
from tl_jax.data.loading.stretch import stretch
from tl_jax.data.loading.workers import Workers, WorkerType
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source

Cache = Literal["none", "memory", "device"]
StretchOn = Literal["auto", "device", "host"]

# What images are stretched from.
_PACKED = ("image", "packed", "extent")


@runtime_checkable
class _Closing(Protocol):
    def close(self) -> None: ...


def prefetch(
    batches: Iterable[Batch], sharding: NamedSharding, *, depth: int = 2
) -> Iterator[Placed]:
    """Yields the batches on their devices, each put there while the ones before it are used.

    Args:
      batches: of the host; closed, if they can be, when no more is wanted.
      sharding: how a batch lies on the devices.
      depth: batches on their way beside the one that is handed out; 0 puts each as it is asked for.

    Raises:
      ValueError: if the depth is negative.
    """
    if depth < 0:
        raise ValueError(f"got depth={depth}; expected 0 or more batches")
    return _prefetch(batches, sharding, depth)


def _prefetch(batches: Iterable[Batch], sharding: NamedSharding, depth: int) -> Iterator[Placed]:
    iterator = iter(batches)
    try:
        placed = (place.put(batch, sharding) for batch in iterator)
        ahead = deque(itertools.islice(placed, depth))
        for batch in placed:
            ahead.append(batch)
            yield ahead.popleft()
        yield from ahead
    finally:
        if isinstance(iterator, _Closing):
            iterator.close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    canvas: int,
    order: sampling.Order,
    sharding: NamedSharding,
    start_step: int = 0,
    workers: int = 2,
    worker_type: WorkerType = "thread",
    cache: Cache = "none",
    fast_jpeg: bool = True,
    stretch_on: StretchOn = "auto",
    depth: int = 2,
) -> Iterator[Placed]:
    """Yields training batches on their devices from a step on, without end.

    The batch of a step is the same, bit by bit, whatever the cache, the workers, the depth and the
    number of processes.

    Args:
      source, batch_size, canvas, order, start_step, workers, worker_type, fast_jpeg: as in
        `loader.train_batches`.
      sharding: how a batch lies on the devices: split by its first axis over the mesh's.
      cache: "none" reads every image every time; "memory" keeps the canvases in the host's
        memory; "device" on the devices (`DeviceCache`).
      stretch_on: who stretches images to the canvas: "host", its workers; "device", which leaves
        the workers decoding alone (for differences in rounding see `stretch`), and is not for a
        cache, which stretches each image once; "auto": the devices, if they are no CPUs and there
        is no cache.
      depth: batches on their way to the devices beside the one in use; nothing is on its way
        where the images are on the devices.

    Raises:
      ValueError: as `loader.train_batches`; if the images do not fit on the devices.
    """
    later = _stretches_later(stretch_on, cache, sharding)
    if cache == "device":
        reader = TrainReader(source, canvas, fast_jpeg)
        kept = DeviceCache(reader, sharding, workers=Workers(workers, worker_type))
        return kept.train_batches(order, batch_size=batch_size, start_step=start_step)
    batches = host_batches.train_batches(
        source,
        batch_size=batch_size,
        canvas=canvas,
        order=order,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
        worker_type=worker_type,
        cache=cache,
        fast_jpeg=fast_jpeg,
        packed=later,
    )
    placed = prefetch(batches, sharding, depth=depth)
    if not later:
        return placed
    side = PackedReader(source, canvas).side
    return _stretched(placed, sharding, side=side, canvas=canvas)


def _stretches_later(stretch_on: StretchOn, cache: Cache, sharding: NamedSharding) -> bool:
    """Returns whether the devices stretch the images."""
    if stretch_on not in get_args(StretchOn) or (stretch_on == "device" and cache != "none"):
        raise ValueError(
            f"got stretch_on={stretch_on!r} with cache={cache!r}; expected 'auto', 'host', or "
            "'device' with cache='none'"
        )
    if stretch_on == "auto":
        platforms = {device.platform for device in sharding.device_set}
        return cache == "none" and platforms != {"cpu"}
    return stretch_on == "device"


def _stretched(
    batches: Iterator[Placed], sharding: NamedSharding, *, side: int, canvas: int
) -> Iterator[Placed]:
    """Yields the batches with their images stretched on the devices."""
    stretched = jax.jit(stretch, static_argnames=("side", "canvas"), out_shardings=sharding)
    with contextlib.closing(batches):
        for batch in batches:
            image = stretched(*(batch[name] for name in _PACKED), side=side, canvas=canvas)
            rest = {name: array for name, array in batch.items() if name not in _PACKED}
            yield {**rest, "image": image}


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    preprocess: Preprocess,
    sharding: NamedSharding,
    workers: int = 2,
    worker_type: WorkerType = "thread",
    cache: Cache = "none",
    depth: int = 2,
) -> "PlacedBatches":
    """Returns the batches that hold every example of a split exactly once, on their devices.

    Args:
      source, batch_size, preprocess, workers, worker_type: as in `loader.eval_batches`.
      sharding, depth: as in `train_batches`.
      cache: "device" keeps the batches of the first pass on the devices, split as they are.

    Raises:
      ValueError: as `loader.eval_batches`; if the images do not fit on the devices.
    """
    batches = host_batches.eval_batches(
        source,
        batch_size=batch_size,
        preprocess=preprocess,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
        worker_type=worker_type,
        cache="none" if cache == "device" else cache,
    )
    if cache == "device":
        have = device_memory(sharding) * sharding.mesh.size
        check_memory(
            len(batches) * batch_size, (*preprocess.size, 3), have, cache="device", of="devices"
        )
    return PlacedBatches(batches, sharding, keep=cache == "device", depth=depth)


class PlacedBatches:
    """The batches of one pass over a split, on their devices; iterate over it at will."""

    def __init__(
        self, batches: host_batches.EvalBatches, sharding: NamedSharding, *, keep: bool, depth: int
    ) -> None:
        """Reads nothing yet; `keep`: the batches of the first whole pass serve all later ones."""
        self._batches, self._sharding = batches, sharding
        self._keep, self._depth = keep, depth
        self._kept: list[Placed] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Placed]:
        if self._kept:
            yield from self._kept
            return
        seen = []
        for batch in prefetch(self._batches, self._sharding, depth=self._depth):
            if self._keep:
                seen.append(batch)
            yield batch
        self._kept = seen

"""Batches on the devices: put there ahead of the step, or gathered from images that stay there."""

import contextlib
import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tl_jax.data import loader, place, sampling
from tl_jax.data.memory_cache import check_memory, host_memory
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.reader import Batch, PackedReader, TrainReader, Workers, WorkerType, read_all
from tl_jax.data.source import Source
from tl_jax.data.stretch import stretch

Cache = Literal["none", "memory", "device"]
Placed = dict[str, jax.Array]
StretchOn = Literal["auto", "device", "host"]

# Share of a device's memory up to which the images are copied whole to each device.
_COPIED = 0.25
_CHUNK = 64
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
    batches = loader.train_batches(
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
    side = PackedReader(source, canvas).side
    return _stretched(placed, sharding, side=side, canvas=canvas) if later else placed


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


class DeviceCache:
    """The canvases of a split on the devices; training batches are gathered there, inside jit.

    An epoch takes from the host what example comes when, once, and no image. The images are copied
    to each device, or split over the devices by example where that would take more than a quarter
    of a device's memory.
    """

    def __init__(
        self,
        reader: TrainReader,
        sharding: NamedSharding,
        *,
        workers: Workers,
        split: bool | None = None,
    ) -> None:
        """Reads all images, and keeps them in the host's memory until they are on the devices.

        Args:
          reader: of the examples.
          sharding: how a batch lies on the devices: split by its first axis over one of the mesh's.
          workers: who reads.
          split: whether the images are split over the devices; None: as they fit.

        Raises:
          ValueError: if the images do not fit on the devices, or into the host's memory.
          CorruptImageError: if an image cannot be decoded.
        """
        self._sharding, self._mesh = sharding, sharding.mesh
        (self._axis,) = sharding.spec
        count, devices = len(reader.source), sharding.mesh.size
        fitting = _must_split(count, reader.shape, sharding)
        self.split = fitting if split is None else split
        rows = -(-count // devices) * devices if self.split else count
        layout = NamedSharding(self._mesh, sharding.spec if self.split else PartitionSpec())
        own = _own_rows(rows, layout)
        check_memory(len(own), reader.shape, host_memory(), cache="device", of="a machine")
        read = read_all(reader, np.where(own < count, own, -1), chunk=_CHUNK, workers=workers)
        self._arrays = {
            name: jax.make_array_from_process_local_data(layout, array, (rows, *array.shape[1:]))
            for name, array in read.items()
        }
        whole = NamedSharding(self._mesh, PartitionSpec())
        self._take = jax.jit(
            functools.partial(_take, self._gather(layout)), out_shardings=(sharding, whole)
        )

    def train_batches(
        self, order: sampling.Order, *, batch_size: int, start_step: int = 0
    ) -> Iterator[Placed]:
        """Yields training batches from a step on, without end; as `loader.train_batches`.

        Raises:
          ValueError: if the batch does not divide over the devices, or the step is negative.
        """
        devices = self._mesh.size
        if batch_size < 1 or batch_size % devices or start_step < 0:
            raise ValueError(
                f"got batch_size={batch_size} over {devices} devices from step {start_step} on; "
                "expected a positive multiple of their number, and step 0 or later"
            )
        return self._batches(sampling.Stream(order), batch_size, start_step)

    def _batches(self, stream: sampling.Stream, batch_size: int, step: int) -> Iterator[Placed]:
        steps = -(-len(stream.order) // batch_size)
        first = jax.device_put(np.int32(0), NamedSharding(self._mesh, PartitionSpec()))
        while True:
            drawn = stream[range(step * batch_size, (step + steps) * batch_size)]
            indices = self._put_indices(drawn.astype(np.int32).reshape(steps, batch_size))
            place = first
            for _ in range(steps):
                batch, place = self._take(self._arrays, indices, place)
                yield batch
            step += steps

    def _put_indices(self, indices: np.ndarray) -> jax.Array:
        layout = NamedSharding(self._mesh, PartitionSpec(None, self._axis))
        return jax.make_array_from_callback(indices.shape, layout, lambda part: indices[part])

    def _gather(self, layout: NamedSharding) -> Callable[[Placed, jax.Array], Placed]:
        gather = functools.partial(_gather_split, self._axis) if self.split else _gather_copied
        batch = self._sharding.spec
        return jax.shard_map(
            gather, mesh=self._mesh, in_specs=(layout.spec, batch), out_specs=batch
        )


def _take(
    gather: Callable[[Placed, jax.Array], Placed],
    arrays: Placed,
    indices: jax.Array,
    place: jax.Array,
) -> tuple[Placed, jax.Array]:
    """Returns the batch at a place of the indices [steps, batch], and the place after it."""
    chosen = jax.lax.dynamic_index_in_dim(indices, place, keepdims=False)
    return gather(arrays, chosen), place + 1


def _gather_copied(arrays: Placed, indices: jax.Array) -> Placed:
    """Returns a device's part of a batch, where it has all examples."""
    return {name: array.at[indices].get(mode="clip") for name, array in arrays.items()}


def _gather_split(axis: str, arrays: Placed, indices: jax.Array) -> Placed:
    """Returns a device's part of a batch, where each device has other examples.

    Each device looks up what it has of the whole batch, zeros elsewhere, and they add it up.
    """
    rows = len(arrays["label"])
    wanted = jax.lax.all_gather(indices, axis, tiled=True) - jax.lax.axis_index(axis) * rows
    here = (wanted >= 0) & (wanted < rows)

    def gather(array: jax.Array) -> jax.Array:
        found = array.at[wanted].get(mode="clip")
        mask = here.reshape(-1, *[1] * (array.ndim - 1))
        return jax.lax.psum_scatter(jnp.where(mask, found, 0), axis, tiled=True)

    return {name: gather(array) for name, array in arrays.items()}


def _own_rows(rows: int, layout: NamedSharding) -> np.ndarray:
    """Returns the rows that the devices of this process hold."""
    parts = layout.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts]))


def _must_split(count: int, shape: tuple[int, ...], sharding: NamedSharding) -> bool:
    """Returns whether images are split over the devices rather than copied to each of them."""
    devices = sharding.mesh.size
    have = _device_memory(sharding)
    check_memory(count, shape, have * devices, cache="device", of="devices")
    return devices > 1 and count * math.prod(shape) > _COPIED * have


def _device_memory(sharding: NamedSharding) -> int:
    """Returns the bytes of one device; those of a CPU share the host's."""
    devices = sharding.mesh.local_devices
    stats = [device.memory_stats() for device in devices]
    known = [found["bytes_limit"] for found in stats if found and "bytes_limit" in found]
    return min(known) if known else host_memory() // len(devices)


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
    batches = loader.eval_batches(
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
        have = _device_memory(sharding) * sharding.mesh.size
        check_memory(
            len(batches) * batch_size, (*preprocess.size, 3), have, cache="device", of="devices"
        )
    return PlacedBatches(batches, sharding, keep=cache == "device", depth=depth)


class PlacedBatches:
    """The batches of one pass over a split, on their devices; iterate over it at will."""

    def __init__(
        self, batches: loader.EvalBatches, sharding: NamedSharding, *, keep: bool, depth: int
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

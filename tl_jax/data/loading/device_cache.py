"""Images that stay on the devices, and the batches that are gathered there."""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tl_jax.data.loading import order as sampling
from tl_jax.data.loading.memory_cache import check_memory, host_memory
from tl_jax.data.loading.readers import TrainReader
from tl_jax.data.loading.workers import Workers, read_all

Placed = dict[str, jax.Array]

# Share of a device's memory up to which the images are copied whole to each device.
_COPIED = 0.25
_CHUNK = 64


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
    have = device_memory(sharding)
    check_memory(count, shape, have * devices, cache="device", of="devices")
    return devices > 1 and count * math.prod(shape) > _COPIED * have


def device_memory(sharding: NamedSharding) -> int:
    """Returns the bytes of one device; those of a CPU share the host's."""
    devices = sharding.mesh.local_devices
    stats = [device.memory_stats() for device in devices]
    known = [found["bytes_limit"] for found in stats if found and "bytes_limit" in found]
    return min(known) if known else host_memory() // len(devices)

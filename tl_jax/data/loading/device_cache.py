"""A cache of training images on the devices, which gathers batches there."""

import functools
import math
from collections.abc import Callable, Generator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tl_jax.data.loading.memory_cache import check_memory, host_memory
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Order, Stream
from tl_jax.data.loading.readers import TrainReader
from tl_jax.data.loading.workers import read_all

DeviceBatch = dict[str, jax.Array]

# Share of a device's memory up to which each device gets a copy of all images.
_MAX_COPIED = 0.25
_CHUNK = 64  # Examples that a worker reads at a time.


class DeviceCache:
    """The canvases of a split on the devices; training batches are gathered there, inside jit.

    An epoch transfers one array of indices from the host and no image. Each device has a copy of
    all images, unless that takes more than a quarter of its memory; then the examples are split
    over the devices.

    Attributes:
      is_split: whether the images are split.
    """

    def __init__(
        self,
        reader: TrainReader,
        sharding: NamedSharding,
        options: LoadOptions,
        *,
        is_split: bool | None = None,
    ) -> None:
        """Reads all images, and keeps them in the host's memory until they are on the devices.

        Args:
          reader: of the examples.
          sharding: how a batch lies on the devices: split by its first axis over the mesh's only
            axis.
          options: batch size, number and type of the workers.
          is_split: whether the images are split over the devices; None: as `must_split` decides.

        Raises:
          ValueError: if the batch does not divide over the devices, or the images do not fit on
            the devices or into the host's memory.
          CorruptImageError: if an image cannot be decoded.
        """
        count, devices = len(reader.source), sharding.mesh.size
        if options.batch_size % devices:
            raise ValueError(
                f"got batch_size={options.batch_size} over {devices} devices; expected a multiple "
                "of their number"
            )
        have = device_memory(sharding)
        check_memory(count, reader.shape, have * devices, cache="device", of="devices")
        if is_split is None:
            is_split = must_split(count * math.prod(reader.shape), have, devices=devices)
        self.is_split, self._sharding, self._batch_size = is_split, sharding, options.batch_size

        rows = -(-count // devices) * devices if is_split else count
        replicated = NamedSharding(sharding.mesh, PartitionSpec())
        layout = sharding if is_split else replicated
        local_rows = _local_rows(rows, layout)
        check_memory(len(local_rows), reader.shape, host_memory(), cache="device", of="a machine")
        indices = np.where(local_rows < count, local_rows, -1)
        arrays = read_all(reader, indices, options, chunk=_CHUNK)
        self._arrays = {
            name: jax.make_array_from_process_local_data(layout, array, (rows, *array.shape[1:]))
            for name, array in arrays.items()
        }
        (axis,) = sharding.spec
        gather = functools.partial(_gather_split, axis) if is_split else _gather_copied
        gather = jax.shard_map(
            gather,
            mesh=sharding.mesh,
            in_specs=(layout.spec, sharding.spec),
            out_specs=sharding.spec,
        )
        self._take = jax.jit(functools.partial(_take, gather), out_shardings=(sharding, replicated))

    def batches(self, order: Order, *, start_step: int = 0) -> Generator[DeviceBatch, None, None]:
        """Yields training batches from a step on, without end.

        They are those of `host_batches.host_train_batches`.

        Raises:
          ValueError: if the step is negative.
        """
        if start_step < 0:
            raise ValueError(f"got start_step={start_step}; expected 0 or more")
        mesh, step = self._sharding.mesh, start_step
        stream, steps = Stream(order), -(-len(order) // self._batch_size)
        first_row = jax.device_put(np.int32(0), NamedSharding(mesh, PartitionSpec()))
        while True:
            drawn = stream[range(step * self._batch_size, (step + steps) * self._batch_size)]
            indices = self._put_indices(drawn.astype(np.int32).reshape(steps, self._batch_size))
            row = first_row
            for _ in range(steps):
                batch, row = self._take(self._arrays, indices, row)
                yield batch
            step += steps

    def _put_indices(self, indices: np.ndarray) -> jax.Array:
        """Returns the indices [steps, batch] on the devices, each of which gets its own columns."""
        layout = NamedSharding(self._sharding.mesh, PartitionSpec(None, *self._sharding.spec))
        return jax.make_array_from_callback(indices.shape, layout, lambda part: indices[part])


def must_split(image_bytes: int, device_bytes: int, *, devices: int) -> bool:
    """Returns whether copies of all images would take too much of each device's memory."""
    return devices > 1 and image_bytes > _MAX_COPIED * device_bytes


def _take(
    gather: Callable[[DeviceBatch, jax.Array], DeviceBatch],
    arrays: DeviceBatch,
    indices: jax.Array,
    row: jax.Array,
) -> tuple[DeviceBatch, jax.Array]:
    """Returns the batch of one row of the indices [steps, batch], and the number of the next."""
    return gather(arrays, jax.lax.dynamic_index_in_dim(indices, row, keepdims=False)), row + 1


def _gather_copied(arrays: DeviceBatch, indices: jax.Array) -> DeviceBatch:
    """Returns a device's part of a batch if every device has all examples."""
    return {name: array.at[indices].get(mode="clip") for name, array in arrays.items()}


def _gather_split(axis: str, arrays: DeviceBatch, indices: jax.Array) -> DeviceBatch:
    """Returns a device's part of a batch if the examples are split over the devices.

    Each device looks up its own examples of the whole batch, with zeros for the others, and a
    reduce-scatter adds up what the devices have.
    """
    rows = len(arrays["label"])
    local = jax.lax.all_gather(indices, axis, tiled=True) - jax.lax.axis_index(axis) * rows
    is_local = (local >= 0) & (local < rows)

    def gather(array: jax.Array) -> jax.Array:
        values = array.at[local].get(mode="clip")
        mask = is_local.reshape(-1, *[1] * (array.ndim - 1))
        summed = jax.lax.psum_scatter(jnp.where(mask, values, 0), axis, tiled=True)
        return summed.astype(array.dtype)  # Truth values are added up as integers.

    return {name: gather(array) for name, array in arrays.items()}


def _local_rows(rows: int, layout: NamedSharding) -> np.ndarray:
    """Returns the rows that the devices of this process hold."""
    parts = layout.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts]))


def device_memory(sharding: NamedSharding) -> int:
    """Returns the bytes of one device; CPU devices share those of the host."""
    devices = sharding.mesh.local_devices
    stats = [device.memory_stats() for device in devices]
    limits = [values["bytes_limit"] for values in stats if values and "bytes_limit" in values]
    return min(limits) if limits else host_memory() // len(devices)

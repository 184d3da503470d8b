"""Batches on the devices: the host's batches, put there ahead of the steps that use them."""

import contextlib
import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Generator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding

from tl_jax.data.loading import host_batches
from tl_jax.data.loading.device_cache import DeviceBatch, DeviceCache, device_memory
from tl_jax.data.loading.memory_cache import check_memory
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Order
from tl_jax.data.loading.readers import HostBatch, PackedReader, TrainReader
from tl_jax.data.loading.stretch import stretch
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> DeviceBatch:
    """Puts this process's part of a global batch on its devices, without waiting for it."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def prefetch(
    batches: Generator[HostBatch, None, None], sharding: NamedSharding, *, depth: int
) -> Generator[DeviceBatch, None, None]:
    """Yields the batches on their devices, each put there while the ones before it are used.

    It needs no thread beside those that read. An accelerator computes a step after its call has
    returned, and what is done here until the next call is done meanwhile; to put a batch on a CPU
    is to copy it. So an error of reading is raised where the batch is asked for.

    Args:
      batches: of the host; closed with this generator.
      sharding: how a batch lies on the devices.
      depth: batches put ahead of the one in use; 0: each is put when it is requested.
    """
    with contextlib.closing(batches):
        on_devices = (put_batch(batch, sharding) for batch in batches)
        ahead = deque(itertools.islice(on_devices, depth))
        for batch in on_devices:
            ahead.append(batch)
            yield ahead.popleft()
        yield from ahead


def train_batches(
    source: Source,
    options: LoadOptions,
    *,
    canvas: int,
    order: Order,
    sharding: NamedSharding,
    start_step: int = 0,
) -> Generator[DeviceBatch, None, None]:
    """Yields training batches on their devices from a step on, without end.

    The batch of a step has the same bits for every cache and any number of workers and processes.
    Images stretched on the devices may differ from those by one level of 255 (`stretch`).

    Args:
      source: the split.
      options: how the examples are read and where they are cached.
      canvas: side of the square that each image is stretched to.
      order: order of the examples.
      sharding: how a batch lies on the devices: split by its first axis over the mesh's axes.
      start_step: step of the first batch.

    Returns:
      A generator of dicts of jax.Array with the keys and shapes of
      `host_batches.host_train_batches`, b being the global batch size. Close it to end the workers.

    Raises:
      ValueError: as `host_train_batches`; if the images do not fit on the devices.
    """
    if options.cache == "device":
        reader = TrainReader(source, canvas, options.fast_jpeg)
        return DeviceCache(reader, sharding, options).batches(order, start_step=start_step)
    platforms = {device.platform for device in sharding.mesh.devices.flat}
    is_packed = options.stretches_on_device(platforms)
    if is_packed and source.inputs.views and options.stretch_on == "auto":
        is_packed = False  # Only single images are sent as they were decoded.
    host = host_batches.host_train_batches(
        source,
        options,
        canvas=canvas,
        order=order,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        packed=is_packed,
    )
    batches = prefetch(host, sharding, depth=options.prefetch)
    if is_packed:
        return _stretch_batches(
            batches, sharding, side=PackedReader(source, canvas).side, canvas=canvas
        )
    return batches


def _stretch_batches(
    batches: Generator[DeviceBatch, None, None],
    sharding: NamedSharding,
    *,
    side: int,
    canvas: int,
) -> Generator[DeviceBatch, None, None]:
    """Yields the batches with their packed images stretched to the canvas."""
    # On a CPU products in bfloat16 are slower than those in float32.
    in_bfloat16 = all(device.platform != "cpu" for device in sharding.mesh.devices.flat)
    stretch_images = jax.jit(
        functools.partial(stretch, side=side, canvas=canvas, in_bfloat16=in_bfloat16),
        out_shardings=sharding,
    )
    with contextlib.closing(batches):
        for batch in batches:
            image, packed, extent = (batch.pop(name) for name in ("image", "packed", "extent"))
            batch["image"] = stretch_images(image, packed, extent)
            yield batch


def eval_batches(
    source: Source, options: LoadOptions, *, preprocess: Preprocess, sharding: NamedSharding
) -> "DeviceEvalBatches":
    """Returns the batches that hold every example of a split exactly once, on their devices.

    Args:
      source: the split.
      options: how the examples are read; `cache="device"` keeps the batches of the first pass on
        the devices, sharded as they are.
      preprocess: size and crop of the images; they are not normalised here.
      sharding: how a batch lies on the devices.

    Returns:
      An iterable of dicts of jax.Array with the keys and shapes of
      `host_batches.host_eval_batches`, b being the global batch size.

    Raises:
      ValueError: as `host_eval_batches`; if the images do not fit on the devices.
    """
    is_kept = options.cache == "device"
    host = host_batches.host_eval_batches(
        source,
        dataclasses.replace(options, cache="none") if is_kept else options,
        preprocess=preprocess,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    if is_kept:
        have = device_memory(sharding) * sharding.mesh.size
        count = len(host) * options.batch_size
        check_memory(count, host.reader.shape, have, cache="device", of="devices")
    return DeviceEvalBatches(host, sharding, is_kept=is_kept)


class DeviceEvalBatches:
    """The batches of one pass over a split, on their devices; iterate over it for each pass."""

    def __init__(
        self, host: host_batches.HostEvalBatches, sharding: NamedSharding, *, is_kept: bool
    ) -> None:
        """Reads nothing yet.

        Args:
          host: the batches.
          sharding: how a batch lies on the devices.
          is_kept: whether the batches of the first complete pass are reused in all later ones.
        """
        self._host, self._sharding, self._is_kept = host, sharding, is_kept
        self._kept: list[DeviceBatch] = []

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Generator[DeviceBatch, None, None]:
        if self._kept:
            yield from self._kept
            return
        passed = []
        batches = prefetch(iter(self._host), self._sharding, depth=self._host.options.prefetch)
        with contextlib.closing(batches):
            for batch in batches:
                if self._is_kept:
                    passed.append(batch)
                yield batch
        self._kept = passed

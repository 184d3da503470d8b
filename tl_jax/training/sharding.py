"""Devices: the mesh, the shardings of batches and states on it, and steps compiled over it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tl_jax.data.loading import device_batches

_DATA = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-dimensional mesh over all devices of all processes, or over those given."""
    return Mesh(np.asarray(devices or jax.devices()), (_DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state: every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: split over the devices along its first axis."""
    return NamedSharding(mesh, PartitionSpec(_DATA))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError unless every device gets the same number of examples of a batch."""
    if batch_size % mesh.size:
        raise ValueError(
            f"a global batch of {batch_size} does not divide over {mesh.size} devices; "
            f"take a multiple, such as {-(-batch_size // mesh.size) * mesh.size}"
        )


def divisible(batch_size: int, mesh: Mesh) -> int:
    """Returns a batch size that divides over the devices: the given one, or the next larger.

    For evaluation, which pads and masks its batches; training depends on the size of its batch.
    """
    return -(-batch_size // mesh.size) * mesh.size


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's part of a global batch on its devices."""
    return device_batches.put_batch(batch, sharded(mesh))


def jit_train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles a training step over a mesh; the state that is passed in is donated.

    The batch is split over the devices, so BatchNorm sees the statistics of the global batch.
    """
    state_sharding, batch_sharding = replicated(mesh), sharded(mesh)
    return jax.jit(
        step,
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=state_sharding,
        donate_argnums=0,
    )


def jit_keyed_train_step(
    step: Callable[..., Any], mesh: Mesh, seed_key: jax.Array
) -> Callable[..., Any]:
    """Compiles a training step `step(seed_key, state, batch)` over a mesh, and binds its key.

    The key is an argument of the program and not a constant in it, so runs that differ only in
    their seed share one compiled program. Otherwise as `jit_train_step`.
    """
    state_sharding, batch_sharding = replicated(mesh), sharded(mesh)
    compiled = jax.jit(
        step,
        in_shardings=(state_sharding, state_sharding, batch_sharding),
        out_shardings=state_sharding,
        donate_argnums=1,
    )
    return functools.partial(compiled, jax.device_put(seed_key, state_sharding))


def jit_eval_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles an evaluation step `step(variables, batch)` over a mesh."""
    variables_sharding = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(variables_sharding, sharded(mesh)),
        out_shardings=variables_sharding,
    )

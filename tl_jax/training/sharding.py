"""Devices: the mesh, how batches and states lie on it, and steps compiled over it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tl_jax import distributed, xla_flags
from tl_jax.data.loading import device_batches
from tl_jax.training.step import GradientFn

_DATA, _FSDP = "data", "fsdp"
AXES = (_DATA, _FSDP)

# Smaller parameters are whole on every device: to gather one takes longer than it saves memory.
SMALLEST_SPLIT = 2**16


def data_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """Returns a mesh over all devices of all processes, or over those given.

    Its axes are "data" and "fsdp": batches are split over both, large parameters and their
    optimizer state over "fsdp" (`layouts`). Neighbouring devices, which are those of one process,
    share a state.

    Args:
      devices: None for all.
      fsdp: devices that share a state; 1: every device has all of it.

    Raises:
      ValueError: if the devices do not divide into groups of `fsdp`.
    """
    chosen = np.asarray(devices or jax.devices())
    if fsdp < 1 or chosen.size % fsdp:
        raise ValueError(
            f"got fsdp={fsdp} for {chosen.size} devices; expected a number that divides these"
        )
    return Mesh(chosen.reshape(-1, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device has all of."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: split over the devices along its first axis."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def layouts(mesh: Mesh, tree: Any, *, smallest: int = SMALLEST_SPLIT) -> Any:
    """Returns the sharding of each array of a state: what is large is split over "fsdp".

    The longest axis that "fsdp" divides is split, of equals the last. Parameters and what optimizer
    and averages hold for them have the same shape, and so the same sharding.

    Args:
      mesh: the devices.
      tree: arrays, or abstract arrays.
      smallest: elements of the smallest array that is split.

    Examples:
      >>> mesh = data_mesh(jax.devices()[:1])
      >>> layouts(mesh, {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), "float32")})["kernel"].spec
      P()
    """
    parts = mesh.shape[_FSDP]

    def layout(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not axes or np.prod(leaf.shape) < smallest:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, _FSDP))

    return jax.tree.map(layout, tree)


def put(tree: Any, shardings: Any) -> Any:
    """Copies arrays to the devices, as `shardings` says for each; never aliases.

    Args:
      tree: arrays of this process, the same ones in all processes, or global ones.
      shardings: a tree of them, or one for all.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings, may_alias=False)
    leaves, structure = jax.tree.flatten(tree)
    targets = jax.tree.leaves(shardings)
    targets = targets * len(leaves) if isinstance(shardings, NamedSharding) else targets
    is_global = [isinstance(x, jax.Array) and not x.is_fully_addressable for x in leaves]

    def chosen(values: list[Any], which: bool) -> list[Any]:
        return [x for x, known in zip(values, is_global, strict=True) if known == which]

    # One call for all leaves of a kind, because each call could be a collective.
    moved = iter(_copied(chosen(leaves, True), chosen(targets, True)))
    local = iter(distributed.put(chosen(leaves, False), chosen(targets, False)))
    return jax.tree.unflatten(structure, [next(moved if known else local) for known in is_global])


def whole(tree: Any) -> Any:
    """Returns a tree in which every device has all of each array; itself where that is so.

    For what a state split over devices is given to, such as evaluation: one program gathers all.
    """
    if all(not isinstance(x, jax.Array) or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return tree
    return _copied(tree, jax.tree.map(lambda x: replicated(x.sharding.mesh), tree))


def _copied(tree: Any, shardings: Any) -> Any:
    return jax.jit(_copy, out_shardings=shardings)(tree) if jax.tree.leaves(tree) else tree


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)  # A result that is an argument would be the same buffer.


def check_batch_size(batch_size: int, mesh: Mesh, *, accumulate: int = 1) -> None:
    """Raises a ValueError unless every device gets the same number of examples of a batch.

    Args:
      batch_size: of the global batch.
      mesh: the devices.
      accumulate: slices that the batch is computed in, one after the other.
    """
    parts = mesh.size * accumulate
    if batch_size % parts:
        slices = f" in {accumulate} slices (parallel.accumulate)" if accumulate > 1 else ""
        raise ValueError(
            f"a global batch of {batch_size} does not divide over {mesh.size} devices{slices}; "
            f"take a multiple, such as {-(-batch_size // parts) * parts}"
        )


def divisible(batch_size: int, mesh: Mesh) -> int:
    """Returns a batch size that divides over the devices: the given one, or the next larger.

    For evaluation, which pads and masks its batches; training depends on the size of its batch.
    """
    return -(-batch_size // mesh.size) * mesh.size


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's part of a global batch on its devices."""
    return device_batches.put_batch(batch, sharded(mesh))


def gathering(mesh: Mesh) -> Callable[[GradientFn], GradientFn]:
    """Returns the `around` of a step whose state is split: the network computes with whole arrays.

    Each is gathered where it is used first.
    """

    def around(gradient_fn: GradientFn) -> GradientFn:
        def gathered(trained: Any, frozen: Any, *rest: Any) -> Any:
            params = jax.lax.with_sharding_constraint((trained, frozen), replicated(mesh))
            return gradient_fn(*params, *rest)

        return gathered

    return around


def scattering(mesh: Mesh, *, smallest: int = SMALLEST_SPLIT) -> Callable[[Any], Any]:
    """Returns the `reduce` of a step whose state is split: gradients are laid out as the state is.

    Norms, clipping and the optimizer then compute on each device with its part alone.
    """
    return lambda tree: jax.lax.with_sharding_constraint(
        tree, layouts(mesh, tree, smallest=smallest)
    )


def by_device(mesh: Mesh) -> Callable[[GradientFn], GradientFn]:
    """Returns the `around` of a step in which each device computes the gradient of its own part.

    Gradients, metrics and running statistics of the devices are then averaged, in float32 whatever
    the network's `dtype`; all of them as one array where parameters are not split. BatchNorm sees
    its device's part of a batch, unless the network averages over `AXES` (`pmap.over_axis`).

    It differs from the gradient of the whole batch where parts of it cannot be averaged: dropout
    draws other numbers; where labels are missing, each device's loss is the mean over its own
    labelled examples; and tasks whose gradients are scaled to one norm take that of the device,
    unless the network averages over `AXES`. Weights of examples are no such case: a loss is divided
    by the number of examples, which is the same on every device.
    """
    whole_spec, part_spec = PartitionSpec(), PartitionSpec(AXES)

    def around(gradient_fn: GradientFn) -> GradientFn:
        def of_device(
            trained: Any, frozen: Any, batch_stats: Any, examples: Any, key_data: jax.Array
        ) -> Any:
            key = jax.random.wrap_key_data(key_data)
            key = jax.random.fold_in(key, jax.lax.axis_index(AXES))
            found = gradient_fn(trained, frozen, batch_stats, examples, key)
            if mesh.shape[_FSDP] > 1:  # Each device may then be sent its part alone.
                return jax.lax.pmean(found, AXES)
            # The compiler does not join all arrays by itself, and divides each of them on its own.
            joined, divide = ravel_pytree(found)
            return divide(jax.lax.pmean(joined, AXES))

        mapped = jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(whole_spec, whole_spec, whole_spec, part_spec, whole_spec),
            out_specs=whole_spec,
            # The gradients of a device alone: JAX would add them up where it tracks what varies.
            check_vma=False,
        )
        return lambda trained, frozen, batch_stats, examples, key: mapped(
            trained, frozen, batch_stats, examples, jax.random.key_data(key)
        )

    return around


def jit_train_step(
    step: Callable[..., Any], mesh: Mesh, *, state: Any = None
) -> Callable[..., Any]:
    """Compiles a training step over a mesh; the state that is passed in is donated.

    The batch is split over the devices, so BatchNorm sees the statistics of the global batch.

    Args:
      step: `step(state, batch) -> (state, metrics)`.
      mesh: the devices.
      state: shardings of the state (`layouts`); None: every device has all of it.
    """
    whole_sharding = replicated(mesh)
    state_sharding = whole_sharding if state is None else state
    return jax.jit(
        step,
        in_shardings=(state_sharding, sharded(mesh)),
        out_shardings=(state_sharding, whole_sharding),
        donate_argnums=0,
        compiler_options=_compiler_options(mesh),
    )


def jit_keyed_train_step(
    step: Callable[..., Any], mesh: Mesh, seed_key: jax.Array, *, state: Any = None
) -> functools.partial[Any]:
    """Compiles a training step `step(seed_key, state, batch)` over a mesh, and binds its key.

    The key is an argument of the program and not a constant in it, so runs that differ only in
    their seed share one compiled program. Otherwise as `jit_train_step`.
    """
    whole_sharding = replicated(mesh)
    state_sharding = whole_sharding if state is None else state
    compiled = jax.jit(
        step,
        in_shardings=(whole_sharding, state_sharding, sharded(mesh)),
        out_shardings=(state_sharding, whole_sharding),
        donate_argnums=1,
        compiler_options=_compiler_options(mesh),
    )
    return functools.partial(compiled, put(seed_key, whole_sharding))


def jit_eval_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles an evaluation step `step(variables, batch)` over a mesh; each device has all."""
    variables_sharding = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(variables_sharding, sharded(mesh)),
        out_shardings=variables_sharding,
        compiler_options=_compiler_options(mesh),
    )


def _compiler_options(mesh: Mesh) -> dict[str, bool]:
    return xla_flags.of_program(mesh.devices.flat[0])

"""`jax.pmap` for those who ask for it: a training step mapped over the devices of a process.

`tl_jax.training.sharding` is the way that runs use, with BatchNorm over the whole batch, on any
number of processes. A mapped step computes the same, to rounding, if it is given the network of
`over_axis`, with these exceptions: dropout and augmentation draw other numbers on each device;
mixup and CutMix draw one share for each device; where labels are missing, a device's loss is the
mean over its own labelled examples. Weights of examples count as in the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tl_jax.heads.classifier import WithBackbone
from tl_jax.models.model import Model, ModelWrapper
from tl_jax.models.network import Network
from tl_jax.training.state import TrainState
from tl_jax.training.step import Metrics, TrainStep

AXIS = "devices"

T = TypeVar("T", bound=Model)


def over_axis(model: T, axis: Any = AXIS) -> T:
    """Returns the network whose BatchNorm takes its statistics over a mapped axis too.

    Its variables are the same. Where all BatchNorm is frozen, none is needed.

    Args:
      model: a network, with a head or an adaptation or without.
      axis: name of the mapped axis, or a tuple of names.

    Raises:
      TypeError: if it is a network of another kind, whose layers are not known.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> over_axis(create_model("resnet18")).axis_name
      'devices'
    """
    if isinstance(model, ModelWrapper):
        return dataclasses.replace(model, model=over_axis(model.model, axis))
    if isinstance(model, WithBackbone):
        return model.clone(backbone=over_axis(model.backbone, axis))
    if isinstance(model, Network):
        return model.clone(axis_name=axis)
    raise TypeError(
        f"got a {type(model).__name__}; expected a network of create_model, which passes axis_name "
        "to its BatchNorm layers: clone yours with the field that does"
    )


def reduce(tree: Any) -> Any:
    """Returns averages over the devices: the `reduce` of `step.make_train_step` in a mapped step.

    Of gradients, running statistics, loss and metrics, before norm and clipping.
    """
    return jax.lax.pmean(tree, AXIS)


def pmap_train_step(
    step: Callable[[jax.Array, TrainState, Any], tuple[TrainState, Metrics]],
    seed_key: jax.Array,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> TrainStep:
    """Compiles `step(seed_key, state, batch)` by `jax.pmap`, and binds a key of each device.

    Args:
      step: calls a step of `make_train_step(over_axis(model), ..., reduce=reduce)`.
      seed_key: the run's random key.
      devices: of this process; None for all.

    Returns:
      `step(state, batch) -> (state, metrics)` of states on all devices (`replicate`) and batches
      [devices, B / devices, ...] (`split`). The state that is passed in is donated; metrics are
      [devices], all the same.
    """

    @functools.partial(
        jax.pmap, axis_name=AXIS, in_axes=(None, 0, 0), devices=devices, donate_argnums=1
    )
    def mapped(key: jax.Array, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return step(jax.random.fold_in(key, jax.lax.axis_index(AXIS)), state, batch)

    return functools.partial(mapped, seed_key)


def replicate(state: TrainState, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Returns a copy of a state for each device, [devices, ...]."""
    devices = devices or jax.local_devices()
    layout = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    stacked = jax.tree.map(lambda x: np.stack([np.asarray(x)] * len(devices)), state)
    return jax.device_put(stacked, layout)


def split(batch: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """Returns a batch [B, ...] as [devices, B / devices, ...].

    Raises:
      ValueError: if it does not divide over the devices.
    """
    count = len(devices or jax.local_devices())
    for name, x in batch.items():
        if len(x) % count:
            raise ValueError(
                f"got a batch of {len(x)} {name!r} for {count} devices; expected a multiple"
            )
    return {name: x.reshape(count, len(x) // count, *x.shape[1:]) for name, x in batch.items()}


def first(tree: Any) -> Any:
    """Returns what the first device holds: a state, or metrics, as without `pmap`.

    The other devices take no part. `x[0]` would be a program over all of them for each array, and
    on a CPU XLA can come to a standstill where more than 32 of these are under way.
    """
    return jax.jit(_unstacked)(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))


def _unstacked(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)

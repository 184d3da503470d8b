"""The state of a training run: arrays only."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from tl_jax import trees
from tl_jax.transfer import freeze


class TrainState(struct.PyTreeNode):
    """What a training step reads and writes.

    Attributes:
      step: number of steps done, int32 scalar.
      params: all parameters, trained and frozen.
      batch_stats: running statistics of the normalisation layers; `{}` if there are none.
      opt_state: the optimizer's state, which covers the trained parameters only.
    """

    step: jax.Array
    params: trees.Tree
    batch_stats: trees.Tree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    variables: trees.Tree, tx: optax.GradientTransformation, plan: trees.Tree, step: int = 0
) -> TrainState:
    """Returns the first state of a phase of training.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`.
      tx: the optimizer, made for the trained parameters of `plan`.
      plan: labels of `tl_jax.transfer.freeze`.
      step: number of steps done in earlier phases.
    """
    trained, _ = freeze.split(plan, variables["params"])
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        # One program; otherwise every shape of a parameter is one.
        opt_state=jax.jit(tx.init)(trained),
    )


def not_finite(variables: trees.Tree) -> list[str]:
    """Returns the names of variables that hold a NaN or an infinity.

    Examples:
      >>> not_finite({"params": {"fc": {"bias": jnp.array([0.0, jnp.nan])}}})
      ['params.fc.bias']
    """
    leaves = trees.flatten(variables)
    is_split = [isinstance(x, jax.Array) and not x.is_fully_addressable for x in leaves.values()]
    if any(is_split):  # Over several processes, none of which has all values.
        flags = jax.device_get(_are_finite(list(leaves.values())))
    else:
        flags = [np.isfinite(np.asarray(x, np.float32)).all() for x in leaves.values()]
    return [
        trees.dotted(path) for path, is_finite in zip(leaves, flags, strict=True) if not is_finite
    ]


@jax.jit
def _are_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in leaves])

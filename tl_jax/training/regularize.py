"""L2-SP, the pull of fine-tuned weights toward the pretrained ones, as an optimizer component."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class L2SpState(NamedTuple):
    """The state of `l2_sp`.

    Attributes:
      start: the initial parameters, a tree like that of the parameters.
    """

    start: optax.Params


def l2_sp(alpha: float) -> optax.GradientTransformation:
    """Returns the pull toward the initial parameters, L2-SP (arXiv:1802.01483).

    It adds `alpha * (params - start)` to the updates: the gradient of
    `alpha / 2 * |params - start|^2`, the paper's penalty on the pretrained weights. `start` are
    the parameters that `init` is called with. They are part of the state, so that a resumed run is
    pulled toward the same point and a compiled step holds no constants.

    Before an optimizer's own transformation it acts like a penalty in the loss; between
    `optax.scale_by_adam` and the learning rate it is decoupled, as AdamW's decay is. Weights that
    have no pretrained value, such as those of a fresh head, take plain decay instead (the paper's
    beta): `optax.multi_transform` gives each label its own.

    Args:
      alpha: strength of the pull; 0 has no effect.

    Raises:
      ValueError: if `alpha` is negative or not a number; in `update`, if `params` is missing.

    Examples:
      >>> pulled = optax.chain(l2_sp(0.01), optax.sgd(1e-3, momentum=0.9))
      >>> decayed = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(1e-2, momentum=0.9))
      >>> labels = {"conv": "backbone", "fc": "head"}
      >>> tx = optax.multi_transform({"backbone": pulled, "head": decayed}, labels)
    """
    if not alpha >= 0:
        raise ValueError(f"got alpha={alpha} for L2-SP; expected 0 or more")

    def init(params: optax.Params) -> L2SpState:
        # A copy: a step that donates its state must not find the same buffer in it twice.
        return L2SpState(jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: L2SpState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, L2SpState]:
        if params is None:
            raise ValueError("L2-SP needs the parameters: call update(updates, state, params)")
        pulled = jax.tree.map(
            lambda update, now, start: update + alpha * (now - start), updates, params, state.start
        )
        return pulled, state

    return optax.GradientTransformation(init, update)

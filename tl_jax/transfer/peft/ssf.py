"""Scale-and-shift tuning: one factor and one offset for each channel (arXiv:2210.08823)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tl_jax import trees
from tl_jax.models.model import Model, new_parts
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    check_targets,
    leaves_by_module,
    match_targets,
    without_added,
)

_SCALE, _SHIFT = "ssf_scale", "ssf_shift"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSF(Adaptation):
    """Factors and offsets of the outputs of layers, folded into the layers' own parameters.

    The output y of a layer becomes `ssf_scale * y + ssf_shift`, folded into its last linear part:

    - a normalisation: `scale` and `bias` (before an activation or a threshold that is part of it);
    - a convolution or dense layer with a bias: `kernel` along its outputs, and `bias`;
    - a standardised convolution with a gain (the NFNets): `gain`, because standardisation would
      undo a factor on the kernel, and `bias`.

    A normalisation without a bias (`RmsNorm`, `SimpleNorm`) gets a factor only. ConvNeXt V2's
    response normalisation adds its input to a scaled term; the factor applies to that term only.

    A convolution without a bias gets nothing: it has no parameter that could hold an offset, and
    the normalisation after it serves both. Where none follows it directly (the last convolution of
    a pre-activation block), the block's sum is adapted by the next one. Layer scales (`gamma`) and
    the NFNets' `skipinit_gain` get nothing either, because they only scale adapted outputs.

    Attributes:
      targets: patterns on dotted names of modules, as in `trees.matches`.
      classifier: adapt the classifier too, and all else that is new; it is trained directly.
    """

    targets: tuple[str, ...] = ("*",)
    classifier: bool = False

    def __post_init__(self) -> None:
        check_targets(self.targets)

    def init(
        self, key: jax.Array, model: Model, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns factors of 1 and offsets of 0 for each of the targets."""
        del key, image_shape
        modules = leaves_by_module(variables["params"])
        scalable = [path for path, leaves in modules.items() if _scaled_leaf(leaves)]
        excluded = () if self.classifier else new_parts(model)
        kind = "layers with a scale or a bias"
        factors = {}
        for path in match_targets(scalable, self.targets, excluded=excluded, kind=kind):
            leaves = modules[path]
            name = _scaled_leaf(leaves)
            # The outputs are the first axis of a gain [O, 1, 1, 1], the last one of other leaves.
            outputs = leaves[name].shape[0 if name == "gain" else -1]
            factors[*path, _SCALE] = jnp.ones((outputs,), jnp.float32)
            if "bias" in leaves:
                factors[*path, _SHIFT] = jnp.zeros((outputs,), jnp.float32)
        return trees.unflatten(factors)

    def effective_params(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the network's parameters with the factors and offsets folded in."""
        effective = trees.flatten(without_added(params))
        for path, leaves in leaves_by_module(params).items():
            name = _scaled_leaf(leaves)
            if _SCALE in leaves and name:
                shape = (-1, 1, 1, 1) if name == "gain" else (-1,)
                effective[*path, name] = leaves[name] * leaves[_SCALE].reshape(shape)
            if _SHIFT in leaves:
                effective[*path, "bias"] = leaves["bias"] * leaves[_SCALE] + leaves[_SHIFT]
        return trees.unflatten(effective)


def _scaled_leaf(leaves: Mapping[str, Any]) -> str:
    """Returns the leaf of a layer that scales its outputs one by one; "" if there is none."""
    if "scale" in leaves:
        return "scale"
    if "bias" not in leaves or "kernel" not in leaves:
        return ""
    return "gain" if "gain" in leaves else "kernel"

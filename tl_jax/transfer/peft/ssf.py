"""Scale-and-shift tuning: one factor and one offset for each channel (arXiv:2210.08823)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import trees
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    leaves_by_module,
    targeted,
    without_added,
)

_SCALE, _SHIFT = "ssf_scale", "ssf_shift"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSF(Adaptation):
    """Factors and offsets of the outputs of layers, folded into the layers' own parameters.

    The output y of a layer becomes `ssf_scale * y + ssf_shift`, by its last linear part:

    - a normalisation: `scale` and `bias` (before an activation or a threshold that is part of it);
    - a convolution or dense layer with a bias: `kernel` along its outputs, and `bias`;
    - a standardised convolution with a gain (the NFNets): `gain`, because standardisation would
      undo a factor on the kernel, and `bias`.

    A normalisation without a bias (`RmsNorm`, `SimpleNorm`) gets a factor only. ConvNeXt V2's
    response normalisation adds its input to what it scales; the factor is that of its own part.

    A convolution without a bias gets nothing: it has no parameter that could hold an offset, and
    the normalisation behind it does for both. Where none stands directly behind it (the last
    convolution of a pre-activation block) the block's sum is adapted by the next one. Nor do layer
    scales (`gamma`) and the NFNets' `skipinit_gain`, which only follow what is adapted.

    Attributes:
      targets: patterns on dotted names of modules, as in `trees.matches`.
      classifier: adapt the classifier too; it is new as a rule, and trained as a whole.
    """

    targets: tuple[str, ...] = ("*",)
    classifier: bool = False

    def init(
        self, key: jax.Array, model: nn.Module, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns factors of 1 and offsets of 0 for each of the targets."""
        del key, image_shape
        modules = leaves_by_module(variables["params"])
        reached = [path for path, leaves in modules.items() if _scaled_leaf(leaves) is not None]
        left_out = None if self.classifier else model.classifier
        factors = {}
        kind = "layers with a scale or a bias"
        for path in targeted(reached, self.targets, left_out=left_out, kind=kind):
            leaves = modules[path]
            outputs = _outputs(leaves)
            factors[*path, _SCALE] = jnp.ones((outputs,), jnp.float32)
            if "bias" in leaves:
                factors[*path, _SHIFT] = jnp.zeros((outputs,), jnp.float32)
        return trees.unflatten(factors)

    def effective(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the network's parameters with the factors and offsets folded in."""
        plain = trees.flatten(without_added(params))
        for path, leaves in leaves_by_module(params).items():
            if _SCALE in leaves:
                factor, name = leaves[_SCALE], _scaled_leaf(leaves)
                shape = (-1, 1, 1, 1) if name == "gain" else (-1,)
                plain[*path, name] = leaves[name] * factor.reshape(shape)
            if _SHIFT in leaves:
                plain[*path, "bias"] = leaves["bias"] * leaves[_SCALE] + leaves[_SHIFT]
        return trees.unflatten(plain)


def _scaled_leaf(leaves: Mapping[str, Any]) -> str | None:
    """Returns which leaf of a layer scales its outputs one by one; None if none may be scaled."""
    if "scale" in leaves:
        return "scale"
    if "bias" not in leaves or "kernel" not in leaves:
        return None
    return "gain" if "gain" in leaves else "kernel"


def _outputs(leaves: Mapping[str, Any]) -> int:
    name = _scaled_leaf(leaves)
    return leaves[name].shape[0 if name == "gain" else -1]

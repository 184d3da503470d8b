"""How the last layer of a head starts: at zero, small at random, or with given leaves."""

from typing import Any, Literal

import jax
from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models.layers import Initializer

Start = Literal["zero", "small"]

_SMALL = 0.01
_INITIALIZERS: dict[str, Initializer] = {
    "zero": nn.initializers.zeros,
    "small": nn.initializers.normal(_SMALL),
}


def initializer(start: Start) -> Initializer:
    """Returns what draws the kernel of a head's last layer.

    Args:
      start: "zero": even odds at first, and a first gradient that is that of the features alone;
        "small": normal with standard deviation 0.01.

    Raises:
      ValueError: if there is no such start.
    """
    if start not in _INITIALIZERS:
        raise ValueError(
            f"unknown start {start!r} of a head{messages.hint(start, _INITIALIZERS)}; "
            f"expected one of {list(_INITIALIZERS)}"
        )
    return _INITIALIZERS[start]


def start_small(key: jax.Array, params: trees.Tree, layer: str) -> dict[str, Any]:
    """Returns parameters in which a layer's kernel is normal with standard deviation 0.01.

    It is the start "small" for a classifier that is a part of its network, such as `"fc"`. The
    bias stays as it is.

    Args:
      key: random key.
      params: the parameters.
      layer: dotted name of the layer.

    Raises:
      ValueError: if there is no such layer.
    """
    kernel = trees.layer_leaves(params, layer)["kernel"]
    drawn = _INITIALIZERS["small"](key, kernel.shape, kernel.dtype)
    return trees.with_layer_leaves(params, layer, {"kernel": drawn})

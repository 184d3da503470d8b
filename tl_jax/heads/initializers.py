"""How the kernel of a head's last layer is initialized: zero, or small random values."""

from typing import Any, Literal

import jax
from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models.layers import Initializer

HeadInit = Literal["zero", "small"]

_INITIALIZERS: dict[str, Initializer] = {
    "zero": nn.initializers.zeros,
    "small": nn.initializers.normal(0.01),
}


def initializer(name: HeadInit) -> Initializer:
    """Returns the initializer of a head's last kernel.

    Args:
      name: "zero": uniform predictions at first, and a first gradient that depends on the features
        alone; "small": normal with standard deviation 0.01.

    Raises:
      ValueError: if there is no such initializer.
    """
    if name not in _INITIALIZERS:
        raise ValueError(
            f"unknown initializer {name!r} of a head{messages.hint(name, _INITIALIZERS)}; "
            f"expected one of {list(_INITIALIZERS)}"
        )
    return _INITIALIZERS[name]


def init_small(key: jax.Array, params: trees.Tree, layer: str) -> dict[str, Any]:
    """Returns parameters in which a layer's kernel is normal with standard deviation 0.01.

    This is the initializer "small" for a classifier that is part of its network, such as `"fc"`.
    The bias is not changed.

    Args:
      key: random key.
      params: the parameters.
      layer: dotted name of the layer.

    Raises:
      ValueError: if there is no such layer.
    """
    kernel = trees.layer_leaves(params, layer)["kernel"]
    small = initializer("small")(key, kernel.shape, kernel.dtype)
    return trees.with_layer_leaves(params, layer, {"kernel": small})

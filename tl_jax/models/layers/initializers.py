"""Initializers of kernels under torch's names, for kernels with the outputs on the last axis."""

import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.layers.types import Initializer

# torch: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# torch: `kaiming_normal_(mode="fan_in", nonlinearity="relu")`.
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

# The default of torch's convolutions and dense layers: U(-1, 1) / sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def goog_fan_out(groups: int = 1) -> Initializer:
    """Returns the TPU EfficientNets' initializer for the kernel of a convolution.

    A normal distribution of variance 2 / fan_out, where fan_out counts one group's outputs
    (`_init_weight_goog` of timm's `_efficientnet_builder.py`).
    """
    return nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")


def trunc_normal(std: float) -> Initializer:
    """Returns a normal initializer that is truncated at +-2, as torch's `trunc_normal_(std=std)`.

    The bounds are absolute values, so with the small `std` in use nothing is truncated.
    """
    return nn.initializers.truncated_normal(std, jnp.float32, -2.0 / std, 2.0 / std)

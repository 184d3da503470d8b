"""Initializers of kernels under torch's names, for kernels with the outputs on the last axis."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.layers.types import Dtype, Initializer

_KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_KAIMING_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_TORCH_DEFAULT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


# Functions, so that the networks that have one as a field can be pickled and compared.


def kaiming_fan_out(
    key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32
) -> jax.Array:  # fmt: skip
    """Draws as torch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`."""
    return _KAIMING_FAN_OUT(key, shape, dtype)


def kaiming_fan_in(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    """Draws as torch's `kaiming_normal_(mode="fan_in", nonlinearity="relu")`."""
    return _KAIMING_FAN_IN(key, shape, dtype)


def torch_default(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    """Draws as torch's convolutions and dense layers do by default: U(-1, 1) / sqrt(fan_in)."""
    return _TORCH_DEFAULT(key, shape, dtype)


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

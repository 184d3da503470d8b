"""Activation functions as torch defines them.

They are functions of this module, so that a network that has one as a field can be pickled and
compared; jax's own are objects that pickle does not find under their names.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models.layers.types import Act, at_least_float32


def _plain_gelu(x: jax.Array) -> jax.Array:
    """Computes in float32 or wider, and by `erf`.

    JAX's own computes by `erfc`, which takes three times as many instructions on a GPU, and in
    bfloat16 it rounds every step.
    """
    wide = at_least_float32(x)
    return jnp.asarray(0.5 * wide * (1 + lax.erf(wide * math.sqrt(0.5))), x.dtype)


def _plain_gelu_tanh(x: jax.Array) -> jax.Array:
    return jnp.asarray(jax.nn.gelu(at_least_float32(x), approximate=True), x.dtype)


# GELU keeps nothing but its input for the gradient. Else JAX would keep the values of erf or tanh
# as maps of their own. XLA computes erf twice by itself rather than write and read such a map, but
# not tanh.
_gelu = jax.checkpoint(_plain_gelu)
_gelu_tanh = jax.checkpoint(_plain_gelu_tanh)


def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0)."""
    return jax.nn.relu(x)


def relu6(x: jax.Array) -> jax.Array:
    """Returns min(max(x, 0), 6)."""
    return jax.nn.relu6(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """Returns 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def silu(x: jax.Array) -> jax.Array:
    """Returns x * sigmoid(x)."""
    return jax.nn.silu(x)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Returns relu6(x + 3) / 6."""
    return jax.nn.hard_sigmoid(x)


def hard_swish(x: jax.Array) -> jax.Array:
    """Returns x * hard_sigmoid(x)."""
    return jax.nn.hard_swish(x)


def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU, torch's default; JAX's is the tanh approximation."""
    return _gelu(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Returns the tanh approximation of GELU."""
    return _gelu_tanh(x)


def identity(x: jax.Array) -> jax.Array:
    """Returns `x`."""
    return x


class Activation(nn.Module):
    """An activation function as a module, for those whose outputs are named features in timm."""

    function: Act

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)

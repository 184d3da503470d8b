"""Activation functions as torch defines them."""

import functools

import jax
from flax import linen as nn

from tl_jax.models.layers.types import Act

relu = jax.nn.relu
relu6 = jax.nn.relu6
sigmoid = jax.nn.sigmoid
silu = jax.nn.silu
hard_sigmoid = jax.nn.hard_sigmoid
hard_swish = jax.nn.hard_swish
# torch's default is exact; JAX's is the tanh approximation.
gelu = functools.partial(jax.nn.gelu, approximate=False)


class Activation(nn.Module):
    """An activation function as a module, for those whose outputs are named features in timm."""

    function: Act

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)

"""The dense layer of classifiers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.layers.types import Initializer, at_least_float32


class Dense(nn.Module):
    """Fully connected layer over the last axis, in at least float32, initialized with zeros.

    It is the classifier of every network. A head that starts at zero does not depend on the scale
    of an initializer, and its first gradient depends on the features alone. Hidden dense layers are
    Flax's `nn.Dense`.
    """

    features: int
    kernel_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return at_least_float32(x) @ kernel + bias

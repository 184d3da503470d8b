"""Layers that drop values at random in training; their random stream is `"dropout"`."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models.layers.types import Dtype


class Dropout(nn.Module):
    """Zeroes values at random and scales the others by 1 / (1 - rate)."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        return x * _keep_mask(self.make_rng("dropout"), self.rate, x.shape, x.dtype)


class DropPath(nn.Module):
    """Zeroes whole examples of a residual branch at random (stochastic depth, arXiv:1603.09382).

    The other examples are scaled by 1 / (1 - rate).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * _keep_mask(self.make_rng("dropout"), self.rate, shape, x.dtype)


class DropBlock(nn.Module):
    """Zeroes squares of a feature map at random, in all channels alike (arXiv:1810.12890).

    The rest is scaled so that the mean of the mask is 1 (`drop_block_2d` of timm's `drop.py`).

    Attributes:
      rate: expected share of the map that is dropped.
      block_size: side of the squares, in cells; a smaller map limits it.
      gamma_scale: factor on the number of squares.
    """

    rate: float
    block_size: int = 7
    gamma_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        batch, height, width, _ = x.shape
        rows, columns = min(self.block_size, height), min(self.block_size, width)
        places = (height - rows + 1) * (width - columns + 1)
        gamma = self.gamma_scale * self.rate * height * width / (rows * columns) / places
        shape = (batch, height, width, 1)
        seeds = jax.random.bernoulli(self.make_rng("dropout"), gamma, shape).astype(jnp.float32)
        pads = [(0, 0), *(((side - 1) // 2, side // 2) for side in (rows, columns)), (0, 0)]
        window = (1, rows, columns, 1)
        dropped = lax.reduce_window(seeds, 0.0, lax.max, window, (1, 1, 1, 1), pads)
        mask = 1.0 - dropped
        return x * (mask * (mask.size / (jnp.sum(mask) + 1e-7))).astype(x.dtype)


def _keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Returns a mask of 1 / (1 - rate) with probability 1 - rate, else 0."""
    return jax.random.bernoulli(key, 1.0 - rate, shape).astype(dtype) / (1.0 - rate)

"""Convolution with BatchNorm and ReLU, and rows of them side by side: what Inceptions are made of.

`ConvNormAct` has the names of timm's layer and of torchvision's `BasicConv2d`, which agree.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm with epsilon 1e-3, ReLU.

    Attributes:
      features, kernel_size, stride, padding, kernel_init: as those of `layers.Conv`.
      axis_name, dtype: as those of `layers.BatchNorm`.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1
    padding: layers.Padding = "symmetric"
    kernel_init: layers.Initializer = layers.torch_default
    axis_name: str | None = None
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layers.Conv(
            self.features, self.kernel_size, self.stride, self.padding,
            kernel_init=self.kernel_init, dtype=self.dtype, name="conv",
        )(x)  # fmt: skip
        norm = layers.BatchNorm(
            epsilon=1e-3, axis_name=self.axis_name, dtype=self.dtype, act=layers.relu, name="bn"
        )
        return norm(x, train=train)


ConvMaker = Callable[..., ConvNormAct]
# A convolution as the first arguments of `ConvNormAct`, such as (64, 3), or what makes a pooling.
Spec = tuple[Any, ...] | Callable[..., nn.Module]
# Layers one after another, each with its name.
Row = tuple[tuple[str, Spec], ...]

average = functools.partial(layers.AvgPool, 3, 1, padding=1, count_include_pad=False)
average_with_zeros = functools.partial(layers.AvgPool, 3, 1, padding=1)
maximum = functools.partial(layers.MaxPool, 3, 1, padding=1)
halving_maximum = functools.partial(layers.MaxPool, 3, 2)


def apply_row(row: Row, conv: ConvMaker, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the output of a row's last layer; for use in a compact method, which gets the layers.

    Args:
      row: the layers.
      conv: makes the convolutions.
      x: feature map [B, H, W, C].
      train: mode of the BatchNorms.
    """
    for name, spec in row:
        if isinstance(spec, tuple):
            x = conv(*spec, name=name)(x, train=train)
        else:
            x = spec(name=name)(x)
    return x


def join_rows(rows: tuple[Row, ...], conv: ConvMaker, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns what the rows make of the same map, joined along the channels; see `apply_row`."""
    return jnp.concatenate([apply_row(row, conv, x, train=train) for row in rows], axis=-1)


class Mixed(nn.Module):
    """Rows of layers side by side, joined along the channels: a module of an Inception."""

    rows: tuple[Row, ...]
    conv: ConvMaker

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return join_rows(self.rows, self.conv, x, train=train)


def branches(*rows: tuple[Spec, ...], first: int = 0) -> tuple[Row, ...]:
    """Names rows `branch0`, `branch1` and so on, from `first`.

    The layers of a row are numbered, `branch1.0`, `branch1.1`; one alone has no number.
    """
    return tuple(_numbered(f"branch{i}", row) for i, row in enumerate(rows, start=first))


def _numbered(name: str, row: tuple[Spec, ...]) -> Row:
    if len(row) == 1:
        return ((name, row[0]),)
    return tuple((f"{name}.{i}", spec) for i, spec in enumerate(row))

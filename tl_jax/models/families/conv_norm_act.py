"""Convolution with BatchNorm and ReLU, and branches of them: the building blocks of Inceptions.

`ConvNormAct` has the names of timm's layer and of torchvision's `BasicConv2d`, which agree.
"""

import functools
from collections.abc import Callable

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


MakeConv = Callable[..., ConvNormAct]
KernelSize = int | tuple[int, int]
# Width and kernel size of a convolution, and optionally stride and padding; without those the map
# keeps its size.
ConvSpec = tuple[int, KernelSize] | tuple[int, KernelSize, int, int]
# A convolution, or a factory of a pooling layer.
LayerSpec = ConvSpec | Callable[..., nn.Module]
# Layers one after another, each with its name.
Branch = tuple[tuple[str, LayerSpec], ...]

avg_pool = functools.partial(layers.AvgPool, 3, 1, padding=1, count_include_pad=False)
avg_pool_with_zeros = functools.partial(layers.AvgPool, 3, 1, padding=1)
max_pool = functools.partial(layers.MaxPool, 3, 1, padding=1)
max_pool_stride2 = functools.partial(layers.MaxPool, 3, 2)


def apply_branch(branch: Branch, conv: MakeConv, x: jax.Array, *, train: bool) -> jax.Array:
    """Applies a branch, whose layers belong to the module of the calling compact method.

    Args:
      branch: the layers.
      conv: makes the convolutions.
      x: feature map [B, H, W, C].
      train: mode of the BatchNorms.
    """
    for name, spec in branch:
        if isinstance(spec, tuple):
            x = conv(*spec, name=name)(x, train=train)
        else:
            x = spec(name=name)(x)
    return x


def concat_branches(
    branches: tuple[Branch, ...], conv: MakeConv, x: jax.Array, *, train: bool
) -> jax.Array:
    """Returns the outputs of branches on the same map, joined along the channels."""
    outputs = [apply_branch(branch, conv, x, train=train) for branch in branches]
    return jnp.concatenate(outputs, axis=-1)


class InceptionModule(nn.Module):
    """Branches side by side, joined along the channels."""

    branches: tuple[Branch, ...]
    conv: MakeConv

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return concat_branches(self.branches, self.conv, x, train=train)


def numbered_branches(*branches: tuple[LayerSpec, ...], first: int = 0) -> tuple[Branch, ...]:
    """Names branches `branch0`, `branch1` and so on, from `first`.

    The layers of a branch are numbered, `branch1.0`, `branch1.1`; one alone has no number.
    """
    named = []
    for i, specs in enumerate(branches, start=first):
        alone = len(specs) == 1
        names = [f"branch{i}"] if alone else [f"branch{i}.{j}" for j in range(len(specs))]
        named.append(tuple(zip(names, specs, strict=True)))
    return tuple(named)

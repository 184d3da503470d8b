"""The residual blocks of the ResNets and their shortcuts, under the names of timm's `resnet.py`."""

from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers

Norm = Callable[..., layers.BatchNorm | layers.GroupNorm]


class Downsample(nn.Module):
    """The projection of a shortcut to the shape of its block's output.

    Attributes:
      features: channels of the output.
      stride: step in both directions.
      kernel_size: of the convolution where it takes a stride; else it is 1x1.
      conv, norm: make the layers.
    """

    features: int
    stride: int
    kernel_size: int
    conv: Callable[..., layers.Conv]
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel_size = 1 if self.stride == 1 else self.kernel_size
        x = self.conv(self.features, kernel_size, self.stride, name="0")(x)
        return self.norm(name="1")(x, train=train)


class AverageDownsample(nn.Module):
    """A projection that averages 2x2 cells where it takes a stride, so that all count ("-D").

    arXiv:1812.01187, figure 2c. Attributes are those of `Downsample`.
    """

    features: int
    stride: int
    conv: Callable[..., layers.Conv]
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.stride > 1:
            pool = layers.AvgPool(2, self.stride, ceil_mode=True, count_include_pad=False, name="0")
            x = pool(x)
        x = self.conv(self.features, 1, name="1")(x)
        return self.norm(name="2")(x, train=train)


class ResidualBlock(nn.Module):
    """Base of both kinds of block: the convolution with the stride, and the sum at the end.

    The last norm of a block starts at scale zero, so that a fresh network starts as the identity
    along its shortcuts.

    Attributes:
      inner: channels inside the block, one number for each convolution but the last.
      features: channels of the output.
      stride: of the first 3x3 convolution.
      drop_path: rate of the stochastic depth.
      conv, norm: make the layers.
      downsample: makes the projection of the shortcut where the shapes differ; it is called with
        `features`, `stride` and `name`.
      groups: groups of the bottleneck's 3x3 convolution ("cardinality").
      attention: makes the channel attention that ends the branch; None for none.
      anti_alias: makes the layer that subsamples after the 3x3 convolution, instead of its stride;
        None for none.
      drop_block: makes the layer that drops squares of the inner map; None for none.
    """

    inner: tuple[int, ...]
    features: int
    stride: int
    drop_path: float
    conv: Callable[..., layers.Conv]
    norm: Norm
    downsample: Callable[..., nn.Module]
    groups: int = 1
    attention: Callable[..., nn.Module] | None = None
    anti_alias: Callable[..., nn.Module] | None = None
    drop_block: Callable[..., layers.DropBlock] | None = None

    expansion: ClassVar[int]

    def strided_conv(self, x: jax.Array, index: int, *, train: bool) -> jax.Array:
        """Applies `conv{index}`, the 3x3 convolution with the block's stride, norm and ReLU."""
        anti_alias = self.anti_alias if self.stride > 1 else None
        stride = 1 if anti_alias else self.stride
        conv = self.conv(self.inner[index - 1], 3, stride, groups=self.groups, name=f"conv{index}")
        x = self.norm(name=f"bn{index}")(conv(x), train=train)
        if self.drop_block:
            x = self.drop_block(name="drop_block")(x, train=train)
        x = layers.relu(x)
        return anti_alias(name="aa")(x) if anti_alias else x

    def add_shortcut(self, y: jax.Array, shortcut: jax.Array, *, train: bool) -> jax.Array:
        """Adds the branch `y`, weighted by its attention, to the shortcut."""
        if self.attention:
            y = self.attention(name="se")(y)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if self.stride != 1 or shortcut.shape[-1] != self.features:
            down = self.downsample(self.features, self.stride, name="downsample")
            shortcut = down(shortcut, train=train)
        if y.shape != shortcut.shape:
            raise ValueError(
                f"a branch of shape {y.shape} does not fit its shortcut of shape {shortcut.shape}: "
                "anti-aliasing by averages needs even maps; use images of a multiple of 32 pixels"
            )
        return layers.relu(y + shortcut)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with a shortcut."""

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.strided_conv(x, 1, train=train)
        y = self.conv(self.features, 3, name="conv2")(y)
        y = self.norm(scale_init=nn.initializers.zeros, name="bn2")(y, train=train)
        return self.add_shortcut(y, x, train=train)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the output is four times as wide."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.inner[0], 1, name="conv1")(x)
        y = layers.relu(self.norm(name="bn1")(y, train=train))
        y = self.strided_conv(y, 2, train=train)
        y = self.conv(self.features, 1, name="conv3")(y)
        y = self.norm(scale_init=nn.initializers.zeros, name="bn3")(y, train=train)
        return self.add_shortcut(y, x, train=train)


class Stage(nn.Module):
    """Blocks with outputs of one shape; the first one takes the stride.

    Attributes:
      block: makes a block; it is called with `inner`, `features`, `stride`, `drop_path` and `name`.
      inner: for each block, the channels inside it.
      features: channels of the output.
      stride: of the first block.
      drop_paths: for each block, the rate of its stochastic depth.
    """

    block: Callable[..., ResidualBlock]
    inner: tuple[tuple[int, ...], ...]
    features: int
    stride: int
    drop_paths: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, (inner, drop_path) in enumerate(zip(self.inner, self.drop_paths, strict=True)):
            stride = self.stride if i == 0 else 1
            block = self.block(inner, self.features, stride, drop_path, name=str(i))
            x = block(x, train=train)
        return x

"""DenseNet (arXiv:1608.06993), under the names of timm's `densenet.py`.

These are the paper's DenseNet-BC: each layer squeezes its input by a 1x1 convolution, and a
transition halves the channels. The `d` networks have three 3x3 convolutions in the stem, and
`densenetblur121d` blurs before the stem subsamples (arXiv:1904.11486).
"""

import functools
import re
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_BOTTLENECK = 4


class DenseLayer(nn.Module):
    """Normalisation and 1x1 convolution, normalisation and 3x3 convolution: the new channels."""

    growth: int
    drop_rate: float
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.norm(name="norm1")(x, train=train)
        y = self.conv(_BOTTLENECK * self.growth, 1, name="conv1")(y)
        y = self.norm(name="norm2")(y, train=train)
        y = self.conv(self.growth, 3, name="conv2")(y)
        return layers.Dropout(self.drop_rate, name="drop")(y, train=train)


class DenseBlock(nn.Module):
    """Layers that each see the block's input and the channels of all layers before them."""

    depth: int
    layer: Callable[..., DenseLayer]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.depth):
            new = self.layer(name=f"denselayer{i + 1}")(x, train=train)
            x = jnp.concatenate((x, new), axis=-1)
        return x


class Transition(nn.Module):
    """Halves the channels by a 1x1 convolution, and the resolution by averages of 2x2."""

    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.norm(name="norm")(x, train=train)
        y = self.conv(x.shape[-1] // 2, 1, name="conv")(y)
        return layers.AvgPool(2, 2, name="pool")(y)


class DenseNet(Network):
    """DenseNet.

    There is no branch that could be left out, so `drop_path_rate` must be 0.

    Attributes:
      depths: layers in each dense block.
      growth: channels that each layer adds; the stem has twice as many.
      deep_stem: three 3x3 convolutions for the stem, in the place of one of 7x7.
      blur_stem: blur where the stem's pooling subsamples.
      proj_drop_rate: dropout of each layer's new channels.
    """

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    deep_stem: bool = False
    blur_stem: bool = False
    proj_drop_rate: float = 0.0

    classifier: ClassVar[str] = "classifier"

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, kernel_init=layers.kaiming_fan_in, dtype=self.dtype)
        norm = functools.partial(
            layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype, act=layers.relu
        )
        layer = functools.partial(DenseLayer, self.growth, self.proj_drop_rate, conv, norm)
        x = images
        for i, (width, side, stride) in enumerate(self._stem()):
            x = conv(width, side, stride, name=f"features.conv{i}")(x)
            x = norm(name=f"features.norm{i}")(x, train=train)
        x = self._pool(x)
        for i, depth in enumerate(self.depths, start=1):
            x = DenseBlock(depth, layer, name=f"features.denseblock{i}")(x, train=train)
            if i < len(self.depths):
                x = Transition(conv, norm, name=f"features.transition{i}")(x, train=train)
        return norm(name="features.norm5")(x, train=train)

    def _stem(self) -> tuple[tuple[int, int, int], ...]:
        """Returns width, kernel size and stride of the stem's convolutions."""
        if self.deep_stem:
            return (self.growth, 3, 2), (self.growth, 3, 1), (2 * self.growth, 3, 1)
        return ((2 * self.growth, 7, 2),)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.blur_stem:
            x = layers.MaxPool(3, 1, padding=1, name="features.pool0.0")(x)
            return layers.BlurPool(name="features.pool0.1")(x)
        return layers.MaxPool(3, 2, padding=1, name="features.pool0")(x)


def rename(key: str) -> str:
    """Returns timm's key for one of torchvision's old checkpoints, and any other key as it is.

    >>> rename("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def _architecture(
    depths: tuple[int, ...], growth: int, *, deep_stem: bool = False, blur_stem: bool = False
) -> Architecture:
    last = 2 if deep_stem else 0
    blocks = (f"features.denseblock{i}" for i in range(1, len(depths)))
    return Architecture(
        build=functools.partial(
            DenseNet, depths=depths, growth=growth, deep_stem=deep_stem, blur_stem=blur_stem
        ),
        classifier=DenseNet.classifier,
        stem="features.conv0",
        stages=(f"features.norm{last}", *blocks, "features.norm5"),
        rename=rename,
    )


ARCHITECTURES = {
    "densenet121": _architecture((6, 12, 24, 16), 32),
    "densenetblur121d": _architecture((6, 12, 24, 16), 32, deep_stem=True, blur_stem=True),
    "densenet161": _architecture((6, 12, 36, 24), 48),
    "densenet169": _architecture((6, 12, 32, 32), 32),
    "densenet201": _architecture((6, 12, 48, 32), 32),
    "densenet264d": _architecture((6, 12, 64, 48), 48, deep_stem=True),
}

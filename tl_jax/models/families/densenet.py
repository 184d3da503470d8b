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
    """DenseNet, in the form DenseNet-BC.

    Attributes:
      depths: layers in each dense block.
      growth: channels that each layer adds; the stem has twice as many.
      deep_stem: three 3x3 convolutions for the stem, instead of one of 7x7.
      blur_stem: blur where the stem's pooling subsamples.
      proj_drop_rate: dropout rate of each layer's new channels.
    """

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    deep_stem: bool = False
    blur_stem: bool = False
    proj_drop_rate: float = 0.0

    classifier: ClassVar[str] = "classifier"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, kernel_init=layers.kaiming_fan_in, dtype=self.dtype)
        norm = functools.partial(
            layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype, act=layers.relu
        )
        layer = functools.partial(DenseLayer, self.growth, self.proj_drop_rate, conv, norm)
        x = images
        # Width, kernel size and stride of the stem's convolutions.
        stem = [(2 * self.growth, 7, 2)]
        if self.deep_stem:
            stem = [(self.growth, 3, 2), (self.growth, 3, 1), (2 * self.growth, 3, 1)]
        for i, (width, kernel_size, stride) in enumerate(stem):
            x = conv(width, kernel_size, stride, name=f"features.conv{i}")(x)
            x = norm(name=f"features.norm{i}")(x, train=train)
        if self.blur_stem:
            x = layers.MaxPool(3, 1, padding=1, name="features.pool0.0")(x)
            x = layers.BlurPool(name="features.pool0.1")(x)
        else:
            x = layers.MaxPool(3, 2, padding=1, name="features.pool0")(x)
        for i, depth in enumerate(self.depths, start=1):
            x = DenseBlock(depth, layer, name=f"features.denseblock{i}")(x, train=train)
            if i < len(self.depths):
                x = Transition(conv, norm, name=f"features.transition{i}")(x, train=train)
        return norm(name="features.norm5")(x, train=train)

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of torchvision's old checkpoints."""
        return rename(key)


def rename(key: str) -> str:
    """Returns timm's key for one of torchvision's old checkpoints, and any other key as it is.

    Examples:
      >>> rename("features.denseblock1.denselayer2.norm.1.weight")
      'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


NETWORKS: dict[str, DenseNet] = {
    "densenet121": DenseNet(depths=(6, 12, 24, 16)),
    "densenetblur121d": DenseNet(depths=(6, 12, 24, 16), deep_stem=True, blur_stem=True),
    "densenet161": DenseNet(depths=(6, 12, 36, 24), growth=48),
    "densenet169": DenseNet(depths=(6, 12, 32, 32)),
    "densenet201": DenseNet(depths=(6, 12, 48, 32)),
    "densenet264d": DenseNet(depths=(6, 12, 64, 48), growth=48, deep_stem=True),
}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="features.conv0",
        stages=(
            "features.norm2" if network.deep_stem else "features.norm0",
            *(f"features.denseblock{i}" for i in range(1, len(network.depths))),
            "features.norm5",
        ),
    )
    for name, network in NETWORKS.items()
}

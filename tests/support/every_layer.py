"""A network of a few channels with every kind of layer that transfer methods distinguish."""

from collections.abc import Iterator
from typing import ClassVar

import jax
import pytest
from flax import linen as nn

from tl_jax.models import layers, registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

# In the registry it replaces this network, whose pretrained weights have a known number of classes.
NAME = "resnet10t"
STAGES = ("act1", "layer1", "layer2", "layer3")


class BatchNormBlock(nn.Module):
    """A residual branch of a convolution without a bias, BatchNorm and DropPath (ResNet)."""

    drop_path_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = layers.Conv(x.shape[-1], 3, name="conv")(x)
        y = layers.BatchNorm(name="bn")(y, train=train)
        return x + layers.DropPath(self.drop_path_rate, name="drop_path")(y, train=train)


class LayerScaleBlock(nn.Module):
    """A depthwise convolution, LayerNorm, dense layers and a layer scale (ConvNeXt)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = layers.Conv(width, 3, groups=width, use_bias=True, name="conv_dw")(x)
        y = layers.LayerNorm(name="norm")(y)
        y = layers.gelu(nn.Dense(2 * width, name="fc1")(y))
        y = nn.Dense(width, name="fc2")(y)
        return x + self.param("gamma", nn.initializers.ones, (width,)) * y


class Mixed(nn.Module):
    """A layer-scale block, and a standardised convolution with a gain (NFNet)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LayerScaleBlock(name="block")(x)
        return layers.silu(layers.ScaledStdConv(6, 3, use_bias=True, name="std_conv")(x))


class EveryLayer(Network):
    """Stem and three stages of 6 channels; images of 8 pixels are enough."""

    classifier: ClassVar[str] = "fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, 6]."""
        x = layers.Conv(6, 3, 2, name="conv1")(images)
        x = layers.BatchNorm(name="bn1")(x, train=train)
        x = layers.Activation(layers.silu, name="act1")(x)
        x = BatchNormBlock(self.drop_path_rate, name="layer1")(x, train=train)
        x = Mixed(name="layer2")(x)
        return BatchNormBlock(self.drop_path_rate, name="layer3")(x, train=train)


@pytest.fixture
def every_layer() -> Iterator[str]:
    """The network's name in the registry, while a test runs."""
    with pytest.MonkeyPatch.context() as patch:
        architecture = Architecture(EveryLayer(), stem="conv1", stages=STAGES)
        patch.setitem(registry.ARCHITECTURES, NAME, architecture)
        yield NAME

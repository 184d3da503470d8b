"""Xception (arXiv:1610.02357), under the names of timm's `xception.py`.

It is timm's `legacy_xception`, with the weights of the original, from Keras.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution and a pointwise one, with nothing between them."""

    features: int
    conv: Callable[..., layers.Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.conv(channels, 3, groups=channels, name="conv1")(x)
        return self.conv(self.features, 1, name="pointwise")(x)


class Block(nn.Module):
    """Separable convolutions with a shortcut, and a max pooling where the stride is 2.

    timm numbers the layers of the residual branch in a row, `rep.0`, `rep.1`.

    Attributes:
      widths: output channels of the separable convolutions.
      stride: of the block; 2 projects the shortcut.
      start_with_relu: False for the first block, whose input is the output of a ReLU.
      conv, norm: make the layers.
    """

    widths: tuple[int, ...]
    stride: int
    start_with_relu: bool
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y, index = x, 0
        for i, width in enumerate(self.widths):
            if i > 0 or self.start_with_relu:
                y = layers.Activation(layers.relu, name=f"rep.{index}")(y)
                index += 1
            y = SeparableConv(width, self.conv, name=f"rep.{index}")(y)
            y = self.norm(name=f"rep.{index + 1}")(y, train=train)
            index += 2
        if self.stride == 1:
            return y + x
        y = layers.MaxPool(3, self.stride, padding=1, name=f"rep.{index}")(y)
        x = self.conv(self.widths[-1], 1, self.stride, name="skip")(x)
        return y + self.norm(name="skipbn")(x, train=train)


# Widths of the separable convolutions and stride of `block1` to `block12`: entry flow, middle flow,
# and the first block of the exit flow.
_BLOCKS = (
    ((128, 128), 2),
    ((256, 256), 2),
    ((728, 728), 2),
    *(((728, 728, 728), 1),) * 8,
    ((728, 1024), 2),
)


class Xception(Network):
    """Xception; timm has no stochastic depth here.

    Attributes:
      blocks: widths of each block's separable convolutions, and its stride.
    """

    blocks: tuple[tuple[tuple[int, ...], int], ...] = _BLOCKS

    classifier: ClassVar[str] = "fc"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = conv(32, 3, 2, padding=0, name="conv1")(images)
        x = layers.relu(norm(name="bn1")(x, train=train))
        x = conv(64, 3, padding=0, name="conv2")(x)
        x = layers.Activation(layers.relu, name="act2")(norm(name="bn2")(x, train=train))
        for i, (widths, stride) in enumerate(self.blocks, start=1):
            x = Block(widths, stride, i > 1, conv, norm, name=f"block{i}")(x, train=train)
        x = SeparableConv(1536, conv, name="conv3")(x)
        x = layers.relu(norm(name="bn3")(x, train=train))
        x = SeparableConv(2048, conv, name="conv4")(x)
        return layers.Activation(layers.relu, name="act4")(norm(name="bn4")(x, train=train))


NETWORKS: dict[str, Xception] = {"legacy_xception": Xception()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="conv1",
        # The activations that start a block are those of the block before it.
        stages=("act2", "block2.rep.0", "block3.rep.0", "block12.rep.0", "act4"),
    )
    for name, network in NETWORKS.items()
}

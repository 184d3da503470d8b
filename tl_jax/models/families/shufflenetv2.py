"""ShuffleNet V2 (arXiv:1807.11164), under the names of torchvision's `shufflenetv2.py`."""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_STEM_WIDTH = 24


class ConvNormAct(nn.Module):
    """Convolution, BatchNorm and ReLU: the stem and the last layer of the network."""

    width: int
    kernel_size: int
    stride: int
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.width, self.kernel_size, self.stride, name="0")(x)
        return layers.relu(self.norm(name="1")(x, train=train))


class InvertedResidual(nn.Module):
    """Convolves one half of the channels, and shuffles them with the other half.

    With stride 2 both branches see all channels, and the block's output has half the resolution.
    """

    width: int
    stride: int
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def depthwise(x: jax.Array, conv: str, norm: str) -> jax.Array:
            channels = x.shape[-1]
            x = self.conv(channels, 3, self.stride, groups=channels, name=conv)(x)
            return self.norm(name=norm)(x, train=train)

        def pointwise(x: jax.Array, conv: str, norm: str) -> jax.Array:
            x = self.conv(self.width // 2, 1, name=conv)(x)
            return layers.relu(self.norm(name=norm)(x, train=train))

        if self.stride == 1:
            left, x = jnp.split(x, 2, axis=-1)
        else:
            left = depthwise(x, "branch1.0", "branch1.1")
            left = pointwise(left, "branch1.2", "branch1.3")
        right = pointwise(x, "branch2.0", "branch2.1")
        right = depthwise(right, "branch2.3", "branch2.4")
        right = pointwise(right, "branch2.5", "branch2.6")
        return channel_shuffle(left, right)


def channel_shuffle(left: jax.Array, right: jax.Array) -> jax.Array:
    """Joins two maps [B, h, w, C] so that their channels alternate: [B, h, w, 2 C]."""
    return jnp.stack((left, right), axis=-1).reshape(*left.shape[:-1], -1)


class Stage(nn.Module):
    """Blocks of one width, the first of which halves the resolution."""

    depth: int
    width: int
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.depth):
            stride = 2 if i == 0 else 1
            block = InvertedResidual(self.width, stride, self.conv, self.norm, name=str(i))
            x = block(x, train=train)
        return x


class ShuffleNetV2(Network):
    """ShuffleNet V2.

    It has no stochastic depth: without one of its branches a block would have half of its channels.

    Attributes:
      depths: blocks in each stage.
      widths: channels of each stage, and of the last convolution.
    """

    depths: tuple[int, ...] = (4, 8, 4)
    widths: tuple[int, ...] = (116, 232, 464, 1024)

    classifier: ClassVar[str] = "fc"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, kernel_init=layers.torch_default, dtype=self.dtype)
        norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = ConvNormAct(_STEM_WIDTH, 3, 2, conv, norm, name="conv1")(images, train=train)
        x = layers.MaxPool(3, 2, padding=1, name="maxpool")(x)
        *widths, last_width = self.widths
        for i, (depth, width) in enumerate(zip(self.depths, widths, strict=True), start=2):
            x = Stage(depth, width, conv, norm, name=f"stage{i}")(x, train=train)
        return ConvNormAct(last_width, 1, 1, conv, norm, name="conv5")(x, train=train)


NETWORKS: dict[str, ShuffleNetV2] = {
    "torchvision/shufflenet_v2_x0_5": ShuffleNetV2(widths=(48, 96, 192, 1024)),
    "torchvision/shufflenet_v2_x1_0": ShuffleNetV2(widths=(116, 232, 464, 1024)),
    "torchvision/shufflenet_v2_x1_5": ShuffleNetV2(widths=(176, 352, 704, 1024)),
    "torchvision/shufflenet_v2_x2_0": ShuffleNetV2(widths=(244, 488, 976, 2048)),
}

ARCHITECTURES = {
    name: Architecture(
        network, stem="conv1.0", stages=("conv1", "maxpool", "stage2", "stage3", "conv5")
    )
    for name, network in NETWORKS.items()
}

"""Inception-ResNet-v2 (arXiv:1602.07261), under the names of timm's `inception_resnet_v2.py`.

The modules are written as branches of convolutions (width, kernel size, stride, padding); without
the last two the stride is 1 and the map keeps its size.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    Branch,
    ConvNormAct,
    InceptionModule,
    MakeConv,
    apply_branch,
    avg_pool,
    concat_branches,
    max_pool_stride2,
    numbered_branches,
)
from tl_jax.models.network import Network

_STEM: Branch = (
    ("conv2d_1a", (32, 3, 2, 0)),
    ("conv2d_2a", (32, 3, 1, 0)),
    ("conv2d_2b", (64, 3)),
    ("maxpool_3a", max_pool_stride2),
    ("conv2d_3b", (80, 1)),
    ("conv2d_4a", (192, 3, 1, 0)),
    ("maxpool_5a", max_pool_stride2),
)
_MIXED_5B = numbered_branches(
    ((96, 1),),
    ((48, 1), (64, 5)),
    ((64, 1), (96, 3), (96, 3)),
    (avg_pool, (64, 1)),
)
_BLOCK35 = numbered_branches(
    ((32, 1),),
    ((32, 1), (32, 3)),
    ((32, 1), (48, 3), (64, 3)),
)
_MIXED_6A = numbered_branches(
    ((384, 3, 2, 0),),
    ((256, 1), (256, 3), (384, 3, 2, 0)),
    (max_pool_stride2,),
)
_BLOCK17 = numbered_branches(
    ((192, 1),),
    ((128, 1), (160, (1, 7)), (192, (7, 1))),
)
_MIXED_7A = numbered_branches(
    ((256, 1), (384, 3, 2, 0)),
    ((256, 1), (288, 3, 2, 0)),
    ((256, 1), (288, 3), (320, 3, 2, 0)),
    (max_pool_stride2,),
)
_BLOCK8 = numbered_branches(
    ((192, 1),),
    ((192, 1), (224, (1, 3)), (256, (3, 1))),
)


class ResidualBlock(nn.Module):
    """Branches of convolutions, brought back to the input's width, scaled and added to it.

    Attributes:
      branches: the layers.
      scale: factor on the sum that is added; the paper reports divergence without it.
      conv: makes the convolutions of the branches.
      relu: end with the activation.
    """

    branches: tuple[Branch, ...]
    scale: float
    conv: MakeConv
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = concat_branches(self.branches, self.conv, x, train=train)
        y = layers.Conv(
            x.shape[-1], 1, use_bias=True, kernel_init=layers.torch_default, dtype=x.dtype,
            name="conv2d",
        )(y)  # fmt: skip
        x = x + self.scale * y
        return layers.relu(x) if self.relu else x


class Repeat(nn.Module):
    """Equal residual blocks one after another."""

    depth: int
    block: Callable[..., ResidualBlock]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.depth):
            x = self.block(name=str(i))(x, train=train)
        return x


class InceptionResNetV2(Network):
    """Inception-ResNet-v2; the paper has images of 299x299, and they must be at least 75x75.

    timm has no stochastic depth here.

    Attributes:
      depths: residual blocks of each of the three resolutions.
    """

    depths: tuple[int, int, int] = (10, 20, 9)

    classifier: ClassVar[str] = "classif"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(ConvNormAct, axis_name=self.axis_name, dtype=self.dtype)
        block35 = functools.partial(ResidualBlock, _BLOCK35, scale=0.17, conv=conv)
        block17 = functools.partial(ResidualBlock, _BLOCK17, scale=0.10, conv=conv)
        block8 = functools.partial(ResidualBlock, _BLOCK8, scale=0.20, conv=conv)
        x = apply_branch(_STEM, conv, images, train=train)
        x = InceptionModule(_MIXED_5B, conv, name="mixed_5b")(x, train=train)
        x = Repeat(self.depths[0], block35, name="repeat")(x, train=train)
        x = InceptionModule(_MIXED_6A, conv, name="mixed_6a")(x, train=train)
        x = Repeat(self.depths[1], block17, name="repeat_1")(x, train=train)
        x = InceptionModule(_MIXED_7A, conv, name="mixed_7a")(x, train=train)
        x = Repeat(self.depths[2], block8, name="repeat_2")(x, train=train)
        # As in the TensorFlow original the last block is not scaled down, and linear.
        x = block8(scale=1.0, relu=False, name="block8")(x, train=train)
        return conv(1536, 1, name="conv2d_7b")(x, train=train)


NETWORKS: dict[str, InceptionResNetV2] = {"inception_resnet_v2": InceptionResNetV2()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="conv2d_1a.conv",
        stages=("conv2d_2b", "conv2d_4a", "repeat", "repeat_1", "conv2d_7b"),
    )
    for name, network in NETWORKS.items()
}

"""Inception-v4 (arXiv:1602.07261), under the names of timm's `inception_v4.py`.

The modules are written as branches of convolutions (width, kernel size, stride, padding); without
the last two the stride is 1 and the map keeps its size.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    Branch,
    ConvNormAct,
    ConvSpec,
    InceptionModule,
    MakeConv,
    avg_pool,
    max_pool_stride2,
    numbered_branches,
)
from tl_jax.models.network import Network

_STEM: tuple[ConvSpec, ...] = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3))
_MIXED_3A: tuple[Branch, ...] = (("maxpool", max_pool_stride2),), (("conv", (96, 3, 2, 0)),)
_MIXED_4A = numbered_branches(
    ((64, 1), (96, 3, 1, 0)),
    ((64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1, 0)),
)
_MIXED_5A: tuple[Branch, ...] = (("conv", (192, 3, 2, 0)),), (("maxpool", max_pool_stride2),)
_INCEPTION_A = numbered_branches(
    ((96, 1),),
    ((64, 1), (96, 3)),
    ((64, 1), (96, 3), (96, 3)),
    (avg_pool, (96, 1)),
)
_REDUCTION_A = numbered_branches(
    ((384, 3, 2, 0),),
    ((192, 1), (224, 3), (256, 3, 2, 0)),
    (max_pool_stride2,),
)
_INCEPTION_B = numbered_branches(
    ((384, 1),),
    ((192, 1), (224, (1, 7)), (256, (7, 1))),
    ((192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
    (avg_pool, (128, 1)),
)
_REDUCTION_B = numbered_branches(
    ((192, 1), (192, 3, 2, 0)),
    ((256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2, 0)),
    (max_pool_stride2,),
)


class InceptionC(nn.Module):
    """The module of the coarsest map, two of whose four branches end in a pair of 1x3 and 3x1."""

    conv: MakeConv

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x: jax.Array, name: str, width: int, size: int | tuple[int, int] = 1) -> jax.Array:
            return self.conv(width, size, name=name)(x, train=train)

        y1 = conv(x, "branch1_0", 384)
        y2 = conv(x, "branch2_0", 384)
        y2 = conv(y2, "branch2_1", 448, (3, 1))
        y2 = conv(y2, "branch2_2", 512, (1, 3))
        ends = (
            conv(x, "branch0", 256),
            conv(y1, "branch1_1a", 256, (1, 3)),
            conv(y1, "branch1_1b", 256, (3, 1)),
            conv(y2, "branch2_3a", 256, (1, 3)),
            conv(y2, "branch2_3b", 256, (3, 1)),
            conv(avg_pool(name="branch3.0")(x), "branch3.1", 256),
        )
        return jnp.concatenate(ends, axis=-1)


class InceptionV4(Network):
    """Inception-v4; the paper has images of 299x299, and they must be at least 75x75."""

    classifier: ClassVar[str] = "last_linear"
    stochastic_depth: ClassVar[bool] = False
    # Inception modules of each of the three resolutions.
    depths: ClassVar[tuple[int, int, int]] = (4, 7, 3)

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(ConvNormAct, axis_name=self.axis_name, dtype=self.dtype)
        depth_a, depth_b, depth_c = self.depths
        branches = (
            *(_MIXED_3A, _MIXED_4A, _MIXED_5A),
            *(_INCEPTION_A,) * depth_a,
            _REDUCTION_A,
            *(_INCEPTION_B,) * depth_b,
            _REDUCTION_B,
        )
        modules: list[Callable[..., nn.Module]] = [
            *(functools.partial(conv, *spec) for spec in _STEM),
            *(functools.partial(InceptionModule, each, conv) for each in branches),
            *[functools.partial(InceptionC, conv)] * depth_c,
        ]
        x = images
        for i, module in enumerate(modules):
            x = module(name=f"features.{i}")(x, train=train)
        return x


NETWORKS: dict[str, InceptionV4] = {"inception_v4": InceptionV4()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="features.0.conv",
        stages=("features.2", "features.3", "features.9", "features.17", "features.21"),
    )
    for name, network in NETWORKS.items()
}

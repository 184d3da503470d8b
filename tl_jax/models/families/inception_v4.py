"""Inception-v4 (arXiv:1602.07261), under the names of timm's `inception_v4.py`.

The modules are written as rows of convolutions (width, kernel size, stride, padding); without the
last two the stride is 1 and the map keeps its size.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    ConvMaker,
    ConvNormAct,
    Mixed,
    average,
    branches,
    halving_maximum,
)
from tl_jax.models.network import Network

_STEM = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3))
_MIXED_3A = (("maxpool", halving_maximum),), (("conv", (96, 3, 2, 0)),)
_MIXED_4A = branches(
    ((64, 1), (96, 3, 1, 0)),
    ((64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1, 0)),
)
_MIXED_5A = (("conv", (192, 3, 2, 0)),), (("maxpool", halving_maximum),)
_INCEPTION_A = branches(
    ((96, 1),),
    ((64, 1), (96, 3)),
    ((64, 1), (96, 3), (96, 3)),
    (average, (96, 1)),
)
_REDUCTION_A = branches(
    ((384, 3, 2, 0),),
    ((192, 1), (224, 3), (256, 3, 2, 0)),
    (halving_maximum,),
)
_INCEPTION_B = branches(
    ((384, 1),),
    ((192, 1), (224, (1, 7)), (256, (7, 1))),
    ((192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
    (average, (128, 1)),
)
_REDUCTION_B = branches(
    ((192, 1), (192, 3, 2, 0)),
    ((256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2, 0)),
    (halving_maximum,),
)
_BEFORE_C = (_MIXED_3A, _MIXED_4A, _MIXED_5A, *(_INCEPTION_A,) * 4, _REDUCTION_A,
             *(_INCEPTION_B,) * 7, _REDUCTION_B)  # fmt: skip
_DEPTH_C = 3


class InceptionC(nn.Module):
    """The module of the coarsest map, two of whose four rows end in a pair of 1x3 and 3x1."""

    conv: ConvMaker

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
            conv(average(name="branch3.0")(x), "branch3.1", 256),
        )
        return jnp.concatenate(ends, axis=-1)


class InceptionV4(Network):
    """Inception-v4; images of 299x299 in the paper, of at least 75x75 at all.

    There are no residual branches, so `drop_path_rate` must be 0.
    """

    classifier: ClassVar[str] = "last_linear"

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(ConvNormAct, axis_name=self.axis_name, dtype=self.dtype)
        modules = (
            *(functools.partial(conv, *spec) for spec in _STEM),
            *(functools.partial(Mixed, rows, conv) for rows in _BEFORE_C),
            *(functools.partial(InceptionC, conv),) * _DEPTH_C,
        )
        x = images
        for i, module in enumerate(modules):
            x = module(name=f"features.{i}")(x, train=train)
        return x


ARCHITECTURES = {
    "inception_v4": Architecture(
        build=InceptionV4,
        classifier=InceptionV4.classifier,
        stem="features.0.conv",
        stages=("features.2", "features.3", "features.9", "features.17", "features.21"),
    )
}

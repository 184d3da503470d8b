"""Inception-v3 (arXiv:1512.00567), under the names of timm's `inception_v3.py`.

The modules are written as rows of convolutions (width, kernel size, stride, padding); without the
last two the stride is 1 and the map keeps its size.
"""

import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    ConvMaker,
    ConvNormAct,
    Mixed,
    Row,
    Spec,
    apply_row,
    average_with_zeros,
    halving_maximum,
)
from tl_jax.models.network import Network

_KERNEL_INIT = layers.trunc_normal(0.1)
# The side of the map for which the auxiliary head is made; that of images of 299x299.
_AUXILIARY_SIDE = 17


def _rows(rows: Mapping[str, tuple[Spec, ...]], *pooling: tuple[str, Spec]) -> tuple[Row, ...]:
    """Names the layers of a row `branch5x5_1`, `branch5x5_2`; one alone has no number.

    Args:
      rows: layers by the name of the row.
      pooling: the last row: a pooling, and what follows it.
    """
    named = (
        tuple((f"{name}_{i}" if len(row) > 1 else name, spec) for i, spec in enumerate(row, 1))
        for name, row in rows.items()
    )
    return (*named, pooling)


def _inception_a(pool_width: int) -> tuple[Row, ...]:
    rows = {
        "branch1x1": ((64, 1),),
        "branch5x5": ((48, 1), (64, 5)),
        "branch3x3dbl": ((64, 1), (96, 3), (96, 3)),
    }
    return _rows(rows, ("pool", average_with_zeros), ("branch_pool", (pool_width, 1)))


def _inception_c(width: int) -> tuple[Row, ...]:
    w, row, column = width, (1, 7), (7, 1)
    rows = {
        "branch1x1": ((192, 1),),
        "branch7x7": ((w, 1), (w, row), (192, column)),
        "branch7x7dbl": ((w, 1), (w, column), (w, row), (w, column), (192, row)),
    }
    return _rows(rows, ("pool", average_with_zeros), ("branch_pool", (192, 1)))


_INCEPTION_B = _rows(
    {
        "branch3x3": ((384, 3, 2, 0),),
        "branch3x3dbl": ((64, 1), (96, 3), (96, 3, 2, 0)),
    },
    ("pool", halving_maximum),
)
_INCEPTION_D = _rows(
    {
        "branch3x3": ((192, 1), (320, 3, 2, 0)),
        "branch7x7x3": ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, 0)),
    },
    ("pool", halving_maximum),
)
_STEM = (
    ("Conv2d_1a_3x3", (32, 3, 2, 0)),
    ("Conv2d_2a_3x3", (32, 3, 1, 0)),
    ("Conv2d_2b_3x3", (64, 3)),
    ("Pool1", halving_maximum),
    ("Conv2d_3b_1x1", (80, 1)),
    ("Conv2d_4a_3x3", (192, 3, 1, 0)),
    ("Pool2", halving_maximum),
)
# Up to the map from which the auxiliary head branches off.
_MIXED = {
    "Mixed_5b": _inception_a(32),
    "Mixed_5c": _inception_a(64),
    "Mixed_5d": _inception_a(64),
    "Mixed_6a": _INCEPTION_B,
    "Mixed_6b": _inception_c(128),
    "Mixed_6c": _inception_c(160),
    "Mixed_6d": _inception_c(160),
    "Mixed_6e": _inception_c(192),
}


class InceptionE(nn.Module):
    """The module of the coarsest map, two of whose four rows end in a pair of 1x3 and 3x1."""

    conv: ConvMaker

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x: jax.Array, name: str, width: int, size: int | tuple[int, int] = 1) -> jax.Array:
            return self.conv(width, size, name=name)(x, train=train)

        once = conv(x, "branch3x3_1", 384)
        twice = conv(conv(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
        ends = (
            conv(x, "branch1x1", 320),
            conv(once, "branch3x3_2a", 384, (1, 3)),
            conv(once, "branch3x3_2b", 384, (3, 1)),
            conv(twice, "branch3x3dbl_3a", 384, (1, 3)),
            conv(twice, "branch3x3dbl_3b", 384, (3, 1)),
            conv(average_with_zeros(name="pool")(x), "branch_pool", 192),
        )
        return jnp.concatenate(ends, axis=-1)


class AuxiliaryHead(nn.Module):
    """The second classifier, for training; its logits go to the collection "auxiliary"."""

    num_classes: int
    conv: ConvMaker

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        side = _AUXILIARY_SIDE
        if self.is_initializing():
            # No parameter depends on the size of the map, and images that are too small for this
            # head are not too small for the others.
            x = jnp.zeros((1, side, side, x.shape[-1]), x.dtype)
        if min(x.shape[1:3]) < side:
            raise ValueError(
                f"the auxiliary head needs a map of {side}x{side}, got {x.shape[1]}x{x.shape[2]}; "
                "train on images of at least 299x299, or set aux_logits=False"
            )
        x = layers.AvgPool(5, 3, name="pool")(x)
        x = self.conv(128, 1, name="conv0")(x, train=train)
        x = self.conv(768, 5, 1, 0, name="conv1")(x, train=train)
        logits = layers.Dense(self.num_classes, name="fc")(layers.global_average(x))
        if not self.is_initializing():
            self.sow("auxiliary", "logits", logits)
        return logits


class InceptionV3(Network):
    """Inception-v3; images of 299x299 in the paper, of at least 75x75 at all.

    There are no residual branches, so `drop_path_rate` must be 0.

    Attributes:
      aux_logits: have the auxiliary head. In training, if the collection "auxiliary" is mutable,
        its logits [B, num_classes] are found there as `["AuxLogits"]["logits"][0]`.
    """

    aux_logits: bool = False

    classifier: ClassVar[str] = "fc"
    auxiliary: ClassVar[tuple[str, ...]] = ("AuxLogits",)

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(
            ConvNormAct, kernel_init=_KERNEL_INIT, axis_name=self.axis_name, dtype=self.dtype
        )
        x = apply_row(_STEM, conv, images, train=train)
        for name, rows in _MIXED.items():
            x = Mixed(rows, conv, name=name)(x, train=train)
        if self.aux_logits and self.num_classes and (train or self.is_initializing()):
            AuxiliaryHead(self.num_classes, conv, name="AuxLogits")(x, train=train)
        x = Mixed(_INCEPTION_D, conv, name="Mixed_7a")(x, train=train)
        x = InceptionE(conv, name="Mixed_7b")(x, train=train)
        return InceptionE(conv, name="Mixed_7c")(x, train=train)


ARCHITECTURES = {
    "inception_v3": Architecture(
        build=InceptionV3,
        classifier=InceptionV3.classifier,
        stem="Conv2d_1a_3x3.conv",
        stages=("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
    )
}

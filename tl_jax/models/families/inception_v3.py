"""Inception-v3 (arXiv:1512.00567), under the names of timm's `inception_v3.py`.

The modules are written as branches of convolutions (width, kernel size, stride, padding); without
the last two the stride is 1 and the map keeps its size.
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    Branch,
    ConvNormAct,
    InceptionModule,
    LayerSpec,
    MakeConv,
    apply_branch,
    avg_pool_with_zeros,
    max_pool_stride2,
)
from tl_jax.models.network import Network

_KERNEL_INIT = layers.trunc_normal(0.1)
# The side of the map that the auxiliary head takes, for images of 299x299.
_AUXILIARY_SIDE = 17


def _branches(
    branches: Mapping[str, tuple[LayerSpec, ...]], *pooling: tuple[str, LayerSpec]
) -> tuple[Branch, ...]:
    """Names the layers of a branch `branch5x5_1`, `branch5x5_2`; one alone has no number.

    Args:
      branches: layers by the name of the branch.
      pooling: the last branch: a pooling, and what follows it.
    """
    named = (
        tuple((f"{name}_{i}" if len(specs) > 1 else name, spec) for i, spec in enumerate(specs, 1))
        for name, specs in branches.items()
    )
    return (*named, pooling)


def _inception_a(pool_width: int) -> tuple[Branch, ...]:
    return _branches(
        {
            "branch1x1": ((64, 1),),
            "branch5x5": ((48, 1), (64, 5)),
            "branch3x3dbl": ((64, 1), (96, 3), (96, 3)),
        },
        ("pool", avg_pool_with_zeros), ("branch_pool", (pool_width, 1)),
    )  # fmt: skip


def _inception_c(width: int) -> tuple[Branch, ...]:
    w, row, column = width, (1, 7), (7, 1)
    return _branches(
        {
            "branch1x1": ((192, 1),),
            "branch7x7": ((w, 1), (w, row), (192, column)),
            "branch7x7dbl": ((w, 1), (w, column), (w, row), (w, column), (192, row)),
        },
        ("pool", avg_pool_with_zeros), ("branch_pool", (192, 1)),
    )  # fmt: skip


_STEM: Branch = (
    ("Conv2d_1a_3x3", (32, 3, 2, 0)),
    ("Conv2d_2a_3x3", (32, 3, 1, 0)),
    ("Conv2d_2b_3x3", (64, 3)),
    ("Pool1", max_pool_stride2),
    ("Conv2d_3b_1x1", (80, 1)),
    ("Conv2d_4a_3x3", (192, 3, 1, 0)),
    ("Pool2", max_pool_stride2),
)
_INCEPTION_B = _branches(
    {
        "branch3x3": ((384, 3, 2, 0),),
        "branch3x3dbl": ((64, 1), (96, 3), (96, 3, 2, 0)),
    },
    ("pool", max_pool_stride2),
)
_INCEPTION_D = _branches(
    {
        "branch3x3": ((192, 1), (320, 3, 2, 0)),
        "branch7x7x3": ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, 0)),
    },
    ("pool", max_pool_stride2),
)


class InceptionE(nn.Module):
    """The module of the coarsest map, two of whose four branches end in a pair of 1x3 and 3x1."""

    conv: MakeConv

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x: jax.Array, name: str, width: int, size: int | tuple[int, int] = 1) -> jax.Array:
            return self.conv(width, size, name=name)(x, train=train)

        once = conv(x, "branch3x3_1", 384)
        twice = conv(conv(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
        outputs = (
            conv(x, "branch1x1", 320),
            conv(once, "branch3x3_2a", 384, (1, 3)),
            conv(once, "branch3x3_2b", 384, (3, 1)),
            conv(twice, "branch3x3dbl_3a", 384, (1, 3)),
            conv(twice, "branch3x3dbl_3b", 384, (3, 1)),
            conv(avg_pool_with_zeros(name="pool")(x), "branch_pool", 192),
        )
        return jnp.concatenate(outputs, axis=-1)


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "Mixed_5b": functools.partial(InceptionModule, _inception_a(32)),
    "Mixed_5c": functools.partial(InceptionModule, _inception_a(64)),
    "Mixed_5d": functools.partial(InceptionModule, _inception_a(64)),
    "Mixed_6a": functools.partial(InceptionModule, _INCEPTION_B),
    "Mixed_6b": functools.partial(InceptionModule, _inception_c(128)),
    "Mixed_6c": functools.partial(InceptionModule, _inception_c(160)),
    "Mixed_6d": functools.partial(InceptionModule, _inception_c(160)),
    "Mixed_6e": functools.partial(InceptionModule, _inception_c(192)),
    "Mixed_7a": functools.partial(InceptionModule, _INCEPTION_D),
    "Mixed_7b": InceptionE,
    "Mixed_7c": InceptionE,
}
# The module before which the auxiliary head branches off.
_AUXILIARY_BEFORE = "Mixed_7a"


class AuxiliaryHead(nn.Module):
    """The second classifier, for training; its logits go to the collection "auxiliary"."""

    num_classes: int
    conv: MakeConv

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        side = _AUXILIARY_SIDE
        if self.is_initializing():
            # No parameter depends on the size of the map, and images that are too small for this
            # head need not be too small for the rest of the network.
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
    """Inception-v3; the paper has images of 299x299, and they must be at least 75x75.

    Attributes:
      aux_logits: build the auxiliary head. In training, if the collection "auxiliary" is mutable,
        its logits [B, num_classes] are there as `["AuxLogits"]["logits"][0]`.
    """

    aux_logits: bool = False

    classifier: ClassVar[str] = "fc"
    auxiliary: ClassVar[tuple[str, ...]] = ("AuxLogits",)
    stochastic_depth: ClassVar[bool] = False
    # For each Inception module, by name, a factory that takes `conv` and `name`.
    modules: ClassVar[Mapping[str, Callable[..., nn.Module]]] = _MODULES

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(
            ConvNormAct, kernel_init=_KERNEL_INIT, axis_name=self.axis_name, dtype=self.dtype
        )
        has_head = self.aux_logits and self.num_classes and (train or self.is_initializing())
        x = apply_branch(_STEM, conv, images, train=train)
        for name, module in self.modules.items():
            if has_head and name == _AUXILIARY_BEFORE:
                AuxiliaryHead(self.num_classes, conv, name="AuxLogits")(x, train=train)
            x = module(conv=conv, name=name)(x, train=train)
        return x


NETWORKS: dict[str, InceptionV3] = {"inception_v3": InceptionV3()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="Conv2d_1a_3x3.conv",
        stages=("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
    )
    for name, network in NETWORKS.items()
}

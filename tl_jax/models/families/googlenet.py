"""GoogLeNet (arXiv:1409.4842), under the names of torchvision's `googlenet.py`.

As there, it has BatchNorm, and 3x3 convolutions where the paper has 5x5 ones. torchvision's
weights want images scaled to [-1, 1].
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    ConvMaker,
    ConvNormAct,
    Mixed,
    Row,
    branches,
    maximum,
)
from tl_jax.models.network import Network

_KERNEL_INIT = layers.trunc_normal(0.01)
# Table 1 of the paper: the 1x1 row; the reduction and width of the two 3x3 rows; the pooling's.
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Poolings by the module before them, and auxiliary heads.
_HALVED_AFTER = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}
_AUXILIARY_AFTER = {"4a": "aux1", "4d": "aux2"}


def _rows(widths: tuple[int, ...]) -> tuple[Row, ...]:
    first, reduced2, second, reduced3, third, pooled = widths
    return branches(
        ((first, 1),),
        ((reduced2, 1), (second, 3)),
        ((reduced3, 1), (third, 3)),
        (maximum, (pooled, 1)),
        first=1,
    )


class AuxiliaryHead(nn.Module):
    """A classifier halfway, for training; its logits go to the collection "auxiliary"."""

    num_classes: int
    drop_rate: float
    conv: ConvMaker
    dense: Callable[..., nn.Dense]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(128, 1, name="conv")(layers.adaptive_average(x, (4, 4)), train=train)
        # torch flattens channels first.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = layers.relu(self.dense(1024, name="fc1")(x))
        x = layers.Dropout(self.drop_rate, name="dropout")(x, train=train)
        logits = layers.Dense(self.num_classes, name="fc2")(x)
        if not self.is_initializing():
            self.sow("auxiliary", "logits", logits)
        return logits


class GoogLeNet(Network):
    """GoogLeNet.

    There are no residual branches, so `drop_path_rate` must be 0. torchvision trains with
    `drop_rate=0.2`.

    Attributes:
      aux_logits: have the auxiliary heads. In training, if the collection "auxiliary" is mutable,
        their logits [B, num_classes] are found there as `["aux1"]["logits"][0]` and as that of
        `aux2`.
      aux_drop_rate: dropout before the classifiers of the auxiliary heads.
    """

    aux_logits: bool = False
    aux_drop_rate: float = 0.7

    classifier: ClassVar[str] = "fc"
    auxiliary: ClassVar[tuple[str, ...]] = ("aux1", "aux2")

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(
            ConvNormAct, kernel_init=_KERNEL_INIT, axis_name=self.axis_name, dtype=self.dtype
        )
        x = conv(64, 7, 2, name="conv1")(images, train=train)
        x = layers.MaxPool(3, 2, ceil_mode=True, name="maxpool1")(x)
        x = conv(64, 1, name="conv2")(x, train=train)
        x = conv(192, 3, name="conv3")(x, train=train)
        x = layers.MaxPool(3, 2, ceil_mode=True, name="maxpool2")(x)
        has_heads = self.aux_logits and self.num_classes and (train or self.is_initializing())
        for place, widths in _INCEPTIONS.items():
            x = Mixed(_rows(widths), conv, name=f"inception{place}")(x, train=train)
            if has_heads and place in _AUXILIARY_AFTER:
                self._auxiliary(_AUXILIARY_AFTER[place], conv, x, train=train)
            if place in _HALVED_AFTER:
                name, window = _HALVED_AFTER[place]
                x = layers.MaxPool(window, 2, ceil_mode=True, name=name)(x)
        return x

    def _auxiliary(self, name: str, conv: ConvMaker, x: jax.Array, *, train: bool) -> None:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_KERNEL_INIT)
        head = AuxiliaryHead(self.num_classes, self.aux_drop_rate, conv, dense, name=name)
        head(x, train=train)


ARCHITECTURES = {
    "torchvision/googlenet": Architecture(
        build=GoogLeNet,
        classifier=GoogLeNet.classifier,
        stem="conv1.conv",
        stages=("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
    )
}

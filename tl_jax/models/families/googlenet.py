"""GoogLeNet (arXiv:1409.4842), under the names of torchvision's `googlenet.py`.

As there, it has BatchNorm, and 3x3 convolutions where the paper has 5x5 ones. torchvision's
weights expect images scaled to [-1, 1].
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.conv_norm_act import (
    ConvNormAct,
    InceptionModule,
    MakeConv,
    max_pool,
    numbered_branches,
)
from tl_jax.models.network import Network

_KERNEL_INIT = layers.trunc_normal(0.01)
# Table 1 of the paper: the 1x1 branch; reduction and width of the two 3x3 branches; the pooling's.
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
# Name and window of the poolings, and names of the auxiliary heads, by the module before them.
_POOL_AFTER = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}
_AUXILIARY_AFTER = {"4a": "aux1", "4d": "aux2"}


class AuxiliaryHead(nn.Module):
    """An intermediate classifier for training; its logits go to the collection "auxiliary"."""

    num_classes: int
    drop_rate: float
    conv: MakeConv
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
    """GoogLeNet; torchvision trains with `drop_rate=0.2`.

    Attributes:
      aux_logits: build the auxiliary heads. In training, if the collection "auxiliary" is mutable,
        their logits [B, num_classes] are there as `["aux1"]["logits"][0]` and as that of `aux2`.
      aux_drop_rate: dropout before the classifiers of the auxiliary heads.
    """

    aux_logits: bool = False
    aux_drop_rate: float = 0.7

    classifier: ClassVar[str] = "fc"
    auxiliary: ClassVar[tuple[str, ...]] = ("aux1", "aux2")
    stochastic_depth: ClassVar[bool] = False
    # The widths of each Inception module, by its name.
    inceptions: ClassVar[Mapping[str, tuple[int, ...]]] = _INCEPTIONS

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(
            ConvNormAct, kernel_init=_KERNEL_INIT, axis_name=self.axis_name, dtype=self.dtype
        )
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_KERNEL_INIT)
        has_heads = self.aux_logits and self.num_classes and (train or self.is_initializing())
        x = conv(64, 7, 2, name="conv1")(images, train=train)
        x = layers.MaxPool(3, 2, ceil_mode=True, name="maxpool1")(x)
        x = conv(64, 1, name="conv2")(x, train=train)
        x = conv(192, 3, name="conv3")(x, train=train)
        x = layers.MaxPool(3, 2, ceil_mode=True, name="maxpool2")(x)
        for key, (first, reduce2, second, reduce3, third, pooled) in self.inceptions.items():
            branches = numbered_branches(
                ((first, 1),),
                ((reduce2, 1), (second, 3)),
                ((reduce3, 1), (third, 3)),
                (max_pool, (pooled, 1)),
                first=1,
            )
            x = InceptionModule(branches, conv, name=f"inception{key}")(x, train=train)
            if has_heads and key in _AUXILIARY_AFTER:
                name = _AUXILIARY_AFTER[key]
                head = AuxiliaryHead(self.num_classes, self.aux_drop_rate, conv, dense, name=name)
                head(x, train=train)
            if key in _POOL_AFTER:
                name, window = _POOL_AFTER[key]
                x = layers.MaxPool(window, 2, ceil_mode=True, name=name)(x)
        return x


NETWORKS: dict[str, GoogLeNet] = {"torchvision/googlenet": GoogLeNet()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="conv1.conv",
        stages=("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
    )
    for name, network in NETWORKS.items()
}

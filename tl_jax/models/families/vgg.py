"""VGG (arXiv:1409.1556), under the names of timm's `vgg.py`.

timm writes the two hidden dense layers as convolutions over the whole 7x7 map, `pre_logits`.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_HIDDEN = 4096
_PRE_LOGITS_SIDE = 7

LayerKind = Literal["conv", "norm", "act", "pool"]


class PreLogits(nn.Module):
    """The two hidden layers of the top; a map smaller than 7x7 is enlarged to it first."""

    drop_rate: float
    conv: Callable[..., layers.Conv]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        side = _PRE_LOGITS_SIDE
        size = (max(side, x.shape[1]), max(side, x.shape[2]))
        if size != x.shape[1:3]:
            x = layers.adaptive_average(x, size)
        x = layers.relu(self.conv(_HIDDEN, side, padding=0, name="fc1")(x))
        x = layers.Dropout(self.drop_rate, name="drop")(x, train=train)
        return layers.relu(self.conv(_HIDDEN, 1, name="fc2")(x))


class VGG(Network):
    """VGG: 3x3 convolutions, with a max pooling after each stage.

    Attributes:
      depths: convolutions in each stage.
      widths: channels of each stage.
      batch_norm: normalise after each convolution (the `_bn` variants).
    """

    depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False

    classifier: ClassVar[str] = "head.fc"
    stochastic_depth: ClassVar[bool] = False

    def layer_kinds(self) -> list[tuple[LayerKind, int]]:
        """Returns the kind and width of each layer of `features`, which timm numbers in a row."""
        unit: tuple[LayerKind, ...] = (
            ("conv", "norm", "act") if self.batch_norm else ("conv", "act")
        )
        kinds: list[tuple[LayerKind, int]] = []
        for depth, width in zip(self.depths, self.widths, strict=True):
            kinds += [(kind, width) for kind in unit * depth]
            kinds.append(("pool", width))
        return kinds

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        x = images
        for i, (kind, width) in enumerate(self.layer_kinds()):
            name = f"features.{i}"
            if kind == "conv":
                x = layers.Conv(width, 3, use_bias=True, dtype=self.dtype, name=name)(x)
            elif kind == "norm":
                norm = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)
                x = norm(x, train=train)
            elif kind == "act":
                x = layers.Activation(layers.relu, name=name)(x)
            else:
                x = layers.MaxPool(2, 2, name=name)(x)
        return x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the output of the hidden layers, averaged over space, [B, 4096]."""
        conv = functools.partial(layers.Conv, use_bias=True, dtype=self.dtype)
        x = PreLogits(self.drop_rate, conv, name="pre_logits")(x, train=train)
        return layers.global_average(x)

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of torchvision's, and any other key as it is."""
        return rename(key)


_TORCHVISION_NAMES = {
    "classifier.0.": "pre_logits.fc1.",
    "classifier.3.": "pre_logits.fc2.",
    "classifier.6.": "head.fc.",
}


def rename(key: str) -> str:
    """Returns timm's key for one of torchvision's, and any other key as it is."""
    for theirs, timms in _TORCHVISION_NAMES.items():
        if key.startswith(theirs):
            return timms + key.removeprefix(theirs)
    return key


NETWORKS: dict[str, VGG] = {
    "vgg11": VGG(depths=(1, 1, 2, 2, 2)),
    "vgg13": VGG(depths=(2, 2, 2, 2, 2)),
    "vgg16": VGG(depths=(2, 2, 3, 3, 3)),
    "vgg19": VGG(depths=(2, 2, 4, 4, 4)),
    "vgg11_bn": VGG(depths=(1, 1, 2, 2, 2), batch_norm=True),
    "vgg13_bn": VGG(depths=(2, 2, 2, 2, 2), batch_norm=True),
    "vgg16_bn": VGG(depths=(2, 2, 3, 3, 3), batch_norm=True),
    "vgg19_bn": VGG(depths=(2, 2, 4, 4, 4), batch_norm=True),
}


def stages(network: VGG) -> tuple[str, ...]:
    """Returns the names of the stage features: each stage's last activation, and the last pool."""
    kinds = [kind for kind, _ in network.layer_kinds()]
    before_pools = [i - 1 for i, kind in enumerate(kinds) if kind == "pool"]
    return tuple(f"features.{i}" for i in (*before_pools, len(kinds) - 1))


ARCHITECTURES = {
    name: Architecture(network, stem="features.0", stages=stages(network))
    for name, network in NETWORKS.items()
}

"""VGG (arXiv:1409.1556), under the names of timm's `vgg.py`.

timm writes the two hidden dense layers as convolutions over the whole 7x7 map, `pre_logits`.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_HIDDEN = 4096
_PRE_LOGITS_SIDE = 7


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

    There are no residual branches, so `drop_path_rate` must be 0.

    Attributes:
      depths: convolutions in each stage.
      widths: channels of each stage.
      batch_norm: normalise after each convolution (the `_bn` variants).
    """

    depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False

    classifier: ClassVar[str] = "head.fc"

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, use_bias=True, dtype=self.dtype)
        norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = images
        for index, (kind, width) in enumerate(_layers(self.depths, self.widths, self.batch_norm)):
            name = f"features.{index}"
            if kind == "conv":
                x = conv(width, 3, name=name)(x)
            elif kind == "norm":
                x = norm(name=name)(x, train=train)
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


def _layers(
    depths: tuple[int, ...], widths: tuple[int, ...], batch_norm: bool
) -> list[tuple[str, int]]:
    """Returns the kind and width of each layer of `features`, which timm numbers in a row."""
    one = ("conv", "norm", "act") if batch_norm else ("conv", "act")
    kinds = []
    for depth, width in zip(depths, widths, strict=True):
        kinds += [(kind, width) for kind in one * depth] + [("pool", width)]
    return kinds


def stages(depths: tuple[int, ...], widths: tuple[int, ...], batch_norm: bool) -> tuple[str, ...]:
    """Returns the names of the stage features: each stage's last activation, and the last pool."""
    kinds = [kind for kind, _ in _layers(depths, widths, batch_norm)]
    before_pools = [i - 1 for i, kind in enumerate(kinds) if kind == "pool"]
    return tuple(f"features.{i}" for i in (*before_pools, len(kinds) - 1))


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


def _architecture(depths: tuple[int, ...], batch_norm: bool) -> Architecture:
    return Architecture(
        build=functools.partial(VGG, depths=depths, batch_norm=batch_norm),
        classifier=VGG.classifier,
        stem="features.0",
        stages=stages(depths, VGG.widths, batch_norm),
        rename=rename,
    )


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}

ARCHITECTURES = {
    name + suffix: _architecture(depths, bool(suffix))
    for suffix in ("", "_bn")
    for name, depths in _DEPTHS.items()
}

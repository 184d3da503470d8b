"""ResNets with pre-activation, including BiT, under the names of timm's `resnetv2.py`.

Each block normalises and activates before its convolutions, so that the shortcuts contain additions
only (arXiv:1603.05027). Big Transfer (BiT, arXiv:1912.11370) standardises the
kernels, has GroupNorm instead of BatchNorm, and widens the networks.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.network import Network, drop_path_rates

# Normalisations that are nonlinear themselves; a ReLU follows the others.
_NONLINEAR = (layers.EvoNormS0, layers.FilterResponseNorm)


class BlockOptions(NamedTuple):
    """Options that all blocks of one network share.

    Attributes:
      conv, norm, act: make the layers.
      average_shortcut: shortcuts subsample by averages.
    """

    conv: Callable[..., layers.Conv]
    norm: Callable[..., nn.Module]
    act: layers.Act
    average_shortcut: bool


class Downsample(nn.Module):
    """The projection of a shortcut; it subsamples with its stride, or by averaging 2x2 cells."""

    width: int
    stride: int
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride = self.stride
        if self.options.average_shortcut and stride > 1:
            x = layers.AvgPool(2, stride, ceil_mode=True, count_include_pad=False, name="pool")(x)
            stride = 1
        return self.options.conv(self.width, 1, stride, name="conv")(x)


class PreActBasic(nn.Module):
    """Two 3x3 convolutions, each after its normalisation, and a shortcut."""

    width: int
    stride: int
    project: bool
    drop_path: float
    options: BlockOptions

    projects_first: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, act, _ = self.options
        y = act(norm(name="norm1")(x, train=train))
        if self.project:
            x = Downsample(self.width, self.stride, self.options, name="downsample")(y)
        y = conv(self.width, 3, self.stride, name="conv1")(y)
        y = act(norm(name="norm2")(y, train=train))
        y = conv(self.width, 3, name="conv2")(y)
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


class PreActBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after its normalisation, and a shortcut."""

    width: int
    stride: int
    project: bool
    drop_path: float
    options: BlockOptions

    reduction: ClassVar[int] = 4
    projects_first: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, act, _ = self.options
        inner = self.width // self.reduction
        y = act(norm(name="norm1")(x, train=train))
        if self.project:
            x = Downsample(self.width, self.stride, self.options, name="downsample")(y)
        y = conv(inner, 1, name="conv1")(y)
        y = act(norm(name="norm2")(y, train=train))
        y = conv(inner, 3, self.stride, name="conv2")(y)
        y = act(norm(name="norm3")(y, train=train))
        y = conv(self.width, 1, name="conv3")(y)
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


Block = type[PreActBasic] | type[PreActBottleneck]


class Stage(nn.Module):
    """Blocks of one width; the first one takes the stride.

    The first one projects its shortcut if the shapes differ; a first bottleneck always does.
    """

    block: Block
    width: int
    stride: int
    drop_paths: tuple[float, ...]
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, drop_path in enumerate(self.drop_paths):
            stride = self.stride if i == 0 else 1
            differs = stride != 1 or x.shape[-1] != self.width
            project = i == 0 and (differs or self.block.projects_first)
            name = f"blocks.{i}"
            block = self.block(self.width, stride, project, drop_path, self.options, name=name)
            x = block(x, train=train)
        return x


class ResNetV2(Network):
    """ResNet with pre-activation; a last normalisation follows the last stage.

    Attributes:
      block: `PreActBasic` or `PreActBottleneck`.
      depths: blocks in each stage.
      widths: output channels of each stage.
      stem_width: output channels of the stem.
      deep_stem: widths of the two 3x3 convolutions before the stem's last one, also 3x3; None for
        a single 7x7 convolution.
      zero_pool_border: the stem's pooling sees zeros beyond the border of the map, which win over
        negative values there, as in BiT; otherwise the border never wins.
      average_shortcut: shortcuts subsample by averaging (the `d` and `t` variants).
      conv: the kind of convolution.
      norm: the kind of normalisation.
    """

    block: Block = PreActBottleneck
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    stem_width: int = 64
    deep_stem: tuple[int, int] | None = None
    zero_pool_border: bool = False
    average_shortcut: bool = False
    conv: Callable[..., layers.Conv] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    classifier: ClassVar[str] = "head.fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, normalised, [B, h, w, C]."""
        options = self._block_options()
        x = self._stem(images, options, train=train)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        for i, (width, drop_paths) in enumerate(zip(self.widths, rates, strict=True)):
            stride = 1 if i == 0 else 2
            stage = Stage(self.block, width, stride, drop_paths, options, name=f"stages.{i}")
            x = stage(x, train=train)
        return options.act(options.norm(name="norm")(x, train=train))

    def logits(self, x: jax.Array) -> jax.Array:
        """Classifies [B, C] -> [B, num_classes]; timm's classifier is a 1x1 convolution."""
        fc = layers.Conv(
            self.num_classes, 1, use_bias=True, kernel_init=nn.initializers.zeros, dtype=x.dtype,
            name=self.classifier,
        )  # fmt: skip
        return fc(x[:, None, None])[:, 0, 0]

    def _stem(self, x: jax.Array, options: BlockOptions, *, train: bool) -> jax.Array:
        """Returns the input of the first stage, [B, H / 4, W / 4, stem_width]."""
        conv, norm, act, _ = options
        if self.deep_stem is None:
            x = conv(self.stem_width, 7, 2, name="stem.conv")(x)
        else:
            x = conv(self.deep_stem[0], 3, 2, name="stem.conv1")(x)
            x = act(norm(name="stem.norm1")(x, train=train))
            x = conv(self.deep_stem[1], 3, name="stem.conv2")(x)
            x = act(norm(name="stem.norm2")(x, train=train))
            x = conv(self.stem_width, 3, name="stem.conv3")(x)
        if self.zero_pool_border:
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return layers.MaxPool(3, 2, name="stem.pool")(x)
        return layers.MaxPool(3, 2, padding=1, name="stem.pool")(x)

    def _block_options(self) -> BlockOptions:
        norm = functools.partial(self.norm, dtype=self.dtype)
        if self.norm is layers.BatchNorm:
            norm = functools.partial(norm, axis_name=self.axis_name)
        return BlockOptions(
            conv=functools.partial(self.conv, dtype=self.dtype),
            norm=norm,
            act=layers.identity if self.norm in _NONLINEAR else layers.relu,
            average_shortcut=self.average_shortcut,
        )


_18, _34, _50, _101, _152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_BASIC: Fields = {"block": PreActBasic, "widths": (64, 128, 256, 512)}
_D: Fields = {"deep_stem": (32, 32), "average_shortcut": True}
_T: Fields = {"deep_stem": (24, 32), "average_shortcut": True}


def _bit(depths: tuple[int, ...], factor: int) -> ResNetV2:
    """Returns the BiT network that is `factor` times as wide as a ResNet."""
    return ResNetV2(
        depths=depths,
        widths=tuple(factor * width for width in ResNetV2.widths),
        stem_width=factor * ResNetV2.stem_width,
        zero_pool_border=True,
        conv=layers.Bound(layers.StdConv, epsilon=1e-8),
        norm=layers.GroupNorm,
    )


NETWORKS: dict[str, ResNetV2] = {
    "resnetv2_18": ResNetV2(depths=_18, **_BASIC),
    "resnetv2_34": ResNetV2(depths=_34, **_BASIC),
    "resnetv2_50": ResNetV2(depths=_50),
    "resnetv2_101": ResNetV2(depths=_101),
    "resnetv2_152": ResNetV2(depths=_152),
    "resnetv2_18d": ResNetV2(depths=_18, **_BASIC, **_D),
    "resnetv2_34d": ResNetV2(depths=_34, **_BASIC, **_D),
    "resnetv2_50d": ResNetV2(depths=_50, **_D),
    "resnetv2_101d": ResNetV2(depths=_101, **_D),
    "resnetv2_152d": ResNetV2(depths=_152, **_D),
    "resnetv2_50t": ResNetV2(depths=_50, **_T),
    "resnetv2_50d_gn": ResNetV2(depths=_50, norm=layers.GroupNorm, **_D),
    "resnetv2_50d_evos": ResNetV2(depths=_50, norm=layers.EvoNormS0, **_D),
    "resnetv2_50d_frn": ResNetV2(depths=_50, norm=layers.FilterResponseNorm, **_D),
    "resnetv2_50x1_bit": _bit(_50, 1),
    "resnetv2_50x3_bit": _bit(_50, 3),
    "resnetv2_101x1_bit": _bit(_101, 1),
    "resnetv2_101x3_bit": _bit(_101, 3),
    "resnetv2_152x2_bit": _bit(_152, 2),
    "resnetv2_152x4_bit": _bit(_152, 4),
}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="stem.conv1" if network.deep_stem else "stem.conv",
        stages=(
            "stem.conv3" if network.deep_stem else "stem.conv",
            *(f"stages.{i}" for i in range(4)),
        ),
    )
    for name, network in NETWORKS.items()
}

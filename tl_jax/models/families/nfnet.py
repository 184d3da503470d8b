"""Networks without normalisation: NFNet, NF-ResNet and NF-RegNet, named as in timm's `nfnet.py`.

Pre-activation residual networks whose variance is kept by standardised kernels (arXiv:2101.08692);
the NFNets are the wide ones with deep stems (arXiv:2102.06171). The `dm_*` networks follow
DeepMind's code to the letter: padding as TensorFlow's, and a learned gain on each branch.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network, drop_path_rates

_ALPHA = 0.2  # What a branch adds is scaled by it, so that a block adds its square to the variance.
_ATTENTION_GAIN = 2.0  # Makes up for the mean of a sigmoid.
_KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# 1 / the deviation of an activation of normally distributed values.
_GAMMA = {"relu": 1.7139588594436646, "gelu": 1.7015043497085571, "silu": 1.7881293296813965}
_ACT = {"relu": layers.relu, "gelu": layers.gelu, "silu": layers.silu}


class Parts(NamedTuple):
    """What all blocks of one network are made of.

    Attributes:
      conv: makes the convolutions.
      act: the activation.
      attention: makes the channel attention; None for none.
      attend_inside: attend before the last convolution of a branch (NF-RegNet), not after it.
      group_size: channels of a group of the 3x3 convolutions; 0 for one group.
      extra_conv: two 3x3 convolutions in a branch, not one.
      skip_init: scale the branch by one learned gain that starts at 0; otherwise the gains of its
        last convolution do.
    """

    conv: Callable[..., layers.ScaledStdConv]
    act: layers.Act
    attention: Callable[..., nn.Module] | None
    attend_inside: bool
    group_size: int
    extra_conv: bool
    skip_init: bool


class Downsample(nn.Module):
    """The projection of a shortcut: an average over 2x2 cells where the stride is 2, and 1x1."""

    features: int
    stride: int
    conv: Callable[..., layers.ScaledStdConv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.stride > 1:
            x = layers.AvgPool(2, self.stride, ceil_mode=True, count_include_pad=False)(x)
        return self.conv(self.features, 1, name="conv")(x)


class Block(nn.Module):
    """Pre-activation bottleneck: 1x1, one or two 3x3 and 1x1 convolutions, with a shortcut.

    Attributes:
      features: output channels.
      hidden: channels of the 3x3 convolutions.
      stride: of the first 3x3 convolution.
      beta: 1 / the deviation that the input is expected to have.
      drop_path: rate of the stochastic depth.
      parts: the layers.
    """

    features: int
    hidden: int
    stride: int
    beta: float
    drop_path: float
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = self.parts.conv
        y = self.parts.act(x) * self.beta
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Downsample(self.features, self.stride, conv, name="downsample")(y)
        y = self._branch(y)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if self.parts.skip_init:
            gain = self.param("skipinit_gain", nn.initializers.zeros, (), jnp.float32)
            y = y * gain.astype(y.dtype)
        return y * _ALPHA + x

    def _branch(self, y: jax.Array) -> jax.Array:
        conv, act, attention, inside, group_size, extra_conv, skip_init = self.parts
        groups = self.hidden // group_size if group_size else 1
        y = act(conv(self.hidden, 1, name="conv1")(y))
        y = conv(self.hidden, 3, self.stride, groups=groups, name="conv2")(y)
        if extra_conv:
            y = conv(self.hidden, 3, groups=groups, name="conv2b")(act(y))
        if attention and inside:
            y = _ATTENTION_GAIN * attention(name="attn")(y)
        gain_init = nn.initializers.ones if skip_init else nn.initializers.zeros
        y = conv(self.features, 1, gain_init=gain_init, name="conv3")(act(y))
        if attention and not inside:
            y = _ATTENTION_GAIN * attention(name="attn_last")(y)
        return y


class Stage(nn.Module):
    """Blocks of one width; the first one takes the stride.

    Attributes:
      features: output channels of the blocks.
      hidden: channels of the 3x3 convolutions of each block.
      stride: of the first block.
      betas: of each block.
      drop_paths: of each block.
      parts: the layers.
    """

    features: int
    hidden: tuple[int, ...]
    stride: int
    betas: tuple[float, ...]
    drop_paths: tuple[float, ...]
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        specs = zip(self.hidden, self.betas, self.drop_paths, strict=True)
        for i, (hidden, beta, drop_path) in enumerate(specs):
            stride = self.stride if i == 0 else 1
            block = Block(self.features, hidden, stride, beta, drop_path, self.parts, name=str(i))
            x = block(x, train=train)
        return x


class NormFreeNet(Network):
    """NFNet, NF-ResNet or NF-RegNet.

    Attributes:
      depths: blocks in each stage.
      widths: output channels of each stage.
      stem: `"deep"` for four 3x3 convolutions, two of them strided; `"7x7"` for one and a max
        pooling; `"3x3"` for one, after which the first stage is strided too.
      stem_width: channels of the stem.
      bottleneck_ratio: channels of the 3x3 convolutions, as a share of the output's; of the input's
        in an NF-RegNet.
      regnet: NF-RegNet's order of things: see `bottleneck_ratio` and `Parts.attend_inside`.
      final_width: channels of a last 1x1 convolution; 0 for none.
      act: name of the activation.
      scale_act: scale the activations to variance 1, not the kernels behind them.
      padding: as `layers.Conv` takes it.
      attention, group_size, extra_conv, skip_init: see `Parts`.
    """

    depths: tuple[int, ...] = (1, 2, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1536, 1536)
    stem: Literal["deep", "7x7", "3x3"] = "deep"
    stem_width: int = 128
    bottleneck_ratio: float = 0.5
    group_size: int = 128
    extra_conv: bool = True
    regnet: bool = False
    final_width: int = 3072
    act: Literal["relu", "gelu", "silu"] = "gelu"
    scale_act: bool = False
    padding: layers.Padding = "symmetric"
    attention: Callable[..., nn.Module] | None = None
    skip_init: bool = False

    classifier: ClassVar[str] = "head.fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        parts = self._parts()
        x = self._stem(images, parts)
        betas = expected_betas(self.depths)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 and self.stem != "3x3" else 2
            hidden = self._hidden(i, x.shape[-1])
            stage = Stage(width, hidden, stride, betas[i], rates[i], parts, name=f"stages.{i}")
            x = stage(x, train=train)
        if self.final_width:
            x = parts.conv(self.final_width, 1, name="final_conv")(x)
        return parts.act(x)

    def _stem(self, images: jax.Array, parts: Parts) -> jax.Array:
        conv, width = parts.conv, self.stem_width
        if self.stem == "3x3":
            return conv(width, 3, 2, name="stem.conv")(images)
        if self.stem == "7x7":
            x = conv(width, 7, 2, name="stem.conv")(images)
            return layers.MaxPool(3, 2, padding=1, name="stem.pool")(x)
        x = parts.act(conv(width // 8, 3, 2, name="stem.conv1")(images))
        x = parts.act(conv(width // 4, 3, name="stem.conv2")(x))
        x = parts.act(conv(width // 2, 3, name="stem.conv3")(x))
        return conv(width, 3, 2, name="stem.conv4")(x)

    def _hidden(self, stage: int, inputs: int) -> tuple[int, ...]:
        """Returns the channels of the 3x3 convolutions of each block of a stage."""
        features, depth, ratio = self.widths[stage], self.depths[stage], self.bottleneck_ratio
        if not self.regnet:
            return (self._whole_groups(features * ratio),) * depth
        first = self._whole_groups(inputs * (ratio if stage else 1.0))
        return (first, *(self._whole_groups(features * ratio),) * (depth - 1))

    def _whole_groups(self, width: float) -> int:
        width = layers.make_divisible(width)
        return width // self.group_size * self.group_size if self.group_size else width

    def _parts(self) -> Parts:
        act, gamma = _ACT[self.act], _GAMMA[self.act]
        conv = functools.partial(
            layers.ScaledStdConv, use_bias=True, padding=self.padding, epsilon=1e-5,
            gamma=1.0 if self.scale_act else gamma, kernel_init=_KERNEL_INIT, dtype=self.dtype,
        )  # fmt: skip
        attention = self.attention and functools.partial(self.attention, dtype=self.dtype)
        return Parts(
            conv=conv,
            act=_scaled(act, gamma) if self.scale_act else act,
            attention=attention,
            attend_inside=self.regnet,
            group_size=self.group_size,
            extra_conv=self.extra_conv,
            skip_init=self.skip_init,
        )


def _scaled(act: layers.Act, gamma: float) -> layers.Act:
    return lambda x: act(x) * gamma


def expected_betas(depths: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Returns 1 / the deviation that the input of each block is expected to have, by stages.

    The variance grows from 1 by `alpha` squared with each block; the first block of a stage, which
    sends its shortcut through a convolution, sets it back.
    """
    before = (0, *depths)
    return tuple(
        tuple((1 + _ALPHA**2 * (block or before[stage])) ** -0.5 for block in range(depth))
        for stage, depth in enumerate(depths)
    )


_squeeze_excite = functools.partial(layers.SEModule, kernel_init=_KERNEL_INIT)
_ECA = layers.EfficientChannelAttention
_HALF = functools.partial(_squeeze_excite, ratio=0.5)
_QUARTER = functools.partial(_squeeze_excite, ratio=0.25)
_SIXTEENTH = functools.partial(_squeeze_excite, ratio=1 / 16)


def _nfnet(size: int, attention: Callable[..., nn.Module] = _HALF) -> Callable[..., NormFreeNet]:
    """Returns what makes NFNet-F`size`, whose depths are multiples of F0's."""
    depths = tuple((size + 1) * depth for depth in (1, 2, 6, 3))
    return functools.partial(NormFreeNet, depths=depths, attention=attention)


def _deepmind(size: int) -> Callable[..., NormFreeNet]:
    return functools.partial(_nfnet(size), padding="same", scale_act=True, skip_init=True)


def _light(
    size: int, attention: Callable[..., nn.Module], final_width: int
) -> Callable[..., NormFreeNet]:
    """Returns what makes timm's NFNet-L`size`: narrow bottlenecks, small groups and SiLU."""
    return functools.partial(
        _nfnet(size, attention), bottleneck_ratio=0.25, group_size=64, act="silu",
        final_width=final_width,
    )  # fmt: skip


def _resnet(
    depths: tuple[int, ...], attention: Callable[..., nn.Module] | None
) -> Callable[..., NormFreeNet]:
    return functools.partial(
        NormFreeNet, depths=depths, widths=(256, 512, 1024, 2048), stem="7x7", stem_width=64,
        bottleneck_ratio=0.25, group_size=0, extra_conv=False, final_width=0, act="relu",
        attention=attention,
    )  # fmt: skip


def _regnet(depths: tuple[int, ...], widths: tuple[int, ...]) -> Callable[..., NormFreeNet]:
    """Returns what makes an NF-RegNet: timm takes three quarters of the paper's widths."""
    scaled = tuple(layers.make_divisible(0.75 * width) for width in widths)
    final_width = layers.make_divisible(0.75 * (1280 * widths[-1] // 440))
    return functools.partial(
        NormFreeNet, depths=depths, widths=scaled, stem="3x3", stem_width=scaled[0],
        bottleneck_ratio=2.25, group_size=8, extra_conv=False, regnet=True,
        final_width=final_width, act="silu", attention=_HALF,
    )  # fmt: skip


_RESNET_DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_REGNETS = {
    "b0": ((1, 3, 6, 6), (48, 104, 208, 440)),
    "b1": ((2, 4, 7, 7), (48, 104, 208, 440)),
    "b2": ((2, 4, 8, 8), (56, 112, 232, 488)),
    "b3": ((2, 5, 9, 9), (56, 128, 248, 528)),
    "b4": ((2, 6, 11, 11), (64, 144, 288, 616)),
    "b5": ((3, 7, 14, 14), (80, 168, 336, 704)),
}
_ATTENTIONS = {"": None, "se": _SIXTEENTH, "eca": _ECA}
_VARIANTS = {
    **{f"dm_nfnet_f{size}": _deepmind(size) for size in range(7)},
    **{f"nfnet_f{size}": _nfnet(size) for size in range(8)},
    "nfnet_l0": _light(0, _QUARTER, 2304),
    "eca_nfnet_l0": _light(0, _ECA, 2304),
    **{f"eca_nfnet_l{size}": _light(size, _ECA, 3072) for size in range(1, 4)},
    **{f"nf_regnet_{size}": _regnet(depths, widths) for size, (depths, widths) in _REGNETS.items()},
    **{
        f"nf_{prefix}resnet{layer_count}": _resnet(depths, attention)
        for prefix, attention in _ATTENTIONS.items()
        for layer_count, depths in _RESNET_DEPTHS.items()
    },
    "test_nfnet": functools.partial(
        _light(0, _QUARTER, 192), depths=(1, 1, 1, 1), widths=(32, 64, 96, 128), group_size=8
    ),
}


def _architecture(build: Callable[..., NormFreeNet]) -> Architecture:
    """Returns the entry of a network; the stage features begin where the stem has stride 2."""
    deep = build.keywords.get("stem", "deep") == "deep"
    last = "final_conv" if build.keywords.get("final_width", True) else "stages.3"
    return Architecture(
        build=build,
        classifier=NormFreeNet.classifier,
        stem="stem.conv1" if deep else "stem.conv",
        stages=("stem.conv3" if deep else "stem.conv", *(f"stages.{i}" for i in range(3)), last),
    )


ARCHITECTURES = {name: _architecture(build) for name, build in _VARIANTS.items()}

"""Networks without normalisation: NFNet, NF-ResNet and NF-RegNet, named as in timm's `nfnet.py`.

Pre-activation residual networks whose standardised kernels keep the variance of the activations
constant (arXiv:2101.08692); the NFNets are the wide ones with deep stems (arXiv:2102.06171). The
`dm_*` networks follow DeepMind's code exactly: TensorFlow's padding, and a learned gain on each
branch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.network import Network, drop_path_rates

_ALPHA = 0.2  # Factor on the output of a branch; each block adds its square to the variance.
_ATTENTION_GAIN = 2.0  # Makes up for the mean of a sigmoid.
_FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# 1 / the deviation of an activation of normally distributed values.
_GAMMA = {"relu": 1.7139588594436646, "gelu": 1.7015043497085571, "silu": 1.7881293296813965}
_ACT: dict[str, layers.Act] = {"relu": layers.relu, "gelu": layers.gelu, "silu": layers.silu}


class BlockOptions(NamedTuple):
    """Options that all blocks of one network share.

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
      options: the layers.
    """

    features: int
    hidden: int
    stride: int
    beta: float
    drop_path: float
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, act, attention, inside, group_size, extra_conv, skip_init = self.options
        groups = self.hidden // group_size if group_size else 1
        y = act(x) * self.beta
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Downsample(self.features, self.stride, conv, name="downsample")(y)
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
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if skip_init:
            gain = self.param("skipinit_gain", nn.initializers.zeros, (), jnp.float32)
            y = y * gain.astype(y.dtype)
        return y * _ALPHA + x


class Stage(nn.Module):
    """Blocks of one width; the first one takes the stride.

    Attributes:
      features: output channels of the blocks.
      hidden: channels of the 3x3 convolutions of each block.
      stride: of the first block.
      betas: of each block.
      drop_paths: of each block.
      options: the layers.
    """

    features: int
    hidden: tuple[int, ...]
    stride: int
    betas: tuple[float, ...]
    drop_paths: tuple[float, ...]
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        specs = zip(self.hidden, self.betas, self.drop_paths, strict=True)
        for i, (hidden, beta, drop_path) in enumerate(specs):
            stride = self.stride if i == 0 else 1
            block = Block(self.features, hidden, stride, beta, drop_path, self.options, name=str(i))
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
      regnet: follow NF-RegNet in `bottleneck_ratio` and `BlockOptions.attend_inside`.
      final_width: channels of a last 1x1 convolution; 0 for none.
      act: name of the activation.
      scale_act: scale the activations to variance 1, not the kernels after them.
      padding: as `layers.Conv` takes it.
      attention, group_size, extra_conv, skip_init: see `BlockOptions`.
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
        options = self._block_options()
        x = self._stem(images, options)
        betas = expected_betas(self.depths)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 and self.stem != "3x3" else 2
            hidden = self._hidden(i, x.shape[-1])
            stage = Stage(width, hidden, stride, betas[i], rates[i], options, name=f"stages.{i}")
            x = stage(x, train=train)
        if self.final_width:
            x = options.conv(self.final_width, 1, name="final_conv")(x)
        return options.act(x)

    def _stem(self, images: jax.Array, options: BlockOptions) -> jax.Array:
        conv, width = options.conv, self.stem_width
        if self.stem == "3x3":
            return conv(width, 3, 2, name="stem.conv")(images)
        if self.stem == "7x7":
            x = conv(width, 7, 2, name="stem.conv")(images)
            return layers.MaxPool(3, 2, padding=1, name="stem.pool")(x)
        x = options.act(conv(width // 8, 3, 2, name="stem.conv1")(images))
        x = options.act(conv(width // 4, 3, name="stem.conv2")(x))
        x = options.act(conv(width // 2, 3, name="stem.conv3")(x))
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

    def _block_options(self) -> BlockOptions:
        act, gamma = _ACT[self.act], _GAMMA[self.act]
        attention = self.attention
        if attention is not None:
            attention = functools.partial(attention, dtype=self.dtype)
        conv = functools.partial(
            layers.ScaledStdConv, use_bias=True, padding=self.padding, epsilon=1e-5,
            gamma=1.0 if self.scale_act else gamma, kernel_init=_kernel_init, dtype=self.dtype,
        )  # fmt: skip
        return BlockOptions(
            conv=conv,
            act=(lambda x: act(x) * gamma) if self.scale_act else act,
            attention=attention,
            attend_inside=self.regnet,
            group_size=self.group_size,
            extra_conv=self.extra_conv,
            skip_init=self.skip_init,
        )


def expected_betas(depths: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Returns 1 / the deviation that the input of each block is expected to have, by stages.

    The variance grows from 1 by `alpha` squared with each block; the first block of a stage resets
    it, because its shortcut has a convolution.
    """
    before = (0, *depths)
    return tuple(
        tuple((1 + _ALPHA**2 * (block or before[stage])) ** -0.5 for block in range(depth))
        for stage, depth in enumerate(depths)
    )


def _kernel_init(
    key: jax.Array, shape: Sequence[int], dtype: layers.Dtype = jnp.float32
) -> jax.Array:
    return _FAN_IN(key, shape, dtype)


_SE_HALF = layers.Bound(layers.SEModule, kernel_init=_kernel_init, ratio=0.5)
_SE_QUARTER = layers.Bound(layers.SEModule, kernel_init=_kernel_init, ratio=0.25)
_SE_SIXTEENTH = layers.Bound(layers.SEModule, kernel_init=_kernel_init, ratio=1 / 16)
_ECA = layers.EfficientChannelAttention

# The depths of NFNet-F0 to F7 are multiples of F0's.
_F0, _F1, _F2, _F3, _F4, _F5, _F6, _F7 = ((n, 2 * n, 6 * n, 3 * n) for n in range(1, 9))
_F: Fields = {"attention": _SE_HALF}
_DM: Fields = {**_F, "padding": "same", "scale_act": True, "skip_init": True}
# timm's light NFNets: narrow bottlenecks, small groups and SiLU.
_L: Fields = {"bottleneck_ratio": 0.25, "group_size": 64, "act": "silu"}
_RESNET: Fields = {
    "widths": (256, 512, 1024, 2048), "stem": "7x7", "stem_width": 64, "bottleneck_ratio": 0.25,
    "group_size": 0, "extra_conv": False, "final_width": 0, "act": "relu",
}  # fmt: skip
_26, _50, _101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)


def _regnet(depths: tuple[int, ...], widths: tuple[int, ...]) -> NormFreeNet:
    """Returns an NF-RegNet: timm takes three quarters of the paper's widths."""
    scaled = tuple(layers.make_divisible(0.75 * width) for width in widths)
    final_width = layers.make_divisible(0.75 * (1280 * widths[-1] // 440))
    return NormFreeNet(
        depths=depths, widths=scaled, stem="3x3", stem_width=scaled[0], bottleneck_ratio=2.25,
        group_size=8, extra_conv=False, regnet=True, final_width=final_width, act="silu",
        attention=_SE_HALF,
    )  # fmt: skip


NETWORKS: dict[str, NormFreeNet] = {
    "dm_nfnet_f0": NormFreeNet(depths=_F0, **_DM),
    "dm_nfnet_f1": NormFreeNet(depths=_F1, **_DM),
    "dm_nfnet_f2": NormFreeNet(depths=_F2, **_DM),
    "dm_nfnet_f3": NormFreeNet(depths=_F3, **_DM),
    "dm_nfnet_f4": NormFreeNet(depths=_F4, **_DM),
    "dm_nfnet_f5": NormFreeNet(depths=_F5, **_DM),
    "dm_nfnet_f6": NormFreeNet(depths=_F6, **_DM),
    "nfnet_f0": NormFreeNet(depths=_F0, **_F),
    "nfnet_f1": NormFreeNet(depths=_F1, **_F),
    "nfnet_f2": NormFreeNet(depths=_F2, **_F),
    "nfnet_f3": NormFreeNet(depths=_F3, **_F),
    "nfnet_f4": NormFreeNet(depths=_F4, **_F),
    "nfnet_f5": NormFreeNet(depths=_F5, **_F),
    "nfnet_f6": NormFreeNet(depths=_F6, **_F),
    "nfnet_f7": NormFreeNet(depths=_F7, **_F),
    "nfnet_l0": NormFreeNet(depths=_F0, final_width=2304, attention=_SE_QUARTER, **_L),
    "eca_nfnet_l0": NormFreeNet(depths=_F0, final_width=2304, attention=_ECA, **_L),
    "eca_nfnet_l1": NormFreeNet(depths=_F1, final_width=3072, attention=_ECA, **_L),
    "eca_nfnet_l2": NormFreeNet(depths=_F2, final_width=3072, attention=_ECA, **_L),
    "eca_nfnet_l3": NormFreeNet(depths=_F3, final_width=3072, attention=_ECA, **_L),
    "nf_regnet_b0": _regnet((1, 3, 6, 6), (48, 104, 208, 440)),
    "nf_regnet_b1": _regnet((2, 4, 7, 7), (48, 104, 208, 440)),
    "nf_regnet_b2": _regnet((2, 4, 8, 8), (56, 112, 232, 488)),
    "nf_regnet_b3": _regnet((2, 5, 9, 9), (56, 128, 248, 528)),
    "nf_regnet_b4": _regnet((2, 6, 11, 11), (64, 144, 288, 616)),
    "nf_regnet_b5": _regnet((3, 7, 14, 14), (80, 168, 336, 704)),
    "nf_resnet26": NormFreeNet(depths=_26, **_RESNET),
    "nf_resnet50": NormFreeNet(depths=_50, **_RESNET),
    "nf_resnet101": NormFreeNet(depths=_101, **_RESNET),
    "nf_seresnet26": NormFreeNet(depths=_26, attention=_SE_SIXTEENTH, **_RESNET),
    "nf_seresnet50": NormFreeNet(depths=_50, attention=_SE_SIXTEENTH, **_RESNET),
    "nf_seresnet101": NormFreeNet(depths=_101, attention=_SE_SIXTEENTH, **_RESNET),
    "nf_ecaresnet26": NormFreeNet(depths=_26, attention=_ECA, **_RESNET),
    "nf_ecaresnet50": NormFreeNet(depths=_50, attention=_ECA, **_RESNET),
    "nf_ecaresnet101": NormFreeNet(depths=_101, attention=_ECA, **_RESNET),
    "test_nfnet": NormFreeNet(
        depths=(1, 1, 1, 1), widths=(32, 64, 96, 128), final_width=192, attention=_SE_QUARTER,
        **{**_L, "group_size": 8},
    ),
}  # fmt: skip


ARCHITECTURES = {
    name: Architecture(
        network,
        stem="stem.conv1" if network.stem == "deep" else "stem.conv",
        stages=(
            "stem.conv3" if network.stem == "deep" else "stem.conv",
            *(f"stages.{i}" for i in range(3)),
            "final_conv" if network.final_width else "stages.3",
        ),
    )
    for name, network in NETWORKS.items()
}

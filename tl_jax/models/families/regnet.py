"""RegNet X, Y, Z and V, under the names of timm's `regnet.py`.

X and Y, which is X with squeeze-and-excitation, are from arXiv:2003.13678. Z (arXiv:2103.06877)
has inverted bottlenecks. V is timm's Y with pre-activation.
"""

import collections
import functools
import math
import re
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.network import Network, drop_path_rates

_STEM_WIDTH = 32
_QUANTUM = 8


class StageSpec(NamedTuple):
    """One stage: its blocks, their output channels, and those of their group convolution."""

    depth: int
    width: int
    inner: int
    groups: int


class WidthRule(NamedTuple):
    """The parameters from which the widths of all blocks follow (section 3.3 of the paper).

    Attributes:
      w0: width of the first block.
      wa: slope of the widths over the blocks.
      wm: the ratio of the widths of neighbouring stages is a power of it.
      group_size: channels in a group of the 3x3 convolutions.
      depth: blocks of the whole network.
      bottle_ratio: width of a block's 3x3 convolution relative to the block's own.
      keep_width: rounding to whole groups loses at most a tenth, as in torchvision (`_tv`).
    """

    w0: int
    wa: float
    wm: float
    group_size: int
    depth: int
    bottle_ratio: float = 1.0
    keep_width: bool = False

    def stages(self) -> tuple[StageSpec, ...]:
        """Returns the stages: the runs of blocks that are equally wide."""
        depths: collections.Counter[int] = collections.Counter()
        for block in range(self.depth):
            # On a line; then w0 times a power of wm; then a multiple of 8.
            linear = self.w0 + self.wa * block
            power = round(math.log(linear / self.w0) / math.log(self.wm))
            depths[round(self.w0 * self.wm**power / _QUANTUM) * _QUANTUM] += 1
        return tuple(self._stage(width, depth) for width, depth in depths.items())

    def _stage(self, width: int, depth: int) -> StageSpec:
        """Returns the stage nearest to a width whose 3x3 convolutions have whole groups."""
        inner = int(width * self.bottle_ratio)
        group_size = min(self.group_size, inner)
        if self.keep_width:
            inner = layers.make_divisible(inner, group_size)
        else:
            inner = round(inner / group_size) * group_size
        return StageSpec(depth, int(inner / self.bottle_ratio), inner, inner // group_size)


class BlockOptions(NamedTuple):
    """Options that all blocks of one network share.

    Attributes:
      norm: makes the normalisations.
      act: the activation.
      se_ratio: width of the squeezed layer relative to the block's input; 0 for no
        squeeze-and-excitation.
      dtype: type of the computation.
    """

    norm: Callable[..., nn.Module]
    act: layers.Act
    se_ratio: float
    dtype: layers.Dtype

    def conv(
        self, features: int, kernel_size: int, stride: int = 1, *, groups: int = 1, name: str
    ) -> layers.Conv:
        """Makes a convolution with the RegNets' initializer, which depends on the groups."""
        return layers.Conv(
            features, kernel_size, stride, groups=groups, kernel_init=layers.goog_fan_out(groups),
            dtype=self.dtype, name=name,
        )  # fmt: skip

    def squeeze_excite(self, x: jax.Array, inputs: int) -> jax.Array:
        """Applies the squeeze-and-excitation of a block with this many input channels, if any."""
        if not self.se_ratio:
            return x
        return layers.SEModule(
            round(inputs * self.se_ratio), act=self.act, kernel_init=layers.kaiming_fan_out,
            dtype=self.dtype, name="se",
        )(x)  # fmt: skip


class ConvNorm(nn.Module):
    """A convolution, its normalisation, and an activation if there is one."""

    features: int
    kernel_size: int
    options: BlockOptions
    stride: int = 1
    groups: int = 1
    act: layers.Act | None = None
    scale_init: layers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = self.options.conv(
            self.features, self.kernel_size, self.stride, groups=self.groups, name="conv"
        )
        norm = self.options.norm(scale_init=self.scale_init, name="bn")
        y = norm(conv(x), train=train)
        return y if self.act is None else self.act(y)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with a shortcut (X and Y).

    The last normalisation starts at scale zero.
    """

    spec: StageSpec
    stride: int
    drop_path: float
    options: BlockOptions

    linear: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec, stride, options, act = self.spec, self.stride, self.options, self.options.act
        same_shape = stride == 1 and x.shape[-1] == spec.width
        last = nn.initializers.ones if self.linear else nn.initializers.zeros
        y = ConvNorm(spec.inner, 1, options, act=act, name="conv1")(x, train=train)
        conv2 = ConvNorm(spec.inner, 3, options, stride, spec.groups, act, name="conv2")
        y = options.squeeze_excite(conv2(y, train=train), x.shape[-1])
        y = ConvNorm(spec.width, 1, options, scale_init=last, name="conv3")(y, train=train)
        if self.linear and not same_shape:
            return y
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if not same_shape:
            x = ConvNorm(spec.width, 1, options, stride, name="downsample")(x, train=train)
        return y + x if self.linear else act(y + x)


class LinearBottleneck(Bottleneck):
    """The bottleneck without an activation at its end, and without projections (Z).

    Where the shapes differ there is no shortcut. The last normalisation starts at scale one.
    """

    linear: ClassVar[bool] = True


class PreBottleneck(nn.Module):
    """The bottleneck with normalisation and activation before each convolution (V).

    Its shortcut, too, starts after the first activation.
    """

    spec: StageSpec
    stride: int
    drop_path: float
    options: BlockOptions

    linear: ClassVar[bool] = True
    average: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec, options = self.spec, self.options
        conv, norm, act = options.conv, options.norm, options.act
        x = act(norm(name="norm1")(x, train=train))
        y = conv(spec.inner, 1, name="conv1")(x)
        y = act(norm(name="norm2")(y, train=train))
        y = conv(spec.inner, 3, self.stride, groups=spec.groups, name="conv2")(y)
        y = options.squeeze_excite(y, x.shape[-1])
        y = act(norm(name="norm3")(y, train=train))
        y = conv(spec.width, 1, name="conv3")(y)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if self.stride == 1 and x.shape[-1] == spec.width:
            return y + x
        if not self.average:
            return y + conv(spec.width, 1, self.stride, name="downsample")(x)
        pool = layers.AvgPool(
            2, self.stride, ceil_mode=True, count_include_pad=False, name="downsample.0"
        )
        return y + conv(spec.width, 1, name="downsample.1")(pool(x))


class AveragingPreBottleneck(PreBottleneck):
    """The same with shortcuts that subsample by averaging 2x2 cells."""

    average: ClassVar[bool] = True


Block = type[Bottleneck] | type[PreBottleneck]


class Stage(nn.Module):
    """Blocks of one width; the first one halves the map."""

    block: Block
    spec: StageSpec
    drop_paths: tuple[float, ...]
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, drop_path in enumerate(self.drop_paths):
            stride = 2 if i == 0 else 1
            block = self.block(self.spec, stride, drop_path, self.options, name=f"b{i + 1}")
            x = block(x, train=train)
        return x


class RegNet(Network):
    """RegNet.

    Attributes:
      rule: depths and widths of the stages.
      block: the kind of block; where it ends without an activation, one follows the last stage.
      se_ratio: width of the squeezed layers relative to their block's input; 0 for none (X).
      act: the activation.
      group_norm: channels in a group of GroupNorm, which then replaces BatchNorm; None for none.
      head_width: channels of a last 1x1 convolution; 0 for none.
    """

    rule: WidthRule = WidthRule(24, 36.44, 2.49, 8, 13)
    block: Block = Bottleneck
    se_ratio: float = 0.0
    act: layers.Act = layers.relu
    group_norm: int | None = None
    head_width: int = 0

    classifier: ClassVar[str] = "head.fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        norm: Callable[..., nn.Module]
        if self.group_norm:
            norm = functools.partial(layers.GroupNorm, group_size=self.group_norm, dtype=self.dtype)
        else:
            norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        options = BlockOptions(norm, self.act, self.se_ratio, self.dtype)
        if issubclass(self.block, PreBottleneck):
            x = options.conv(_STEM_WIDTH, 3, 2, name="stem")(images)
        else:
            stem = ConvNorm(_STEM_WIDTH, 3, options, 2, act=self.act, name="stem")
            x = stem(images, train=train)
        specs = self.rule.stages()
        rates = drop_path_rates(self.drop_path_rate, tuple(spec.depth for spec in specs))
        for i, (spec, drop_paths) in enumerate(zip(specs, rates, strict=True)):
            x = Stage(self.block, spec, drop_paths, options, name=f"s{i + 1}")(x, train=train)
        if self.head_width:
            head = ConvNorm(self.head_width, 1, options, act=self.act, name="final_conv")
            return head(x, train=train)
        return self.act(x) if self.block.linear else x

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of torchvision's, and any other key as it is."""
        return rename(key)


_TORCHVISION_BLOCK = {
    "f.a.0": "conv1.conv", "f.a.1": "conv1.bn", "f.b.0": "conv2.conv", "f.b.1": "conv2.bn",
    "f.c.0": "conv3.conv", "f.c.1": "conv3.bn", "f.se.fc1": "se.fc1", "f.se.fc2": "se.fc2",
    "proj.0": "downsample.conv", "proj.1": "downsample.bn",
}  # fmt: skip
_TORCHVISION_ENDS = {"stem.0.": "stem.conv.", "stem.1.": "stem.bn.", "fc.": "head.fc."}


def rename(key: str) -> str:
    """Returns timm's key for one of torchvision's, and any other key as it is."""
    match = re.fullmatch(r"trunk_output\.block\d\.block(\d)-(\d+)\.(.+)\.(\w+)", key)
    if match and match[3] in _TORCHVISION_BLOCK:
        stage, block, layer, leaf = match.groups()
        return f"s{stage}.b{int(block) + 1}.{_TORCHVISION_BLOCK[layer]}.{leaf}"
    for theirs, timms in _TORCHVISION_ENDS.items():
        if key.startswith(theirs):
            return timms + key.removeprefix(theirs)
    return key


_Y: Fields = {"se_ratio": 0.25}
_V: Fields = {**_Y, "act": layers.silu}
_Z: Fields = {**_Y, "act": layers.silu, "block": LinearBottleneck}

# The numbers in the names are the multiplications for an image of 224x224, in hundreds of millions;
# those of the rules are w0, wa, wm, group_size and depth.
NETWORKS: dict[str, RegNet] = {
    "regnetx_002": RegNet(rule=WidthRule(24, 36.44, 2.49, 8, 13)),
    "regnetx_004": RegNet(rule=WidthRule(24, 24.48, 2.54, 16, 22)),
    "regnetx_006": RegNet(rule=WidthRule(48, 36.97, 2.24, 24, 16)),
    "regnetx_008": RegNet(rule=WidthRule(56, 35.73, 2.28, 16, 16)),
    "regnetx_016": RegNet(rule=WidthRule(80, 34.01, 2.25, 24, 18)),
    "regnetx_032": RegNet(rule=WidthRule(88, 26.31, 2.25, 48, 25)),
    "regnetx_040": RegNet(rule=WidthRule(96, 38.65, 2.43, 40, 23)),
    "regnetx_064": RegNet(rule=WidthRule(184, 60.83, 2.07, 56, 17)),
    "regnetx_080": RegNet(rule=WidthRule(80, 49.56, 2.88, 120, 23)),
    "regnetx_120": RegNet(rule=WidthRule(168, 73.36, 2.37, 112, 19)),
    "regnetx_160": RegNet(rule=WidthRule(216, 55.59, 2.1, 128, 22)),
    "regnetx_320": RegNet(rule=WidthRule(320, 69.86, 2.0, 168, 23)),
    "regnetx_004_tv": RegNet(rule=WidthRule(24, 24.48, 2.54, 16, 22, keep_width=True)),
    "regnety_002": RegNet(rule=WidthRule(24, 36.44, 2.49, 8, 13), **_Y),
    "regnety_004": RegNet(rule=WidthRule(48, 27.89, 2.09, 8, 16), **_Y),
    "regnety_006": RegNet(rule=WidthRule(48, 32.54, 2.32, 16, 15), **_Y),
    "regnety_008": RegNet(rule=WidthRule(56, 38.84, 2.4, 16, 14), **_Y),
    "regnety_016": RegNet(rule=WidthRule(48, 20.71, 2.65, 24, 27), **_Y),
    "regnety_032": RegNet(rule=WidthRule(80, 42.63, 2.66, 24, 21), **_Y),
    "regnety_040": RegNet(rule=WidthRule(96, 31.41, 2.24, 64, 22), **_Y),
    "regnety_064": RegNet(rule=WidthRule(112, 33.22, 2.27, 72, 25), **_Y),
    "regnety_080": RegNet(rule=WidthRule(192, 76.82, 2.19, 56, 17), **_Y),
    "regnety_120": RegNet(rule=WidthRule(168, 73.36, 2.37, 112, 19), **_Y),
    "regnety_160": RegNet(rule=WidthRule(200, 106.23, 2.48, 112, 18), **_Y),
    "regnety_320": RegNet(rule=WidthRule(232, 115.89, 2.53, 232, 20), **_Y),
    "regnety_640": RegNet(rule=WidthRule(352, 147.48, 2.4, 328, 20), **_Y),
    "regnety_1280": RegNet(rule=WidthRule(456, 160.83, 2.52, 264, 27), **_Y),
    "regnety_2560": RegNet(rule=WidthRule(640, 230.83, 2.53, 373, 27), **_Y),
    "regnety_008_tv": RegNet(rule=WidthRule(56, 38.84, 2.4, 16, 14, keep_width=True), **_Y),
    "regnety_080_tv": RegNet(rule=WidthRule(192, 76.82, 2.19, 56, 17, keep_width=True), **_Y),
    "regnety_040_sgn": RegNet(
        rule=WidthRule(96, 31.41, 2.24, 64, 22), act=layers.silu, group_norm=16, **_Y
    ),
    "regnetv_040": RegNet(rule=WidthRule(96, 31.41, 2.24, 64, 22), block=PreBottleneck, **_V),
    "regnetv_064": RegNet(
        rule=WidthRule(112, 33.22, 2.27, 72, 25), block=AveragingPreBottleneck, **_V
    ),
    "regnetz_005": RegNet(
        rule=WidthRule(16, 10.7, 2.51, 4, 21, bottle_ratio=4.0), head_width=1024, **_Z
    ),
    "regnetz_040": RegNet(rule=WidthRule(48, 14.5, 2.226, 8, 28, bottle_ratio=4.0), **_Z),
    "regnetz_040_h": RegNet(
        rule=WidthRule(48, 14.5, 2.226, 8, 28, bottle_ratio=4.0), head_width=1536, **_Z
    ),
}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="stem" if issubclass(network.block, PreBottleneck) else "stem.conv",
        stages=("stem", "s1", "s2", "s3", "s4"),
    )
    for name, network in NETWORKS.items()
}

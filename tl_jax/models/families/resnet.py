"""ResNet (arXiv:1512.03385) and its kin, under the names of timm's `resnet.py`.

Wide ResNet (arXiv:1605.07146), ResNeXt (arXiv:1611.05431), SENet (arXiv:1709.01507), the deep
stems and averaging shortcuts of the "bag of tricks" (arXiv:1812.01187), ECA (arXiv:1910.03151),
anti-aliasing (arXiv:1904.11486), ResNet-RS (arXiv:2103.07579) and pruned ones (arXiv:2002.08258).

The stride of a bottleneck sits in its 3x3 convolution ("v1.5"), as in torchvision and timm.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.resnet_blocks import (
    AverageDownsample,
    BasicBlock,
    Bottleneck,
    Downsample,
    Norm,
    ResidualBlock,
    Stage,
)
from tl_jax.models.network import Network, drop_path_rates

Block = type[BasicBlock] | type[Bottleneck]
Attention = Callable[..., nn.Module]
# For each stage the channels of its output and, for each of its blocks, those inside the block.
Channels = tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]

_ANTI_ALIAS = {
    "average": functools.partial(layers.AvgPool, 2, 2),
    "blur": layers.BlurPool,
}
# The side of the dropped squares and a factor on their number, of the third and fourth stage.
_DROP_BLOCKS = {2: (5, 0.25), 3: (3, 1.0)}


class ResNet(Network):
    """ResNet with any of timm's stems, shortcuts and attentions.

    Attributes:
      block: `BasicBlock` or `Bottleneck`, or a tuple with one for each stage.
      depths: blocks in each stage.
      widths: width of each stage's blocks, before their expansion.
      stem: channels of the stem's convolutions: of a 7x7 one, or of three 3x3 ones ("deep").
      cardinality: groups of the bottlenecks' 3x3 convolutions (ResNeXt's 32 in "32x4d").
      base_width: width of one group of a bottleneck in the first stage (the 4 in "32x4d").
      reduce_first: divisor of the width of a bottleneck's first convolution.
      down_kernel: kernel size of the shortcuts' convolutions that take a stride.
      avg_down: shortcuts average where they take a stride, before a 1x1 convolution.
      conv_pool: a convolution of stride 2 in the place of the stem's max pooling.
      anti_alias: what subsamples in the place of strides: `"average"`, `"blur"`, or `""` for none.
      attention: makes the channel attention of a block, or a tuple with one for each stage; None
        for none.
      group_norm: normalise by groups of channels in the place of the batch.
      pruned: the channels of a pruned network, in the place of those that follow from the width.
      drop_block_rate: share of the map that blocks of the third and fourth stage drop in squares
        (DropBlock, arXiv:1810.12890); `model.clone(drop_block_rate=0.1)` sets it.
    """

    block: Block | tuple[Block, ...] = BasicBlock
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: tuple[int, ...] = (64,)
    cardinality: int = 1
    base_width: int = 64
    reduce_first: int = 1
    down_kernel: int = 1
    avg_down: bool = False
    conv_pool: bool = False
    anti_alias: Literal["", "average", "blur"] = ""
    attention: Attention | tuple[Attention, ...] | None = None
    group_norm: bool = False
    pruned: Channels = ()
    drop_block_rate: float = 0.0

    classifier: ClassVar[str] = "fc"

    def __post_init__(self):
        super().__post_init__()
        if len(self.stem) not in (1, 3):
            raise ValueError(f"stem is {self.stem}; it has one convolution or three")
        if self.anti_alias not in ("", *_ANTI_ALIAS):
            raise ValueError(
                f"anti_alias is {self.anti_alias!r}; use 'average', 'blur', or '' for none"
            )
        if not 0.0 <= self.drop_block_rate < 1.0:
            raise ValueError(f"drop_block_rate is {self.drop_block_rate}; it must lie in [0, 1)")

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        if self.group_norm:
            norm = functools.partial(layers.GroupNorm, dtype=self.dtype)
        x = self._stem(images, conv, norm, train=train)
        x = self._stem_pool(x, conv, norm, train=train)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        for i, (features, inner) in enumerate(self.pruned or self._channels()):
            block = self._block(i, conv, norm)
            stride = 1 if i == 0 else 2
            stage = Stage(block, inner, features, stride, rates[i], name=f"layer{i + 1}")
            x = stage(x, train=train)
        return x

    def _stem(
        self, x: jax.Array, conv: Callable[..., layers.Conv], norm: Norm, *, train: bool
    ) -> jax.Array:
        if len(self.stem) == 1:
            x = conv(self.stem[0], 7, 2, name="conv1")(x)
        else:
            first, second, third = self.stem
            x = conv(first, 3, 2, name="conv1.0")(x)
            x = layers.relu(norm(name="conv1.1")(x, train=train))
            x = conv(second, 3, name="conv1.3")(x)
            x = layers.relu(norm(name="conv1.4")(x, train=train))
            x = conv(third, 3, name="conv1.6")(x)
        x = norm(name="bn1")(x, train=train)
        return layers.Activation(layers.relu, name="act1")(x)

    def _stem_pool(
        self, x: jax.Array, conv: Callable[..., layers.Conv], norm: Norm, *, train: bool
    ) -> jax.Array:
        """Halves the map; all variants bear the name of the max pooling."""
        if self.conv_pool:
            x = conv(x.shape[-1], 3, 2, name="maxpool.0")(x)
            return layers.relu(norm(name="maxpool.1")(x, train=train))
        if self.anti_alias == "average":
            return layers.AvgPool(2, 2, name="maxpool")(x)
        if self.anti_alias == "blur":
            x = layers.MaxPool(3, 1, padding=1, name="maxpool.0")(x)
            return layers.BlurPool(name="maxpool.1")(x)
        return layers.MaxPool(3, 2, padding=1, name="maxpool")(x)

    def _block(
        self, stage: int, conv: Callable[..., layers.Conv], norm: Norm
    ) -> Callable[..., ResidualBlock]:
        """Returns what makes the blocks of a stage."""
        if self.avg_down:
            downsample = functools.partial(AverageDownsample, conv=conv, norm=norm)
        else:
            downsample = functools.partial(
                Downsample, kernel_size=self.down_kernel, conv=conv, norm=norm
            )
        attention = self._of_stage(self.attention, stage)
        drop_block = None
        if self.drop_block_rate and stage in _DROP_BLOCKS:
            size, factor = _DROP_BLOCKS[stage]
            drop_block = functools.partial(layers.DropBlock, self.drop_block_rate, size, factor)
        return functools.partial(
            self._of_stage(self.block, stage),
            conv=conv,
            norm=norm,
            downsample=downsample,
            groups=self.cardinality,
            attention=attention and functools.partial(attention, dtype=self.dtype),
            anti_alias=_ANTI_ALIAS[self.anti_alias] if self.anti_alias else None,
            drop_block=drop_block,
        )

    def _channels(self) -> Channels:
        """Returns the channels that follow from the widths."""
        channels = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            block = self._of_stage(self.block, i)
            inner = (width,)
            if block is Bottleneck:
                grouped = width * self.base_width // 64 * self.cardinality
                inner = (grouped // self.reduce_first, grouped)
            channels.append((width * block.expansion, (inner,) * depth))
        return tuple(channels)

    @staticmethod
    def _of_stage(option: object, stage: int) -> object:
        """Returns the stage's own entry of an option that has one for each, else the option."""
        return option[stage] if isinstance(option, tuple) else option


# The depths of the ResNets of these numbers of layers.
_18, _26, _34, _50 = (2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_101, _152, _200, _269 = (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3), (3, 30, 48, 8)

# What the letters behind those numbers stand for ("bag of tricks"; "t" is timm's tiered stem).
_C = {"stem": (32, 32, 64)}
_D = {"stem": (32, 32, 64), "avg_down": True}
_S = {"stem": (64, 64, 128)}
_T = {"stem": (24, 32, 64), "avg_down": True}

_SE_MODULE = functools.partial(layers.SEModule, kernel_init=layers.kaiming_fan_out)
_SE = {"attention": _SE_MODULE}
_ECA = {"attention": layers.EfficientChannelAttention}
_AA = {"anti_alias": "average"}
_BLUR = {"anti_alias": "blur"}
_RS = _D | {"conv_pool": True, "attention": functools.partial(_SE_MODULE, ratio=0.25)}
_SENET = _S | _SE | {"reduce_first": 2, "down_kernel": 3}
_TEST = {"stem": (16, 16, 32), "avg_down": True, "widths": (32, 48, 48, 96)}


def _grouped(cardinality: int, base_width: int) -> dict[str, int]:
    """Returns the fields of a ResNeXt "32x4d"."""
    return {"cardinality": cardinality, "base_width": base_width}


# Pruning left the kernels of the attention as long as the unpruned widths call for.
_PRUNED = _D | {
    "attention": tuple(
        functools.partial(layers.EfficientChannelAttention, size) for size in (5, 5, 5, 7)
    )
}
# fmt: off
_PRUNED_50: Channels = (
    (19, ((47, 18), (52, 22), (64, 35))),
    (171, ((85, 37), (107, 80), (120, 85), (125, 87))),
    (818, ((198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239))),
    (2022, ((492, 237), (512, 500), (512, 490))),
)
_PRUNED_101: Channels = (
    (26, ((45, 25), (53, 20), (60, 27))),
    (142, ((81, 24), (93, 49), (102, 54), (122, 78))),
    (278, (
        (101, 25), (239, 160), (234, 156), (250, 176), (253, 191), (251, 175), (230, 128),
        (244, 154), (244, 159), (238, 97), (244, 149), (253, 181), (245, 119), (255, 216),
        (256, 201), (253, 149), (254, 141), (256, 190), (256, 217), (255, 156), (256, 155),
        (256, 232), (256, 214),
    )),
    (2042, ((499, 289), (512, 512), (512, 502))),
)

_VARIANTS = {
    "resnet10t": (BasicBlock, (1, 1, 1, 1), _T),
    "resnet14t": (Bottleneck, (1, 1, 1, 1), _T),
    "resnet18": (BasicBlock, _18, {}),
    "resnet18d": (BasicBlock, _18, _D),
    "resnet34": (BasicBlock, _34, {}),
    "resnet34d": (BasicBlock, _34, _D),
    "resnet26": (Bottleneck, _26, {}),
    "resnet26t": (Bottleneck, _26, _T),
    "resnet26d": (Bottleneck, _26, _D),
    "resnet50": (Bottleneck, _50, {}),
    "resnet50c": (Bottleneck, _50, _C),
    "resnet50d": (Bottleneck, _50, _D),
    "resnet50s": (Bottleneck, _50, _S),
    "resnet50t": (Bottleneck, _50, _T),
    "resnet101": (Bottleneck, _101, {}),
    "resnet101c": (Bottleneck, _101, _C),
    "resnet101d": (Bottleneck, _101, _D),
    "resnet101s": (Bottleneck, _101, _S),
    "resnet152": (Bottleneck, _152, {}),
    "resnet152c": (Bottleneck, _152, _C),
    "resnet152d": (Bottleneck, _152, _D),
    "resnet152s": (Bottleneck, _152, _S),
    "resnet200": (Bottleneck, _200, {}),
    "resnet200d": (Bottleneck, _200, _D),
    "wide_resnet50_2": (Bottleneck, _50, {"base_width": 128}),
    "wide_resnet101_2": (Bottleneck, _101, {"base_width": 128}),
    "resnet50_gn": (Bottleneck, _50, {"group_norm": True}),
    "resnext50_32x4d": (Bottleneck, _50, _grouped(32, 4)),
    "resnext50d_32x4d": (Bottleneck, _50, _D | _grouped(32, 4)),
    "resnext101_32x4d": (Bottleneck, _101, _grouped(32, 4)),
    "resnext101_32x8d": (Bottleneck, _101, _grouped(32, 8)),
    "resnext101_32x16d": (Bottleneck, _101, _grouped(32, 16)),
    "resnext101_32x32d": (Bottleneck, _101, _grouped(32, 32)),
    "resnext101_64x4d": (Bottleneck, _101, _grouped(64, 4)),
    "ecaresnet26t": (Bottleneck, _26, _T | _ECA),
    "ecaresnet50d": (Bottleneck, _50, _D | _ECA),
    "ecaresnet50d_pruned": (Bottleneck, _50, _PRUNED | {"pruned": _PRUNED_50}),
    "ecaresnet50t": (Bottleneck, _50, _T | _ECA),
    "ecaresnetlight": (Bottleneck, (1, 1, 11, 3), {"avg_down": True} | _ECA),
    "ecaresnet101d": (Bottleneck, _101, _D | _ECA),
    "ecaresnet101d_pruned": (Bottleneck, _101, _PRUNED | {"pruned": _PRUNED_101}),
    "ecaresnet200d": (Bottleneck, _200, _D | _ECA),
    "ecaresnet269d": (Bottleneck, _269, _D | _ECA),
    "ecaresnext26t_32x4d": (Bottleneck, _26, _T | _ECA | _grouped(32, 4)),
    "ecaresnext50t_32x4d": (Bottleneck, _50, _T | _ECA | _grouped(32, 4)),
    "seresnet18": (BasicBlock, _18, _SE),
    "seresnet34": (BasicBlock, _34, _SE),
    "seresnet50": (Bottleneck, _50, _SE),
    "seresnet50t": (Bottleneck, _50, _T | _SE),
    "seresnet101": (Bottleneck, _101, _SE),
    "seresnet152": (Bottleneck, _152, _SE),
    "seresnet152d": (Bottleneck, _152, _D | _SE),
    "seresnet200d": (Bottleneck, _200, _D | _SE),
    "seresnet269d": (Bottleneck, _269, _D | _SE),
    "seresnext26d_32x4d": (Bottleneck, _26, _D | _SE | _grouped(32, 4)),
    "seresnext26t_32x4d": (Bottleneck, _26, _T | _SE | _grouped(32, 4)),
    "seresnext50_32x4d": (Bottleneck, _50, _SE | _grouped(32, 4)),
    "seresnext101_32x4d": (Bottleneck, _101, _SE | _grouped(32, 4)),
    "seresnext101_32x8d": (Bottleneck, _101, _SE | _grouped(32, 8)),
    "seresnext101d_32x8d": (Bottleneck, _101, _D | _SE | _grouped(32, 8)),
    "seresnext101_64x4d": (Bottleneck, _101, _SE | _grouped(64, 4)),
    "senet154": (Bottleneck, _152, _SENET | _grouped(64, 4)),
    "resnetblur18": (BasicBlock, _18, _BLUR),
    "resnetblur50": (Bottleneck, _50, _BLUR),
    "resnetblur50d": (Bottleneck, _50, _D | _BLUR),
    "resnetblur101d": (Bottleneck, _101, _D | _BLUR),
    "resnetaa34d": (BasicBlock, _34, _D | _AA),
    "resnetaa50": (Bottleneck, _50, _AA),
    "resnetaa50d": (Bottleneck, _50, _D | _AA),
    "resnetaa101d": (Bottleneck, _101, _D | _AA),
    "seresnetaa50d": (Bottleneck, _50, _D | _AA | _SE),
    "seresnextaa101d_32x8d": (Bottleneck, _101, _D | _AA | _SE | _grouped(32, 8)),
    "seresnextaa201d_32x8d": (
        Bottleneck, (3, 24, 36, 4), _D | _S | _AA | _SE | _grouped(32, 8),
    ),
    "resnetrs50": (Bottleneck, _50, _RS),
    "resnetrs101": (Bottleneck, _101, _RS),
    "resnetrs152": (Bottleneck, _152, _RS),
    "resnetrs200": (Bottleneck, _200, _RS),
    "resnetrs270": (Bottleneck, (4, 29, 53, 4), _RS),
    "resnetrs350": (Bottleneck, (4, 36, 72, 4), _RS),
    "resnetrs420": (Bottleneck, (4, 44, 87, 4), _RS),
    "test_resnet": ((BasicBlock, BasicBlock, Bottleneck, BasicBlock), (1, 1, 1, 1), _TEST),
}
# fmt: on


def _architecture(
    block: Block | tuple[Block, ...], depths: tuple[int, ...], fields: dict[str, object]
) -> Architecture:
    return Architecture(
        build=functools.partial(ResNet, block=block, depths=depths, **fields),
        classifier=ResNet.classifier,
        stem="conv1.0" if len(fields.get("stem", ())) == 3 else "conv1",
        stages=("act1", "layer1", "layer2", "layer3", "layer4"),
    )


ARCHITECTURES = {
    name: _architecture(block, depths, fields)
    for name, (block, depths, fields) in _VARIANTS.items()
}

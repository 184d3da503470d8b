"""ResNet (arXiv:1512.03385) and its relatives, under the names of timm's `resnet.py`.

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
from tl_jax.models.architecture import Architecture, Fields
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

_ANTI_ALIAS: dict[str, Callable[..., nn.Module]] = {
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
      conv_pool: a convolution of stride 2 instead of the stem's max pooling.
      anti_alias: subsample by an `"average"` or a `"blur"` instead of strides; `""` for strides.
      attention: makes the channel attention of a block, or a tuple with one for each stage; None
        for none.
      group_norm: normalise by groups of channels instead of the batch.
      pruned: the channels of a pruned network, instead of those that follow from the width.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.stem) not in (1, 3):
            raise ValueError(f"stem is {self.stem}; it has one convolution or three")
        if self.anti_alias not in ("", *_ANTI_ALIAS):
            raise ValueError(
                f"anti_alias is {self.anti_alias!r}; use 'average', 'blur', or '' for none"
            )

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm: Norm
        if self.group_norm:
            norm = functools.partial(layers.GroupNorm, dtype=self.dtype)
        else:
            norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = self._stem(images, conv, norm, train=train)
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
        """Returns the input of the first stage, [B, H / 4, W / 4, stem[-1]]."""
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
        x = layers.Activation(layers.relu, name="act1")(x)
        # Every variant of the layer that halves the map has the name of the max pooling.
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
        """Returns a factory of the blocks of a stage."""
        downsample: Callable[..., nn.Module]
        if self.avg_down:
            downsample = functools.partial(AverageDownsample, conv=conv, norm=norm)
        else:
            downsample = functools.partial(
                Downsample, kernel_size=self.down_kernel, conv=conv, norm=norm
            )
        attention = self.attention[stage] if isinstance(self.attention, tuple) else self.attention
        if attention is not None:
            attention = functools.partial(attention, dtype=self.dtype)
        drop_block = None
        if self.drop_block_rate and stage in _DROP_BLOCKS:
            size, factor = _DROP_BLOCKS[stage]
            drop_block = functools.partial(layers.DropBlock, self.drop_block_rate, size, factor)
        return functools.partial(
            self._block_class(stage),
            conv=conv,
            norm=norm,
            downsample=downsample,
            groups=self.cardinality,
            attention=attention,
            anti_alias=_ANTI_ALIAS[self.anti_alias] if self.anti_alias else None,
            drop_block=drop_block,
        )

    def _block_class(self, stage: int) -> Block:
        return self.block[stage] if isinstance(self.block, tuple) else self.block

    def _channels(self) -> Channels:
        """Returns the channels that follow from the widths."""
        channels = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            block = self._block_class(i)
            inner: tuple[int, ...] = (width,)
            if block is Bottleneck:
                grouped = width * self.base_width // 64 * self.cardinality
                inner = (grouped // self.reduce_first, grouped)
            channels.append((width * block.expansion, (inner,) * depth))
        return tuple(channels)


# The depths of the ResNets of these numbers of layers.
_18, _26, _34, _50 = (2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_101, _152, _200, _269 = (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3), (3, 30, 48, 8)

# Fields of the letters after those numbers ("bag of tricks"; "t" is timm's tiered stem).
_C: Fields = {"stem": (32, 32, 64)}
_D: Fields = {"stem": (32, 32, 64), "avg_down": True}
_S: Fields = {"stem": (64, 64, 128)}
_T: Fields = {"stem": (24, 32, 64), "avg_down": True}
# Cardinality and the width of one group (ResNeXt).
_32X4D: Fields = {"cardinality": 32, "base_width": 4}
_32X8D: Fields = {"cardinality": 32, "base_width": 8}
_64X4D: Fields = {"cardinality": 64, "base_width": 4}

_SE: Fields = {"attention": layers.Bound(layers.SEModule, kernel_init=layers.kaiming_fan_out)}
_ECA: Fields = {"attention": layers.EfficientChannelAttention}
_AA: Fields = {"anti_alias": "average"}
_BLUR: Fields = {"anti_alias": "blur"}
_RS: Fields = {
    **_D,
    "conv_pool": True,
    "attention": layers.Bound(layers.SEModule, kernel_init=layers.kaiming_fan_out, ratio=0.25),
}

# The pruned networks have the attention kernels of the unpruned widths.
_PRUNED: Fields = {
    **_D,
    "attention": tuple(
        layers.Bound(layers.EfficientChannelAttention, size) for size in (5, 5, 5, 7)
    ),
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
# fmt: on

NETWORKS: dict[str, ResNet] = {
    "resnet10t": ResNet(block=BasicBlock, depths=(1, 1, 1, 1), **_T),
    "resnet14t": ResNet(block=Bottleneck, depths=(1, 1, 1, 1), **_T),
    "resnet18": ResNet(block=BasicBlock, depths=_18),
    "resnet18d": ResNet(block=BasicBlock, depths=_18, **_D),
    "resnet34": ResNet(block=BasicBlock, depths=_34),
    "resnet34d": ResNet(block=BasicBlock, depths=_34, **_D),
    "resnet26": ResNet(block=Bottleneck, depths=_26),
    "resnet26t": ResNet(block=Bottleneck, depths=_26, **_T),
    "resnet26d": ResNet(block=Bottleneck, depths=_26, **_D),
    "resnet50": ResNet(block=Bottleneck, depths=_50),
    "resnet50c": ResNet(block=Bottleneck, depths=_50, **_C),
    "resnet50d": ResNet(block=Bottleneck, depths=_50, **_D),
    "resnet50s": ResNet(block=Bottleneck, depths=_50, **_S),
    "resnet50t": ResNet(block=Bottleneck, depths=_50, **_T),
    "resnet101": ResNet(block=Bottleneck, depths=_101),
    "resnet101c": ResNet(block=Bottleneck, depths=_101, **_C),
    "resnet101d": ResNet(block=Bottleneck, depths=_101, **_D),
    "resnet101s": ResNet(block=Bottleneck, depths=_101, **_S),
    "resnet152": ResNet(block=Bottleneck, depths=_152),
    "resnet152c": ResNet(block=Bottleneck, depths=_152, **_C),
    "resnet152d": ResNet(block=Bottleneck, depths=_152, **_D),
    "resnet152s": ResNet(block=Bottleneck, depths=_152, **_S),
    "resnet200": ResNet(block=Bottleneck, depths=_200),
    "resnet200d": ResNet(block=Bottleneck, depths=_200, **_D),
    "wide_resnet50_2": ResNet(block=Bottleneck, depths=_50, base_width=128),
    "wide_resnet101_2": ResNet(block=Bottleneck, depths=_101, base_width=128),
    "resnet50_gn": ResNet(block=Bottleneck, depths=_50, group_norm=True),
    "resnext50_32x4d": ResNet(block=Bottleneck, depths=_50, **_32X4D),
    "resnext50d_32x4d": ResNet(block=Bottleneck, depths=_50, **_D, **_32X4D),
    "resnext101_32x4d": ResNet(block=Bottleneck, depths=_101, **_32X4D),
    "resnext101_32x8d": ResNet(block=Bottleneck, depths=_101, **_32X8D),
    "resnext101_32x16d": ResNet(block=Bottleneck, depths=_101, cardinality=32, base_width=16),
    "resnext101_32x32d": ResNet(block=Bottleneck, depths=_101, cardinality=32, base_width=32),
    "resnext101_64x4d": ResNet(block=Bottleneck, depths=_101, **_64X4D),
    "ecaresnet26t": ResNet(block=Bottleneck, depths=_26, **_T, **_ECA),
    "ecaresnet50d": ResNet(block=Bottleneck, depths=_50, **_D, **_ECA),
    "ecaresnet50d_pruned": ResNet(block=Bottleneck, depths=_50, pruned=_PRUNED_50, **_PRUNED),
    "ecaresnet50t": ResNet(block=Bottleneck, depths=_50, **_T, **_ECA),
    "ecaresnetlight": ResNet(block=Bottleneck, depths=(1, 1, 11, 3), avg_down=True, **_ECA),
    "ecaresnet101d": ResNet(block=Bottleneck, depths=_101, **_D, **_ECA),
    "ecaresnet101d_pruned": ResNet(block=Bottleneck, depths=_101, pruned=_PRUNED_101, **_PRUNED),
    "ecaresnet200d": ResNet(block=Bottleneck, depths=_200, **_D, **_ECA),
    "ecaresnet269d": ResNet(block=Bottleneck, depths=_269, **_D, **_ECA),
    "ecaresnext26t_32x4d": ResNet(block=Bottleneck, depths=_26, **_T, **_ECA, **_32X4D),
    "ecaresnext50t_32x4d": ResNet(block=Bottleneck, depths=_50, **_T, **_ECA, **_32X4D),
    "seresnet18": ResNet(block=BasicBlock, depths=_18, **_SE),
    "seresnet34": ResNet(block=BasicBlock, depths=_34, **_SE),
    "seresnet50": ResNet(block=Bottleneck, depths=_50, **_SE),
    "seresnet50t": ResNet(block=Bottleneck, depths=_50, **_T, **_SE),
    "seresnet101": ResNet(block=Bottleneck, depths=_101, **_SE),
    "seresnet152": ResNet(block=Bottleneck, depths=_152, **_SE),
    "seresnet152d": ResNet(block=Bottleneck, depths=_152, **_D, **_SE),
    "seresnet200d": ResNet(block=Bottleneck, depths=_200, **_D, **_SE),
    "seresnet269d": ResNet(block=Bottleneck, depths=_269, **_D, **_SE),
    "seresnext26d_32x4d": ResNet(block=Bottleneck, depths=_26, **_D, **_SE, **_32X4D),
    "seresnext26t_32x4d": ResNet(block=Bottleneck, depths=_26, **_T, **_SE, **_32X4D),
    "seresnext50_32x4d": ResNet(block=Bottleneck, depths=_50, **_SE, **_32X4D),
    "seresnext101_32x4d": ResNet(block=Bottleneck, depths=_101, **_SE, **_32X4D),
    "seresnext101_32x8d": ResNet(block=Bottleneck, depths=_101, **_SE, **_32X8D),
    "seresnext101d_32x8d": ResNet(block=Bottleneck, depths=_101, **_D, **_SE, **_32X8D),
    "seresnext101_64x4d": ResNet(block=Bottleneck, depths=_101, **_SE, **_64X4D),
    "senet154": ResNet(
        block=Bottleneck, depths=_152, reduce_first=2, down_kernel=3, **_S, **_SE, **_64X4D
    ),
    "resnetblur18": ResNet(block=BasicBlock, depths=_18, **_BLUR),
    "resnetblur50": ResNet(block=Bottleneck, depths=_50, **_BLUR),
    "resnetblur50d": ResNet(block=Bottleneck, depths=_50, **_D, **_BLUR),
    "resnetblur101d": ResNet(block=Bottleneck, depths=_101, **_D, **_BLUR),
    "resnetaa34d": ResNet(block=BasicBlock, depths=_34, **_D, **_AA),
    "resnetaa50": ResNet(block=Bottleneck, depths=_50, **_AA),
    "resnetaa50d": ResNet(block=Bottleneck, depths=_50, **_D, **_AA),
    "resnetaa101d": ResNet(block=Bottleneck, depths=_101, **_D, **_AA),
    "seresnetaa50d": ResNet(block=Bottleneck, depths=_50, **_D, **_AA, **_SE),
    "seresnextaa101d_32x8d": ResNet(block=Bottleneck, depths=_101, **_D, **_AA, **_SE, **_32X8D),
    "seresnextaa201d_32x8d": ResNet(
        block=Bottleneck,
        depths=(3, 24, 36, 4),
        stem=(64, 64, 128),
        avg_down=True,
        **_AA,
        **_SE,
        **_32X8D,
    ),
    "resnetrs50": ResNet(block=Bottleneck, depths=_50, **_RS),
    "resnetrs101": ResNet(block=Bottleneck, depths=_101, **_RS),
    "resnetrs152": ResNet(block=Bottleneck, depths=_152, **_RS),
    "resnetrs200": ResNet(block=Bottleneck, depths=_200, **_RS),
    "resnetrs270": ResNet(block=Bottleneck, depths=(4, 29, 53, 4), **_RS),
    "resnetrs350": ResNet(block=Bottleneck, depths=(4, 36, 72, 4), **_RS),
    "resnetrs420": ResNet(block=Bottleneck, depths=(4, 44, 87, 4), **_RS),
    "test_resnet": ResNet(
        block=(BasicBlock, BasicBlock, Bottleneck, BasicBlock),
        depths=(1, 1, 1, 1),
        stem=(16, 16, 32),
        avg_down=True,
        widths=(32, 48, 48, 96),
    ),
}


ARCHITECTURES = {
    name: Architecture(
        network,
        stem="conv1" if len(network.stem) == 1 else "conv1.0",
        stages=("act1", "layer1", "layer2", "layer3", "layer4"),
    )
    for name, network in NETWORKS.items()
}

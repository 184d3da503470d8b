"""MobileNetV3 (arXiv:1905.02244) and its kin, under the names of timm's `mobilenetv3.py`.

They share the efficient head: the map is pooled before the last 1x1 convolution, which then costs
next to nothing. The kin are MobileNetV4 (arXiv:2404.10518), FBNetV3 (arXiv:2006.02049) and
PP-LCNet (arXiv:2109.15099). The `tf_*` networks carry weights from TensorFlow: they pad as
TensorFlow does and their BatchNorm has epsilon 1e-3.
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import jax

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families.efficientnet_blocks import (
    BLOCKS,
    Block,
    EdgeResidual,
    Parts,
    batch_norm,
)
from tl_jax.models.families.efficientnet_builder import (
    Definition,
    Plans,
    apply_stages,
    decode,
    feature_modules,
    plan,
    round_width,
)
from tl_jax.models.families.universal_blocks import MobileAttention, UniversalInvertedResidual
from tl_jax.models.network import Network


class AveragingEdgeResidual(EdgeResidual):
    """`EdgeResidual` that averages 2x2 cells in the place of a stride, where others may blur."""

    def blurred(self, x: jax.Array) -> jax.Array:
        """Averages, if the convolution has left the subsampling to that."""
        return _averaged(x) if self.conv_stride != self.plan.stride else x


class AveragingUniversalResidual(UniversalInvertedResidual):
    """`UniversalInvertedResidual` that averages likewise."""

    def blurred(self, x: jax.Array) -> jax.Array:
        """Averages, if the convolution has left the subsampling to that."""
        return _averaged(x) if self.conv_stride != self.plan.stride else x


def _averaged(x: jax.Array) -> jax.Array:
    return layers.AvgPool(2, 2, name="aa")(x)


class MobileNetV3(Network):
    """Stem, stages of blocks, and the head that pools first.

    Attributes:
      definition: the blocks of each stage, as `efficientnet_builder.decode` reads them.
      width, depth: factors on the channels and blocks of the stages.
      stem_width: channels of the stem.
      head_width: channels of the head's convolution, which the classifier sees.
      head_bias: the head's convolution has a bias.
      head_norm: a norm follows it (MobileNetV4).
      act: activation of stem and head, and of the blocks that name none.
      squeezed_act, squeeze_base, squeeze_round: activation of the squeeze-excite layers, None for
        that of the block, and their width, as `efficientnet_builder.plan` takes it.
      subsample: what the blocks subsample with: strides, or a blur or mean after a stride of 1.
      hybrid: layer scale in the universal blocks, as the networks with attention have it.
      padding, epsilon: as `layers.Conv` and `layers.BatchNorm` take them.

    Raises:
      ValueError: on construction, also if `drop_path_rate` is not 0 and no block has a shortcut.
    """

    definition: Definition = (("ds_r1_k3_s2_c16",),)
    width: float = 1.0
    depth: float = 1.0
    stem_width: int = 16
    head_width: int = 1280
    head_bias: bool = True
    head_norm: bool = False
    act: layers.Act = layers.hard_swish
    squeezed_act: layers.Act | None = layers.relu
    squeeze_base: Literal["inputs", "hidden"] = "hidden"
    squeeze_round: Callable[[float], int] = round_width
    subsample: Literal["stride", "blur", "average"] = "stride"
    hybrid: bool = False
    padding: layers.Padding = "symmetric"
    epsilon: float = 1e-5

    classifier: ClassVar[str] = "classifier"

    def __post_init__(self):
        super().__post_init__()
        if not any(block.shortcut for stage in self._plans() for block in stage):
            self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        parts = self._parts()
        x = parts.conv(self.stem_width, 3, 2, name="conv_stem")(images)
        x = parts.norm(self.act, name="bn1")(x, train=train)
        return apply_stages(x, self._plans(), parts, self._kinds(), train=train)

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the output of the head's convolution, [B, head_width], at least float32."""
        parts = self._parts()
        x = layers.global_average(x)[:, None, None]
        x = parts.conv(self.head_width, 1, use_bias=self.head_bias, name="conv_head")(x)
        if self.head_norm:
            x = parts.norm(self.act, name="norm_head")(x, train=train)
        else:
            x = self.act(x)
        return layers.at_least_float32(x[:, 0, 0])

    def _plans(self) -> Plans:
        return plan(
            decode(self.definition, depth=self.depth),
            self.stem_width,
            scaled=functools.partial(round_width, factor=self.width),
            drop_path_rate=self.drop_path_rate,
            squeeze_base=self.squeeze_base,
            squeeze_round=self.squeeze_round,
        )

    def _kinds(self) -> Mapping[str, Callable[..., Block]]:
        """Returns what makes the blocks, by the codes of the definition."""
        edge, universal = EdgeResidual, UniversalInvertedResidual
        if self.subsample == "average":
            edge, universal = AveragingEdgeResidual, AveragingUniversalResidual
        universal = functools.partial(universal, layer_scale=self.hybrid)
        return {**BLOCKS, "er": edge, "uir": universal, "mqa": MobileAttention}

    def _parts(self) -> Parts:
        return Parts(
            norm=functools.partial(
                batch_norm, epsilon=self.epsilon, axis_name=self.axis_name, dtype=self.dtype
            ),
            act=self.act,
            gate=layers.hard_sigmoid,
            squeezed_act=self.squeezed_act,
            padding=self.padding,
            dtype=self.dtype,
            blur=self.subsample != "stride",
        )


def define(*stages: str) -> Definition:
    """Returns a definition from one string for each stage, in which spaces part the blocks."""
    return tuple(tuple(stage.split()) for stage in stages)


_SMALL = define(
    "ds_r1_k3_s2_e1_c16_se0.25_nre",
    "ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre",
    "ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25",
    "ir_r2_k5_s1_e3_c48_se0.25",
    "ir_r3_k5_s2_e6_c96_se0.25",
    "cn_r1_k1_s1_c576",
)
_SMALL_MINIMAL = define(
    "ds_r1_k3_s2_e1_c16",
    "ir_r1_k3_s2_e4.5_c24 ir_r1_k3_s1_e3.67_c24",
    "ir_r1_k3_s2_e4_c40 ir_r2_k3_s1_e6_c40",
    "ir_r2_k3_s1_e3_c48",
    "ir_r3_k3_s2_e6_c96",
    "cn_r1_k1_s1_c576",
)
_LARGE = define(
    "ds_r1_k3_s1_e1_c16_nre",
    "ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre",
    "ir_r3_k5_s2_e3_c40_se0.25_nre",
    "ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80",
    "ir_r2_k3_s1_e6_c112_se0.25",
    "ir_r3_k5_s2_e6_c160_se0.25",
    "cn_r1_k1_s1_c960",
)
_LARGE_MINIMAL = define(
    "ds_r1_k3_s1_e1_c16",
    "ir_r1_k3_s2_e4_c24 ir_r1_k3_s1_e3_c24",
    "ir_r3_k3_s2_e3_c40",
    "ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80",
    "ir_r2_k3_s1_e6_c112",
    "ir_r3_k3_s2_e6_c160",
    "cn_r1_k1_s1_c960",
)
_RW = (("ds_r1_k3_s1_e1_c16_nre_noskip",), *_LARGE[1:])
_FBNET_B = define(
    "ds_r2_k3_s1_e1_c16",
    "ir_r1_k5_s2_e4_c24 ir_r3_k5_s1_e2_c24",
    "ir_r1_k5_s2_e5_c40_se0.25 ir_r4_k5_s1_e3_c40_se0.25",
    "ir_r1_k5_s2_e5_c72 ir_r4_k3_s1_e3_c72",
    "ir_r1_k3_s1_e5_c120_se0.25 ir_r5_k5_s1_e3_c120_se0.25",
    "ir_r1_k3_s2_e6_c184_se0.25 ir_r5_k5_s1_e4_c184_se0.25 ir_r1_k5_s1_e6_c224_se0.25",
    "cn_r1_k1_s1_c1344",
)
_FBNET_D = define(
    "ds_r2_k3_s1_e1_c16",
    "ir_r1_k3_s2_e5_c24 ir_r5_k3_s1_e2_c24",
    "ir_r1_k5_s2_e4_c40_se0.25 ir_r4_k3_s1_e3_c40_se0.25",
    "ir_r1_k3_s2_e5_c72 ir_r4_k3_s1_e3_c72",
    "ir_r1_k3_s1_e5_c128_se0.25 ir_r6_k5_s1_e3_c128_se0.25",
    "ir_r1_k3_s2_e6_c208_se0.25 ir_r5_k5_s1_e5_c208_se0.25 ir_r1_k5_s1_e6_c240_se0.25",
    "cn_r1_k1_s1_c1440",
)
_FBNET_G = define(
    "ds_r3_k3_s1_e1_c24",
    "ir_r1_k5_s2_e4_c40 ir_r4_k5_s1_e2_c40",
    "ir_r1_k5_s2_e4_c56_se0.25 ir_r4_k5_s1_e3_c56_se0.25",
    "ir_r1_k5_s2_e5_c104 ir_r4_k3_s1_e3_c104",
    "ir_r1_k3_s1_e5_c160_se0.25 ir_r8_k5_s1_e3_c160_se0.25",
    "ir_r1_k3_s2_e6_c264_se0.25 ir_r6_k5_s1_e5_c264_se0.25 ir_r2_k5_s1_e6_c288_se0.25",
    "cn_r1_k1_s1_c1728",
)
_LCNET = define(
    "dsa_r1_k3_s1_c32",
    "dsa_r2_k3_s2_c64",
    "dsa_r2_k3_s2_c128",
    "dsa_r1_k3_s2_c256 dsa_r1_k5_s1_c256",
    "dsa_r4_k5_s1_c256",
    "dsa_r2_k5_s2_c512_se0.25",
)
_V4_SMALL = define(
    "cn_r1_k3_s2_c32 cn_r1_k1_s1_c32",
    "cn_r1_k3_s2_c96 cn_r1_k1_s1_c64",
    "uir_r1_a5_k5_s2_e3_c96 uir_r4_a0_k3_s1_e2_c96 uir_r1_a3_k0_s1_e4_c96",
    "uir_r1_a3_k3_s2_e6_c128 uir_r1_a5_k5_s1_e4_c128 uir_r1_a0_k5_s1_e4_c128 "
    "uir_r1_a0_k5_s1_e3_c128 uir_r2_a0_k3_s1_e4_c128",
    "cn_r1_k1_s1_c960",
)
_V4_MEDIUM = define(
    "er_r1_k3_s2_e4_c48",
    "uir_r1_a3_k5_s2_e4_c80 uir_r1_a3_k3_s1_e2_c80",
    "uir_r1_a3_k5_s2_e6_c160 uir_r2_a3_k3_s1_e4_c160 uir_r1_a3_k5_s1_e4_c160 "
    "uir_r1_a3_k3_s1_e4_c160 uir_r1_a3_k0_s1_e4_c160 uir_r1_a0_k0_s1_e2_c160 "
    "uir_r1_a3_k0_s1_e4_c160",
    "uir_r1_a5_k5_s2_e6_c256 uir_r1_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 "
    "uir_r1_a0_k0_s1_e4_c256 uir_r1_a3_k0_s1_e4_c256 uir_r1_a3_k5_s1_e2_c256 "
    "uir_r1_a5_k5_s1_e4_c256 uir_r2_a0_k0_s1_e4_c256 uir_r1_a5_k0_s1_e2_c256",
    "cn_r1_k1_s1_c960",
)
_V4_LARGE = define(
    "er_r1_k3_s2_e4_c48",
    "uir_r1_a3_k5_s2_e4_c96 uir_r1_a3_k3_s1_e4_c96",
    "uir_r1_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_r1_a3_k5_s1_e4_c192 "
    "uir_r5_a5_k3_s1_e4_c192 uir_r1_a3_k0_s1_e4_c192",
    "uir_r4_a5_k5_s2_e4_c512 uir_r1_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 "
    "uir_r2_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 uir_r1_a5_k5_s1_e4_c512 "
    "uir_r3_a5_k0_s1_e4_c512",
    "cn_r1_k1_s1_c960",
)
_V4_HYBRID_MEDIUM = define(
    "er_r1_k3_s2_e4_c48",
    "uir_r1_a3_k5_s2_e4_c80 uir_r1_a3_k3_s1_e2_c80",
    "uir_r1_a3_k5_s2_e6_c160 uir_r1_a0_k0_s1_e2_c160 uir_r1_a3_k3_s1_e4_c160 "
    "uir_r1_a3_k5_s1_e4_c160 mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k3_s1_e4_c160 "
    "mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k0_s1_e4_c160 mqa_r1_k3_h4_s1_v2_d64_c160 "
    "uir_r1_a3_k3_s1_e4_c160 mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k0_s1_e4_c160",
    "uir_r1_a5_k5_s2_e6_c256 uir_r1_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 "
    "uir_r1_a0_k0_s1_e2_c256 uir_r1_a3_k5_s1_e2_c256 uir_r1_a0_k0_s1_e2_c256 "
    "uir_r1_a0_k0_s1_e4_c256 mqa_r1_k3_h4_s1_d64_c256 uir_r1_a3_k0_s1_e4_c256 "
    "mqa_r1_k3_h4_s1_d64_c256 uir_r1_a5_k5_s1_e4_c256 mqa_r1_k3_h4_s1_d64_c256 "
    "uir_r1_a5_k0_s1_e4_c256 mqa_r1_k3_h4_s1_d64_c256 uir_r1_a5_k0_s1_e4_c256",
    "cn_r1_k1_s1_c960",
)
_V4_HYBRID_LARGE = define(
    "er_r1_k3_s2_e4_c48",
    "uir_r1_a3_k5_s2_e4_c96 uir_r1_a3_k3_s1_e4_c96",
    "uir_r1_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_r1_a3_k5_s1_e4_c192 "
    "uir_r2_a5_k3_s1_e4_c192 mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a5_k3_s1_e4_c192 "
    "mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a5_k3_s1_e4_c192 mqa_r1_k3_h8_s1_v2_d48_c192 "
    "uir_r1_a5_k3_s1_e4_c192 mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a3_k0_s1_e4_c192",
    "uir_r4_a5_k5_s2_e4_c512 uir_r1_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 "
    "uir_r2_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 uir_r1_a5_k5_s1_e4_c512 "
    "mqa_r1_k3_h8_s1_d64_c512 uir_r1_a5_k0_s1_e4_c512 mqa_r1_k3_h8_s1_d64_c512 "
    "uir_r1_a5_k0_s1_e4_c512 mqa_r1_k3_h8_s1_d64_c512 uir_r1_a5_k0_s1_e4_c512 "
    "mqa_r1_k3_h8_s1_d64_c512 uir_r1_a5_k0_s1_e4_c512",
    "cn_r1_k1_s1_c960",
)


def architecture(build: Callable[..., MobileNetV3], blocks: Definition) -> Architecture:
    """Returns the architecture of the network that `build` makes with these blocks."""
    return Architecture(
        build=functools.partial(build, definition=blocks),
        classifier=MobileNetV3.classifier,
        stem="conv_stem",
        stages=feature_modules(blocks),
    )


def _v3(
    blocks: Definition,
    width: float = 1.0,
    depth: float = 1.0,
    *,
    act: layers.Act = layers.hard_swish,
    tensorflow: bool = False,
) -> Architecture:
    """MobileNetV3; below a width of 0.75 it keeps the width of the stem."""
    build = functools.partial(
        MobileNetV3,
        width=width,
        depth=depth,
        stem_width=16 if width < 0.75 else round_width(16, width),
        head_width=1024 if blocks in (_SMALL, _SMALL_MINIMAL) else 1280,
        act=act,
        padding="same" if tensorflow else "symmetric",
        epsilon=1e-3 if tensorflow else 1e-5,
    )
    return architecture(build, blocks)


def _rw() -> Architecture:
    """MobileNetV3-Large as timm trained it before it had the weights of TensorFlow."""
    build = functools.partial(
        MobileNetV3, head_bias=False, squeezed_act=None, squeeze_round=round, epsilon=1e-3
    )
    return architecture(build, _RW)


def _fbnet(blocks: Definition, stem_width: int) -> Architecture:
    build = functools.partial(
        MobileNetV3,
        stem_width=stem_width,
        head_width=1984,
        head_bias=False,
        squeezed_act=None,
        squeeze_base="inputs",
        squeeze_round=functools.partial(round_width, limit=0.95),
    )
    return architecture(build, blocks)


def _lcnet(width: float) -> Architecture:
    stem_width = round_width(16, width)
    build = functools.partial(MobileNetV3, width=width, stem_width=stem_width, squeeze_round=round)
    return architecture(build, _LCNET)


def _v4(
    blocks: Definition,
    stem_width: int,
    width: float = 1.0,
    *,
    act: layers.Act = layers.relu,
    subsample: Literal["stride", "blur", "average"] = "stride",
    hybrid: bool = False,
) -> Architecture:
    """MobileNetV4; `width` does not scale the stem."""
    build = functools.partial(
        MobileNetV3,
        width=width,
        stem_width=stem_width,
        head_bias=False,
        head_norm=True,
        act=act,
        subsample=subsample,
        hybrid=hybrid,
    )
    return architecture(build, blocks)


ARCHITECTURES = {
    "mobilenetv3_small_050": _v3(_SMALL, 0.5),
    "mobilenetv3_small_075": _v3(_SMALL, 0.75),
    "mobilenetv3_small_100": _v3(_SMALL),
    "mobilenetv3_large_075": _v3(_LARGE, 0.75),
    "mobilenetv3_large_100": _v3(_LARGE),
    "mobilenetv3_large_150d": _v3(_LARGE, 1.5, 1.2),
    "mobilenetv3_rw": _rw(),
    "tf_mobilenetv3_small_075": _v3(_SMALL, 0.75, tensorflow=True),
    "tf_mobilenetv3_small_100": _v3(_SMALL, tensorflow=True),
    "tf_mobilenetv3_small_minimal_100": _v3(_SMALL_MINIMAL, act=layers.relu, tensorflow=True),
    "tf_mobilenetv3_large_075": _v3(_LARGE, 0.75, tensorflow=True),
    "tf_mobilenetv3_large_100": _v3(_LARGE, tensorflow=True),
    "tf_mobilenetv3_large_minimal_100": _v3(_LARGE_MINIMAL, act=layers.relu, tensorflow=True),
    "fbnetv3_b": _fbnet(_FBNET_B, 16),
    "fbnetv3_d": _fbnet(_FBNET_D, 24),
    "fbnetv3_g": _fbnet(_FBNET_G, 32),
    "lcnet_035": _lcnet(0.35),
    "lcnet_050": _lcnet(0.5),
    "lcnet_075": _lcnet(0.75),
    "lcnet_100": _lcnet(1.0),
    "lcnet_150": _lcnet(1.5),
    "mobilenetv4_conv_small_035": _v4(_V4_SMALL, 32, 0.35),
    "mobilenetv4_conv_small_050": _v4(_V4_SMALL, 32, 0.5),
    "mobilenetv4_conv_small": _v4(_V4_SMALL, 32),
    "mobilenetv4_conv_medium": _v4(_V4_MEDIUM, 32),
    "mobilenetv4_conv_aa_medium": _v4(_V4_MEDIUM, 32, subsample="average"),
    "mobilenetv4_conv_blur_medium": _v4(_V4_MEDIUM, 32, subsample="blur"),
    "mobilenetv4_conv_large": _v4(_V4_LARGE, 24),
    "mobilenetv4_conv_aa_large": _v4(_V4_LARGE, 24, subsample="average"),
    "mobilenetv4_hybrid_medium_075": _v4(_V4_HYBRID_MEDIUM, 32, 0.75, hybrid=True),
    "mobilenetv4_hybrid_medium": _v4(_V4_HYBRID_MEDIUM, 32, hybrid=True),
    "mobilenetv4_hybrid_large_075": _v4(_V4_HYBRID_LARGE, 24, 0.75, act=layers.gelu, hybrid=True),
    "mobilenetv4_hybrid_large": _v4(_V4_HYBRID_LARGE, 24, act=layers.gelu, hybrid=True),
}

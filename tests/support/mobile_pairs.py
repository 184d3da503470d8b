"""Tiny networks of definition strings beside the same ones of timm's."""

import functools

import torch

from tests.support.pairs import CLASSES, Pair, numbered, timm, timm_file
from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import efficientnet, mobilenetv3
from tl_jax.models.families.efficientnet_builder import Definition, define

_BLOCKS = define("""
cn_r1_k3_s1_e1_c16_skip
er_r1_k3_s2_e2_c16 ir_r1_k5_s1_e2_c16_se0.25
ds_r1_k3_s2_c24_se0.25 ir_r1_k3_s1_e2_c24_noskip
""")
_CONVOLUTIONS = define("""
ir_r1_k3_s1_e2_c16_cc3
ir_r1_k3.5_a1.1_p1.1_s2_e2_c16_se0.5_nre
er_r1_k3_s1_e2_c16_fc8_gs8
""")
_SPACE_TO_DEPTH = define("""
ds_r2_k3_s1_c8_d1_se0.25
ir_r1_k5_s2_e4_c16
er_r1_k3_s2_e2_c24
""")


def _decoded(definition: Definition) -> list:
    return timm_file("_efficientnet_builder").decode_arch_def([list(stage) for stage in definition])


def _drops(block: torch.nn.Module) -> bool:
    return block.has_skip


def _efficientnet(definition: Definition, *, peer: dict | None = None, **fields) -> Pair:
    network = efficientnet.EfficientNet(
        definition=definition, stem=16, head=32, num_classes=CLASSES, **fields
    )
    stages = ("bn1", *numbered("blocks.{}", len(definition)))
    make = timm_file("efficientnet").EfficientNet
    return Pair(
        "efficientnet",
        Architecture(network, "conv_stem", stages),
        lambda **rates: make(
            _decoded(definition), num_classes=CLASSES, stem_size=16, num_features=32,
            **{"act_layer": torch.nn.SiLU, **(peer or {})}, **rates,
        ),
        drops=_drops,
    )  # fmt: skip


_tf_norm = functools.partial(timm.layers.BatchNormAct2d, eps=1e-3)
EFFICIENTNET = {
    "efficientnet": _efficientnet(_BLOCKS),
    "efficientnet, tf": _efficientnet(
        _CONVOLUTIONS, padding="same", epsilon=1e-3, act=layers.relu6,
        peer={"pad_type": "same", "norm_layer": _tf_norm, "act_layer": torch.nn.ReLU6},
    ),
    "efficientnet, space to depth and blur": _efficientnet(
        _SPACE_TO_DEPTH, blur=True, attention="gc",
        peer={"aa_layer": "blurpc", "se_layer": "gc"},
    ),
}  # fmt: skip

_HYBRID = define("""
er_r1_k3_s2_e2_c16
uir_r1_a3_k5_s2_e2_c24 mqa_r1_k3_h2_s1_v2_d8_c24 uir_r1_a3_k0_s1_e2_c24
mqa_r1_k3_h3_s1_d8_c24 uir_r1_a0_k0_s1_e2_c24
""")
_STRIDED = define("""
er_r1_k3_s2_e2_c16
uir_r2_a3_k5_s2_e2_c24
cn_r1_k1_s1_c40
""")
_V3 = define("""
ds_r1_k3_s2_c16_se0.25_nre
ir_r2_k5_s2_e2_c24_se0.25
cn_r1_k1_s1_c40
""")


def _mobilenet(definition: Definition, *, peer: dict, **fields) -> Pair:
    network = mobilenetv3.MobileNetV3(
        definition=definition, stem_width=16, head_width=48, num_classes=CLASSES, **fields
    )
    make = timm_file("mobilenetv3").MobileNetV3
    return Pair(
        "mobilenetv3",
        Architecture(network, "conv_stem", ("bn1", *numbered("blocks.{}", len(definition)))),
        lambda **rates: make(
            _decoded(definition), num_classes=CLASSES, stem_size=16, num_features=48,
            **peer, **rates,
        ),
        drops=_drops,
    )  # fmt: skip


_squeeze_excite = functools.partial(
    timm_file("_efficientnet_blocks").SqueezeExcite,
    gate_layer="hard_sigmoid",
    force_act_layer=torch.nn.ReLU,
    rd_round_fn=timm_file("_efficientnet_builder").round_channels,
)
_V4 = {"head_bias": False, "head_norm": True, "act": layers.gelu, "hybrid": True}
_TIMM_V4 = {
    "head_bias": False,
    "head_norm": True,
    "act_layer": torch.nn.GELU,
    "layer_scale_init_value": 1e-5,
}
MOBILENET = {
    "mobilenetv3": _mobilenet(
        _V3, peer={"act_layer": torch.nn.Hardswish, "se_layer": _squeeze_excite}
    ),
    "mobilenetv4, hybrid": _mobilenet(_HYBRID, peer=_TIMM_V4, **_V4),
    "mobilenetv4, averages": _mobilenet(
        _STRIDED, subsample="average", peer={**_TIMM_V4, "aa_layer": "avg"}, **_V4
    ),
}

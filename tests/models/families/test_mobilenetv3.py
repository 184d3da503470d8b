"""MobileNetV3 and its kin: MobileNetV4's blocks against timm's, fresh weights, drops, types."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.models.peers import (
    check_bfloat16,
    check_drop_paths,
    check_fresh,
    check_logits,
    random_variables,
)
from tl_jax.models import layers
from tl_jax.models.families import hardcorenas, mobilenetv3
from tl_jax.weights.state_dict import abstract_variables, to_state_dict

timm = import_timm()
mnv3, builder = timm.models.mobilenetv3, timm.models._efficientnet_builder

HYBRID = mobilenetv3.define(
    "er_r1_k3_s2_e2_c16",
    "uir_r1_a3_k5_s2_e2_c24 mqa_r1_k3_h2_s1_v2_d8_c24 uir_r1_a3_k0_s1_e2_c24",
    "mqa_r1_k3_h3_s1_d8_c24 uir_r1_a0_k0_s1_e2_c24",
)
STRIDED = mobilenetv3.define("er_r1_k3_s2_e2_c16", "uir_r1_a3_k5_s2_e2_c24", "cn_r1_k1_s1_c40")
TINY_HYBRID = mobilenetv3.MobileNetV3(
    definition=HYBRID, stem_width=16, head_width=48, head_bias=False, head_norm=True,
    act=layers.gelu, hybrid=True, num_classes=5,
)  # fmt: skip
TINY_V3 = mobilenetv3.MobileNetV3(
    definition=mobilenetv3.define("ds_r1_k3_s2_c16_se0.25_nre", "ir_r2_k5_s2_e2_c24_se0.25"),
    head_width=32,
    num_classes=5,
)
TINY = {"hybrid": TINY_HYBRID, "v3": TINY_V3}
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)


def timm_network(
    definition: tuple, *, stem_width: int = 16, aa_layer: str | None = None,
    drop_path_rate: float = 0.0,
) -> torch.nn.Module:  # fmt: skip
    """Returns timm's network of the same blocks in the place of `TINY_HYBRID`."""
    torch.manual_seed(0)
    return mnv3.MobileNetV3(
        builder.decode_arch_def([list(stage) for stage in definition]),
        num_classes=5, stem_size=stem_width, num_features=48, head_bias=False, head_norm=True,
        act_layer=torch.nn.GELU, aa_layer=aa_layer, layer_scale_init_value=1e-5,
        drop_path_rate=drop_path_rate,
    )  # fmt: skip


@pytest.mark.parametrize(
    "definition, aa_layer, subsample",
    [
        (HYBRID, None, "stride"),
        (STRIDED, "avg", "average"),
        (STRIDED, "blurpc", "blur"),
    ],
)
def test_blocks_of_mobilenetv4_equal_timms(definition, aa_layer, subsample):
    theirs = timm_network(definition, aa_layer=aa_layer)
    model = TINY_HYBRID.clone(definition=definition, subsample=subsample)
    check_logits(model, theirs, IMAGES, rtol=1e-4)


def test_fresh_weights_are_drawn_as_timms():
    definition = mobilenetv3.define("mqa_r1_k3_h4_s1_v2_d16_c32 uir_r1_a3_k0_s1_e2_c32")
    model = TINY_HYBRID.clone(definition=definition, stem_width=32)
    ours = to_state_dict(jax.jit(model.init)(jax.random.key(0), IMAGES))
    theirs = timm_network(definition, stem_width=32).state_dict()
    check_fresh(ours, theirs, classifier=model.classifier)


def test_drop_path_rates_are_timms():
    theirs = timm_network(HYBRID, drop_path_rate=0.2)
    model = TINY_HYBRID.clone(drop_path_rate=0.2)
    rates = check_drop_paths(model, theirs, IMAGES, acts=lambda block: block.has_skip)
    assert len(rates) == 4


def test_dropout_zeroes_what_the_classifier_sees_in_training():
    model = TINY_V3.clone(num_classes=0, drop_rate=0.5)
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    dropped = apply(random_variables(model), IMAGES, rngs={"dropout": jax.random.key(1)})[0] == 0
    assert 0.3 < dropped.mean() < 0.7


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_holds_for_the_map_and_not_for_the_logits(family):
    check_bfloat16(TINY[family], IMAGES)


@pytest.mark.parametrize("family", TINY)
def test_parts_of_the_head_are_left_out(family):
    pooled = TINY[family].clone(num_classes=0)
    bare = pooled.clone(global_pool="")
    whole, kept, body = (
        set(abstract_variables(model)["params"]) for model in (TINY[family], pooled, bare)
    )
    assert whole - kept == {"classifier"}
    assert kept - body == {"hybrid": {"conv_head", "norm_head"}, "v3": {"conv_head"}}[family]
    width = TINY[family].head_width
    assert jax.eval_shape(pooled.apply, abstract_variables(pooled), IMAGES).shape == (2, width)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels):
    shapes = abstract_variables(TINY_V3.clone(in_channels=channels))
    assert shapes["params"]["conv_stem"]["kernel"].shape == (3, 3, channels, 16)


def test_lcnet_has_no_branch_to_drop():
    with pytest.raises(ValueError, match="no residual branch"):
        mobilenetv3.ARCHITECTURES["lcnet_050"].build(drop_path_rate=0.1)
    assert hardcorenas.ARCHITECTURES["hardcorenas_a"].build(drop_path_rate=0.1)

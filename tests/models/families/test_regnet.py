"""RegNet: the widths, torchvision's names, equality with timm on small networks, drop rates."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import create_peer, import_timm
from tests.models.peers import check_bfloat16, check_drop_paths, check_fresh, check_logits
from tl_jax.models import layers
from tl_jax.models.families import regnet
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
THEIRS = timm.models.regnet
IMAGES = np.random.default_rng(0).normal(size=(2, 35, 47, 3)).astype(np.float32)
# Widths 16, 24, 40 and 56 with bottleneck ratio 1.
RULE = regnet.WidthRule(16, 10.7, 1.5, 8, 5)
TINY = {
    "y": regnet.RegNet(rule=RULE, se_ratio=0.25, num_classes=5),
    "z": regnet.RegNet(
        rule=RULE._replace(bottle_ratio=2.0), block=regnet.LinearBottleneck, act=layers.silu,
        se_ratio=0.25, head_width=48, num_classes=5,
    ),
    "v": regnet.RegNet(
        rule=RULE, block=regnet.AveragingPreBottleneck, act=layers.silu, num_classes=5
    ),
}  # fmt: skip


def config(kind: str) -> "THEIRS.RegNetCfg":
    """Returns timm's description of the same network."""
    rule = {"w0": RULE.w0, "wa": RULE.wa, "wm": RULE.wm, "group_size": RULE.group_size}
    make = functools.partial(THEIRS.RegNetCfg, depth=RULE.depth, **rule)
    if kind == "y":
        return make(se_ratio=0.25)
    if kind == "z":
        return make(
            bottle_ratio=2.0, downsample=None, linear_out=True, act_layer="silu", se_ratio=0.25,
            num_features=48,
        )  # fmt: skip
    return make(preact=True, downsample="avg", act_layer="silu")


def peer(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return THEIRS.RegNet(config(kind), num_classes=5, zero_init_last=kind != "z")


@pytest.mark.parametrize("name", regnet.ARCHITECTURES)
def test_stages_follow_the_rule_as_timms(name):
    theirs = THEIRS.model_cfgs[name]
    widths, _, groups = THEIRS.generate_regnet(
        theirs.wa, theirs.w0, theirs.wm, theirs.depth, theirs.group_size
    )
    depths = [widths.count(width) for width in sorted(set(widths))]
    ratios = [theirs.bottle_ratio] * len(depths)
    widths, group_sizes = THEIRS.adjust_widths_groups_comp(
        sorted(set(widths)), ratios, groups, theirs.group_min_ratio
    )
    inner = [round(width * theirs.bottle_ratio) for width in widths]
    groups = [wide // size for wide, size in zip(inner, group_sizes, strict=True)]
    expected = tuple(zip(depths, widths, inner, groups, strict=True))
    assert regnet.ARCHITECTURES[name].build().rule.stages() == expected


@pytest.mark.parametrize("kind", ["z", "v"])
def test_small_networks_are_timms(kind):
    """Odd maps, shortcuts that are missing or average, the convolution at the top."""
    check_logits(TINY[kind], peer(kind), IMAGES)


@pytest.mark.parametrize("kind", ["y", "z"])
def test_fresh_weights_are_drawn_as_timms(kind):
    model = TINY[kind]
    fresh = to_state_dict(jax.jit(model.init)(jax.random.key(0, impl="unsafe_rbg"), IMAGES))
    check_fresh(fresh, peer(kind).state_dict(), classifier=model.classifier)


@pytest.mark.parametrize("kind", TINY)
def test_drop_path_rates_are_timms(kind):
    """Where Z has no shortcut nothing is dropped."""
    theirs = THEIRS.RegNet(config(kind), num_classes=5, drop_path_rate=0.2)
    model = TINY[kind].clone(drop_path_rate=0.2)
    check_drop_paths(model, theirs, IMAGES, acts=lambda block: block.downsample is not None)


@pytest.mark.parametrize("group_norm", [None, 8])
@pytest.mark.parametrize("kind", TINY)
def test_bfloat16_maps_and_float32_logits(kind, group_norm):
    model = TINY[kind].clone(group_norm=group_norm, in_channels=1)
    variables, feature_map = check_bfloat16(model, IMAGES[..., :1])
    assert ("batch_stats" in variables) == (group_norm is None)
    assert feature_map.shape[:3] == (2, 2, 2)


def test_torchvisions_names_become_timms():
    theirs = create_peer("torchvision/regnet_y_400mf", 5).state_dict()
    expected = {key: value.shape for key, value in theirs.items()}
    timms = create_peer("regnety_004", 5).state_dict()
    renamed = {regnet.rename(key): shape for key, shape in expected.items()}
    assert renamed == {key: value.shape for key, value in timms.items()}
    assert all(regnet.rename(key) == key for key in timms)

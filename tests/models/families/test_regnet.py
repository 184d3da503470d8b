"""RegNet: the widths that follow from its rule, GroupNorm, and torchvision's names."""

import jax
import jax.numpy as jnp
import pytest

from experiments.torch_peer import create_peer
from tests.support.families import PAIRS
from tests.support.pairs import timm_file
from tests.support.peers import check_bfloat16
from tl_jax.models.families import regnet


@pytest.mark.parametrize("name", regnet.NETWORKS)
def test_stages_follow_the_rule_as_timms(name):
    file = timm_file("regnet")
    theirs = file.model_cfgs[name]
    widths, _, groups = file.generate_regnet(
        theirs.wa, theirs.w0, theirs.wm, theirs.depth, theirs.group_size
    )
    depths = [widths.count(width) for width in sorted(set(widths))]
    ratios = [theirs.bottle_ratio] * len(depths)
    widths, group_sizes = file.adjust_widths_groups_comp(
        sorted(set(widths)), ratios, groups, theirs.group_min_ratio
    )
    inner = [round(width * theirs.bottle_ratio) for width in widths]
    groups = [wide // size for wide, size in zip(inner, group_sizes, strict=True)]
    expected = tuple(zip(depths, widths, inner, groups, strict=True))
    assert regnet.NETWORKS[name].rule.stages() == expected


@pytest.mark.parametrize("name", ["regnet y", "regnet z", "regnet v"])
def test_group_norm_takes_the_place_of_batch_norm(name):
    model = PAIRS[name].network.clone(group_norm=8)
    images = jax.ShapeDtypeStruct((2, 35, 47, 3), jnp.float32)
    variables, feature_map = check_bfloat16(model, images)
    assert "batch_stats" not in variables
    assert feature_map.shape[:3] == (2, 2, 2)


def test_torchvisions_names_become_timms():
    theirs = create_peer("torchvision/regnet_y_400mf", 5).state_dict()
    expected = {key: value.shape for key, value in theirs.items()}
    timms = create_peer("regnety_004", 5).state_dict()
    renamed = {regnet.rename(key): shape for key, shape in expected.items()}
    assert renamed == {key: value.shape for key, value in timms.items()}
    assert all(regnet.rename(key) == key for key in timms)

"""What only the networks without normalisation have: expected deviations, gains, widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.models.peers import check_bfloat16, check_drop_paths, check_fresh
from tl_jax.models.families import nfnet
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
IMAGES = np.random.default_rng(0).normal(size=(1, 21, 17, 3)).astype(np.float32)
KEY = jax.random.key(0, impl="unsafe_rbg")  # It compiles in less time than the default.
DEPTHS, WIDTHS = (1, 2, 1, 1), (16, 24, 32, 40)


def tiny(name: str, **fields) -> nfnet.NormFreeNet:
    """Returns a network of an architecture's kind with few and narrow blocks."""
    build = nfnet.ARCHITECTURES[name].build
    fields = {"num_classes": 5, "stem_width": 16, "depths": DEPTHS, "widths": WIDTHS, **fields}
    if build.keywords.get("final_width", True):
        fields["final_width"] = 48
    if build.keywords.get("group_size", True):
        fields["group_size"] = 8
    return build(**fields)


def tiny_of_timm(name: str, **fields) -> torch.nn.Module:
    config = timm.models.nfnet.model_cfgs[name]
    changes = {
        "depths": DEPTHS,
        "channels": WIDTHS,
        "stem_chs": 16,
        "width_factor": 1.0,
        "num_features": 48 if config.num_features else 0,
        "group_size": 8 if config.group_size else None,
    }
    torch.manual_seed(0)
    return timm.models.nfnet.NormFreeNet(config, num_classes=5, **{**changes, **fields})


@pytest.mark.parametrize("depths", [(1, 3, 2, 4), (2, 1, 1, 3)])
def test_expected_deviations_are_timms(depths):
    stages = tiny_of_timm("nf_regnet_b0", depths=depths).stages
    expected = [[block.beta for block in stage] for stage in stages]
    assert [list(stage) for stage in nfnet.expected_betas(depths)] == [
        pytest.approx(stage) for stage in expected
    ]


@pytest.mark.parametrize("name", ["dm_nfnet_f0", "nf_ecaresnet26"])
def test_fresh_weights_are_drawn_as_timms(name):
    model = tiny(name, num_classes=0, depths=(1,), widths=WIDTHS[:1]).clone(final_width=0)
    theirs = tiny_of_timm(name).state_dict()
    fresh = to_state_dict(jax.jit(model.init)(KEY, IMAGES))
    # ECA draws a few uniform values.
    few = {key for key, value in fresh.items() if key.endswith("weight") and value.ndim == 3}
    for key in few:
        assert np.abs(fresh[key]).max() <= 1 / np.sqrt(fresh[key].size)
    check_fresh(fresh, {key: theirs[key] for key in fresh.keys() - few})


@pytest.mark.parametrize("name", ["dm_nfnet_f0", "nf_regnet_b0", "eca_nfnet_l0", "nf_seresnet26"])
def test_bfloat16_maps_and_float32_logits(name):
    image = jax.ShapeDtypeStruct((2, 40, 50, 1), jnp.float32)
    _, feature_map = check_bfloat16(tiny(name, in_channels=1), image)
    assert feature_map.shape[:3] == (2, 2, 2)


@pytest.mark.parametrize("name", ["nfnet_f0", "nf_regnet_b0"])
def test_drop_path_rates_are_timms(name):
    theirs = tiny_of_timm(name, drop_path_rate=0.4)
    check_drop_paths(tiny(name, drop_path_rate=0.4), theirs, IMAGES)

"""What only the networks without normalisation have: expected deviations, gains, widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm
from tl_jax.models import layers, nfnet
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
    """Gains, scales and biases are equal, kernels have the same spread."""
    model = tiny(name, num_classes=0, depths=(1,), widths=WIDTHS[:1]).clone(final_width=0)
    theirs = tiny_of_timm(name).state_dict()
    for key, value in to_state_dict(jax.jit(model.init)(KEY, IMAGES)).items():
        if key.endswith("weight") and value.ndim == 3:  # ECA draws a few uniform values.
            assert np.abs(value).max() <= 1 / np.sqrt(value.size)
        elif key.endswith("weight"):
            spread = 5 / np.sqrt(value.size)
            np.testing.assert_allclose(value.std(), theirs[key].std(), rtol=spread, err_msg=key)
        else:
            np.testing.assert_array_equal(value, theirs[key], err_msg=key)


@pytest.mark.parametrize("name", ["dm_nfnet_f0", "nf_regnet_b0", "eca_nfnet_l0", "nf_seresnet26"])
def test_bfloat16_maps_and_float32_logits(name):
    model = tiny(name, dtype=jnp.bfloat16, in_channels=1)
    image = jax.ShapeDtypeStruct((2, 40, 50, 1), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    bare = model.clone(num_classes=0, global_pool="")
    features = jax.eval_shape(bare.apply, variables, image)
    assert (features.shape[:3], features.dtype) == ((2, 2, 2), jnp.bfloat16)


@pytest.mark.parametrize("name", ["nfnet_f0", "nf_regnet_b0"])
def test_drop_path_rates_are_timms(name):
    expected = {
        name: module.drop_prob
        for name, module in tiny_of_timm(name, drop_path_rate=0.4).named_modules()
        if isinstance(module, timm.layers.DropPath)
    }
    rates = {}

    def record(following, args, kwargs, context):
        if isinstance(context.module, layers.DropPath):
            assert kwargs == {"train": True}
            rates[".".join(context.module.path)] = context.module.rate
        return following(*args, **kwargs)

    model = tiny(name, drop_path_rate=0.4)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(model.init, train=True), rngs, IMAGES)
    assert {name: rate for name, rate in rates.items() if rate} == pytest.approx(expected)

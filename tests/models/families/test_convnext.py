"""What only ConvNeXt has: its norms, the order of its top, names of the original checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.models.peers import check_bfloat16, check_drop_paths, check_fresh, in_torch
from tl_jax.models.families import convnext
from tl_jax.weights.state_dict import from_state_dict, to_state_dict

timm = import_timm()
IMAGES = np.random.default_rng(0).normal(size=(2, 45, 39, 3)).astype(np.float32)
KEY = jax.random.key(0, impl="unsafe_rbg")  # It compiles in less time than the default.
SMALL = {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, 24)}
TIMM_SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24), "ls_init_value": 0.5}


def small(**fields) -> convnext.ConvNeXt:
    """Returns a small network that is named and scaled as timm's of `TIMM_SMALL`."""
    return convnext.ConvNeXt(**{**SMALL, "num_classes": 5, "layer_scale": 0.5, **fields})


@functools.cache
def feature_map() -> np.ndarray:
    x = np.random.default_rng(1).normal(1.0, 2.0, size=(2, 3, 4, 6)).astype(np.float32)
    x[0, :, :, 2] = 0.0  # A channel that is dead on one image.
    return x


def test_simple_norm_is_timms():
    theirs = timm.layers.SimpleNorm2d(6)
    weight = np.linspace(0.5, 2.0, 6, dtype=np.float32)
    theirs.weight.data = torch.from_numpy(weight)
    ours = convnext.SimpleNorm().apply({"params": {"scale": weight}}, feature_map())
    expected = theirs(in_torch(feature_map())).detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_global_response_norm_and_its_gradient_are_timms_where_a_channel_is_dead():
    theirs = timm.layers.grn.GlobalResponseNorm(6)
    rng = np.random.default_rng(2)
    params = {name: rng.normal(size=6).astype(np.float32) for name in ("scale", "bias")}
    theirs.weight.data = torch.from_numpy(params["scale"])
    theirs.bias.data = torch.from_numpy(params["bias"])
    weights = rng.normal(size=feature_map().shape).astype(np.float32)

    x = torch.from_numpy(feature_map()).requires_grad_()
    expected = theirs(x)
    (expected * torch.from_numpy(weights)).sum().backward()

    def scalar(x):
        y = convnext.GlobalResponseNorm().apply({"params": params}, x)
        return jnp.sum(y * weights), y

    gradient, ours = jax.grad(scalar, has_aux=True)(feature_map())
    np.testing.assert_allclose(ours, expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        ({"hidden": 7, "epsilon": 1e-5}, {"head_hidden_size": 7, "norm_eps": 1e-5}),
        ({"norm_before_pool": True, "conv_mlp": True}, {"head_norm_first": True, "conv_mlp": True}),
    ],
)
def test_features_before_and_after_the_top_are_timms(fields, theirs):
    torch.manual_seed(0)
    theirs = {**TIMM_SMALL, "kernel_sizes": 3, **theirs}
    network = timm.models.convnext.ConvNeXt(num_classes=0, **theirs).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.4)
    model = small(num_classes=0, kernel_sizes=(3, 3, 3, 3), **fields)
    bare = model.clone(global_pool="")
    variables = from_state_dict(model, network.state_dict())

    @jax.jit
    def run(variables):
        return bare.apply(variables, IMAGES), model.apply(variables, IMAGES)

    with torch.no_grad():
        expected_map = network.forward_features(in_torch(IMAGES))
        expected = network.forward_head(expected_map, pre_logits=True)
    found_map, found = run(variables)
    np.testing.assert_allclose(found_map, expected_map.permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("global_response", [False, True])
def test_bfloat16_maps_and_float32_logits(global_response):
    model = small(hidden=6, global_response=global_response, in_channels=1)
    variables, feature_map = check_bfloat16(model, IMAGES[..., :1])
    assert variables["params"]["stem.0"]["kernel"].shape == (4, 4, 1, 8)
    assert feature_map.shape == (2, 1, 1, 24)


def test_fresh_weights_are_drawn_as_timms():
    torch.manual_seed(0)
    theirs = timm.models.convnext.ConvNeXt(use_grn=True, **TIMM_SMALL).state_dict()
    model = small(depths=(1, 1), widths=(8, 12), kernel_sizes=(7, 7), global_response=True)
    bare = model.clone(num_classes=0, global_pool="")
    fresh = to_state_dict(jax.jit(bare.init)(KEY, IMAGES))
    check_fresh(fresh, {key: theirs[key] for key in fresh})


def test_drop_path_rates_are_timms():
    model = small(depths=(1, 2, 1, 1), drop_path_rate=0.4)
    theirs = timm.models.convnext.ConvNeXt(
        depths=(1, 2, 1, 1), dims=SMALL["widths"], drop_path_rate=0.4
    )
    check_drop_paths(model, theirs, IMAGES)


@pytest.mark.parametrize(
    ("original", "timms"),
    [
        ("downsample_layers.0.1.bias", "stem.1.bias"),
        ("downsample_layers.3.0.weight", "stages.3.downsample.0.weight"),
        ("stages.2.10.dwconv.weight", "stages.2.blocks.10.conv_dw.weight"),
        ("stages.0.0.pwconv1.bias", "stages.0.blocks.0.mlp.fc1.bias"),
        ("stages.0.1.norm.weight", "stages.0.blocks.1.norm.weight"),
        ("stages.0.1.gamma", "stages.0.blocks.1.gamma"),
        ("stages.0.1.grn.gamma", "stages.0.blocks.1.mlp.grn.weight"),
        ("norm.weight", "head.norm.weight"),
        ("head.bias", "head.fc.bias"),
    ],
)
def test_original_names_become_timms(original, timms):
    assert convnext.rename(original) == timms
    renamed = timm.models.convnext.checkpoint_filter_fn({original: torch.zeros(2)}, None)
    assert list(renamed) == [timms]


@pytest.mark.parametrize("arch", ["convnext_atto", "convnextv2_tiny", "convnext_large_mlp"])
def test_timms_own_names_stay(arch):
    with torch.device("meta"):
        keys = timm.create_model(arch).state_dict()
    assert [key for key in keys if convnext.rename(key) != key] == []

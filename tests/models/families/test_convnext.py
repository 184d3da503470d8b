"""What only ConvNeXt has: its norms, and the names of the original checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.peers import in_torch
from tl_jax.models.families import convnext

timm = import_timm()


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

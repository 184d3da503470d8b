"""Tests of normalisation layers against torch's and timm's, and of their statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.torch_layers import KEY, converted, maps, nchw, nhwc, randomise
from tl_jax import trees
from tl_jax.models import layers

timm = import_timm()
evo, norm = timm.layers.evo_norm, timm.layers.norm
frn = timm.layers.filter_response_norm

PAIRS = {
    "batch": lambda: (layers.BatchNorm(), torch.nn.BatchNorm2d(8)),
    "batch, epsilon": lambda: (layers.BatchNorm(epsilon=1e-3), torch.nn.BatchNorm2d(8, eps=1e-3)),
    "batch, act": lambda: (layers.BatchNorm(act=layers.relu), timm.layers.BatchNormAct2d(8)),
    "group": lambda: (layers.GroupNorm(groups=4), norm.GroupNorm(8, 4)),
    "group size": lambda: (
        layers.GroupNorm(group_size=2, epsilon=1e-3),
        norm.GroupNorm(8, 4, eps=1e-3),
    ),
    "layer": lambda: (layers.LayerNorm(), norm.LayerNorm2d(8)),
    "rms": lambda: (layers.RmsNorm(), norm.RmsNorm2d(8)),
    "evo b0": lambda: (layers.EvoNormB0(), evo.EvoNorm2dB0(8)),
    "evo b0, affine": lambda: (
        layers.EvoNormB0(activate=False),
        evo.EvoNorm2dB0(8, apply_act=False),
    ),
    "evo s0": lambda: (layers.EvoNormS0(groups=4), evo.EvoNorm2dS0(8, groups=4)),
    "evo s0, affine": lambda: (
        layers.EvoNormS0(groups=4, activate=False),
        evo.EvoNorm2dS0(8, groups=4, apply_act=False),
    ),
    "evo s0a, affine": lambda: (
        layers.EvoNormS0(groups=4, activate=False, always_normalise=True, epsilon=1e-3),
        evo.EvoNorm2dS0a(8, groups=4, apply_act=False),
    ),
    "filter response": lambda: (layers.FilterResponseNorm(), frn.FilterResponseNormTlu2d(8)),
    "filter response, act": lambda: (
        layers.FilterResponseNorm(threshold=False, act=layers.relu),
        frn.FilterResponseNormAct2d(8),
    ),
}


@pytest.fixture(scope="module")
def outputs() -> dict:
    """Ours and theirs by name, in evaluation and in training mode; all of ours in one program."""
    x, modules, variables, ours = maps(3, 5, 7, 8), {}, {}, {}
    for name, pair in PAIRS.items():
        ours[name], modules[name] = pair()
        randomise(modules[name])
        variables[name] = converted(ours[name], modules[name], x, train=False)

    @jax.jit
    def run(variables, x):
        return {
            (name, train): layer.apply(variables[name], x, train=train, mutable=["batch_stats"])
            for name, layer in ours.items()
            for train in (False, True)
        }

    theirs = {
        (name, train): (nhwc(module.train(train)(nchw(x))), module)
        for name, module in modules.items()
        for train in (False, True)
    }
    return {key: (found, theirs[key]) for key, found in run(variables, x).items()}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_norms_equal_timms(outputs, name, train):
    (y, updated), (expected, module) = outputs[name, train]
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)
    if train:
        for path, value in trees.flatten(updated.get("batch_stats", {})).items():
            np.testing.assert_allclose(value, getattr(module, f"running_{path[-1]}"), rtol=1e-5)


def test_groups_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="8 channels do not divide into 3 groups"):
        layers.GroupNorm(groups=3).init(KEY, maps(1, 4, 4, 8))


def test_batch_norm_averages_the_unbiased_variance():
    """Three values per channel: the biased variance would be a third off."""
    x = maps(3, 1, 1, 5) * 7 + 10
    layer, theirs = layers.BatchNorm(), torch.nn.BatchNorm2d(5)
    variables = layer.init(KEY, x, train=False)
    y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, nhwc(theirs(nchw(x))), rtol=1e-4, atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_batch_norm_survives_a_large_mean():
    """In float32 E[x^2] - E[x]^2 has no digit left here; the running mean is close, as in use."""
    x = maps(8, 4, 4, 3) + 10_000
    layer = layers.BatchNorm()
    variables = layer.init(KEY, x, train=False)
    variables = {**variables, "batch_stats": {"mean": jnp.full(3, 9_999.5), "var": jnp.ones(3)}}
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_batch_norm_averages_over_a_named_axis():
    x = maps(4, 3, 2, 2, 5)
    whole, split = layers.BatchNorm(), layers.BatchNorm(axis_name="devices")
    variables = whole.init(KEY, x[0], train=False)
    apply = functools.partial(split.apply, train=True, mutable=["batch_stats"])
    y, updated = jax.jit(jax.vmap(apply, (None, 0), axis_name="devices"))(variables, x)
    merged = x.reshape(12, 2, 2, 5)
    expected, stats = whole.apply(variables, merged, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(merged.shape), expected, rtol=1e-5, atol=1e-5)
    for leaf in ("mean", "var"):
        ours, reference = updated["batch_stats"][leaf], stats["batch_stats"][leaf]
        np.testing.assert_allclose(ours, np.tile(reference, (4, 1)), rtol=1e-5, atol=1e-6)


def test_batch_norm_refuses_a_single_value_per_channel():
    layer, x = layers.BatchNorm(), jnp.ones((1, 1, 1, 4))
    variables = layer.init(KEY, x, train=False)
    with pytest.raises(ValueError, match="one value per channel"):
        layer.apply(variables, x, train=True, mutable=["batch_stats"])

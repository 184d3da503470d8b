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


# ---- derivatives of BatchNorm


def plain_batch_norm(x, scale, bias, *, train: bool):
    """The definition step by step, with jax's own derivatives; statistics 0.2 and 0.5 at first."""
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (0.2, 0.5)
    y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
    count = x.size // x.shape[-1]
    running = 0.9 * 0.2 + 0.1 * mean, 0.9 * 0.5 + 0.1 * var * count / (count - 1)
    return y, running if train else (0.2, 0.5)


def our_batch_norm(x, scale, bias, *, train: bool):
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": jnp.full(x.shape[-1], 0.2), "var": jnp.full(x.shape[-1], 0.5)},
    }
    layer = layers.BatchNorm(dtype=scale.dtype)
    y, updated = layer.apply(variables, x, train=train, mutable=["batch_stats"])
    return y, (updated["batch_stats"]["mean"], updated["batch_stats"]["var"])


def derivatives(batch_norm, x, scale, bias, weights, *, train: bool) -> dict:
    """Reverse mode of outputs and statistics, forward mode, second derivatives, and vmap."""

    def value(x, scale, bias):
        y, (mean, var) = batch_norm(x, scale, bias, train=train)
        return jnp.sum(weights * jnp.sin(y)) + jnp.sum(jnp.cos(3 * mean) + jnp.exp(var))

    inputs, direction = (x, scale, bias), (weights, bias, scale)
    grads = jax.grad(value, (0, 1, 2))
    halves = x.reshape(2, -1, *x.shape[1:])
    return {
        "grads": grads(*inputs),
        "jvp": jax.jvp(value, inputs, direction)[1],
        "second": jax.jvp(grads, inputs, direction)[1],
        "vmap": jax.vmap(lambda x: batch_norm(x, scale, bias, train=train)[0])(halves),
    }


@pytest.mark.parametrize("train", [False, True])
def test_batch_norms_derivatives_are_those_of_the_definition(train):
    with jax.enable_x64(True):
        x, weights = (jnp.asarray(maps(4, 3, 5, 6, seed=seed), jnp.float64) for seed in (0, 1))
        scale, bias = (jnp.linspace(low, 2.0, 6) for low in (0.5, -1.0))
        ours, expected = (
            jax.jit(functools.partial(derivatives, batch_norm, train=train))(
                x, scale, bias, weights
            )
            for batch_norm in (our_batch_norm, plain_batch_norm)
        )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10), ours, expected
    )


def test_a_bfloat16_map_is_normalised_in_float32():
    x = jnp.asarray(maps(64, 4, 4, 3) + 3, jnp.bfloat16)
    found, expected = (
        batch_norm(x.astype(dtype), jnp.ones(3), jnp.zeros(3), train=True)
        for batch_norm, dtype in ((our_batch_norm, x.dtype), (plain_batch_norm, jnp.float32))
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected
    )


@pytest.mark.parametrize("train", [False, True])
def test_batch_norms_gradients_equal_torchs(train):
    x, weights = maps(4, 3, 5, 8), maps(4, 3, 5, 8, seed=1)
    module = timm.layers.BatchNormAct2d(8)
    randomise(module)
    layer = layers.BatchNorm(act=layers.relu)
    variables = converted(layer, module, x, train=False)

    def value(params, x):
        y, _ = layer.apply({**variables, "params": params}, x, train=train, mutable=["batch_stats"])
        return jnp.sum(y * weights)

    ours, dx = jax.jit(jax.grad(value, (0, 1)))(variables["params"], x)
    images = nchw(x).requires_grad_()
    (module.train(train)(images) * nchw(weights)).sum().backward()
    np.testing.assert_allclose(dx, nhwc(images.grad), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(ours["scale"], module.weight.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours["bias"], module.bias.grad, rtol=1e-4, atol=1e-5)


def test_batch_norms_gradient_over_a_named_axis_is_that_of_the_whole_batch():
    x, weights = maps(4, 3, 2, 2, 5), maps(4, 3, 2, 2, 5, seed=1)
    whole, split = layers.BatchNorm(), layers.BatchNorm(axis_name="devices")
    variables = whole.init(KEY, x[0], train=False)

    def value(apply, params, x, weights):
        y, _ = apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y * weights)

    def split_value(params, x):
        parts = jax.vmap(functools.partial(value, split.apply), (None, 0, 0), axis_name="devices")
        return jnp.sum(parts(params, x, weights))

    merged = (array.reshape(12, 2, 2, 5) for array in (x, weights))
    found = jax.jit(jax.grad(split_value, (0, 1)))(variables["params"], x)
    expected = jax.grad(functools.partial(value, whole.apply), (0, 1))(variables["params"], *merged)
    found = (found[0], found[1].reshape(12, 2, 2, 5))
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(assert_close, found, expected)

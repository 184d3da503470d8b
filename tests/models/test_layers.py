"""Layers against torch's, where shapes alone would not tell a difference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tl_jax.models import layers

timm = import_timm()
KEY = jax.random.key(0)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("padding", ["symmetric", "same", 0])
@pytest.mark.parametrize(
    "side, stride, groups", [(3, 1, 1), (3, 2, 1), (5, 2, 8), (3, 1, 8), (1, 2, 1), (1, 1, 4)]
)
@pytest.mark.parametrize("size", [(11, 14), (12, 9)])
def test_conv_and_its_gradients_equal_torchs(padding, side, stride, groups, size):
    from timm.layers import create_conv2d

    x = maps(2, *size, 8)
    conv = layers.Conv(8, side, stride, padding, groups, use_bias=True)
    params = conv.init(KEY, x)["params"] | {"bias": jnp.arange(8.0)}
    timms = {"symmetric": "", "same": "same", 0: "valid"}[padding]
    theirs = create_conv2d(8, 8, side, stride=stride, padding=timms, groups=groups, bias=True)
    kernel = np.moveaxis(np.asarray(params["kernel"]), (-1, -2), (0, 1))
    theirs.load_state_dict({"weight": torch.tensor(kernel), "bias": torch.arange(8.0)})
    x_torch = nchw(x).requires_grad_()
    expected = theirs(x_torch)
    weights = maps(*nhwc(expected).shape, seed=1)
    (expected * nchw(weights)).sum().backward()

    def loss(params, x):
        y = conv.apply({"params": params}, x)
        return jnp.sum(y * weights), y

    (grads, x_grad), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
    close(y, nhwc(expected))
    close(x_grad, nhwc(x_torch.grad))
    close(np.moveaxis(np.asarray(grads["kernel"]), (-1, -2), (0, 1)), theirs.weight.grad)


def test_symmetric_padding_is_not_same_padding():
    x = maps(1, 8, 8, 3)
    conv = layers.Conv(4, 3, 2)
    variables = conv.init(KEY, x)
    same = layers.Conv(4, 3, 2, "same").apply(variables, x)
    assert not np.allclose(conv.apply(variables, x), same, atol=0.1)


def test_batch_norm_keeps_the_unbiased_variance():
    """Three values per channel: the biased variance would be a third off."""
    x = maps(3, 1, 1, 5) * 7 + 10
    norm, theirs = layers.BatchNorm(), torch.nn.BatchNorm2d(5)
    variables = norm.init(KEY, x, train=False)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, nhwc(theirs(nchw(x))), rtol=1e-4, atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_batch_norm_survives_a_large_mean():
    """In float32 E[x^2] - E[x]^2 has no digit left here; the running mean is close, as in use."""
    x = maps(8, 4, 4, 3) + 10_000
    norm = layers.BatchNorm()
    variables = norm.init(KEY, x, train=False)
    variables = {**variables, "batch_stats": {"mean": jnp.full(3, 9_999.5), "var": jnp.ones(3)}}
    y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_batch_norm_averages_over_a_named_axis():
    x = maps(4, 3, 2, 2, 5)
    whole, split = layers.BatchNorm(), layers.BatchNorm(axis_name="devices")
    variables = whole.init(KEY, x[0], train=False)
    apply = functools.partial(split.apply, train=True, mutable=["batch_stats"])
    y, updated = jax.vmap(apply, (None, 0), axis_name="devices")(variables, x)
    merged = x.reshape(12, 2, 2, 5)
    expected, stats = whole.apply(variables, merged, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(merged.shape), expected, rtol=1e-5, atol=1e-5)
    for leaf in ("mean", "var"):
        ours, reference = updated["batch_stats"][leaf], stats["batch_stats"][leaf]
        np.testing.assert_allclose(ours, np.tile(reference, (4, 1)), rtol=1e-5, atol=1e-6)


def test_batch_norm_refuses_a_single_value_per_channel():
    norm, x = layers.BatchNorm(), jnp.ones((1, 1, 1, 4))
    variables = norm.init(KEY, x, train=False)
    with pytest.raises(ValueError, match="one value per channel"):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("size", [(7, 7), (3, 4), (9, 8), (1, 1)])
def test_adaptive_average_equals_torchs(size):
    x = maps(2, *size, 3)
    expected = torch.nn.functional.adaptive_avg_pool2d(nchw(x), (7, 7))
    np.testing.assert_allclose(layers.adaptive_average(x, (7, 7)), nhwc(expected), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_max_pool_equals_torchs(size):
    x = maps(2, *size, 3) - 10
    ours = layers.MaxPool(3, 2, padding=1).apply({}, x)
    expected = torch.nn.functional.max_pool2d(nchw(x), 3, 2, 1)
    np.testing.assert_array_equal(ours, nhwc(expected))


def test_dropout_keeps_the_mean_and_drops_single_values():
    x = jnp.ones((64, 500))
    y = layers.Dropout(0.25).apply({}, x, train=True, rngs={"dropout": KEY})
    values = np.unique(y)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.02
    assert np.all((np.asarray(y) == 0).any(1))


def test_drop_path_drops_whole_examples():
    x = jnp.ones((400, 2, 2, 3))
    y = np.asarray(layers.DropPath(0.25).apply({}, x, train=True, rngs={"dropout": KEY}))
    kept = y[:, 0, 0, 0] > 0
    assert 0.65 < kept.mean() < 0.85
    np.testing.assert_allclose(y[kept], 4 / 3, rtol=1e-6)
    np.testing.assert_array_equal(y[~kept], 0)


@pytest.mark.parametrize("layer", [layers.Dropout(0.5), layers.DropPath(0.5)])
def test_dropping_stops_in_evaluation_mode_and_needs_no_key(layer):
    x = jnp.ones((4, 2, 2, 3))
    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)

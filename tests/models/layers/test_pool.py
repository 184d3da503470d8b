"""Tests of pooling and blurring against torch's and timm's."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm
from tests.support.torch_layers import maps, nchw, nhwc
from tl_jax.models import layers

timm = import_timm()

# Window, stride, padding, ceil_mode.
WINDOWS = [
    (2, 2, 0, False),
    (2, 2, 0, True),
    (3, 2, 1, False),
    (3, 2, 1, True),
    (3, 1, 1, False),
    (3, 2, 0, True),
    (3, 3, 1, True),
]


def assert_equal(pairs: dict, x: np.ndarray) -> None:
    """Compares pairs (layer, module) by name; ours run as one program."""
    ours = jax.jit(lambda x: {name: layer.apply({}, x) for name, (layer, _) in pairs.items()})(x)
    for name, y in ours.items():
        expected = nhwc(pairs[name][1](nchw(x)))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6, err_msg=str(name))


@pytest.mark.parametrize("size", [(8, 9), (7, 5), (11, 12)])
def test_pools_equal_torchs(size):
    pairs = {}
    for window in WINDOWS:
        *sizes, ceil_mode = window
        theirs = torch.nn.MaxPool2d(*sizes, ceil_mode=ceil_mode)
        pairs["max", window] = layers.MaxPool(*sizes, ceil_mode), theirs
        for counted in (True, False):
            theirs = torch.nn.AvgPool2d(*sizes, ceil_mode, counted)
            pairs["average", window, counted] = layers.AvgPool(*window, counted), theirs
    assert_equal(pairs, maps(2, *size, 3) - 10)  # Below 0, where a padded zero would win.


@pytest.mark.parametrize("size", [(8, 9), (7, 5)])
def test_pools_that_pad_as_tensorflow_equal_timms(size):
    pool = timm.layers.pool2d_same
    pairs = {
        "max": (layers.MaxPool(3, 2, "same"), pool.MaxPool2dSame(3, 2)),
        "average": (layers.AvgPool(3, 2, "same"), pool.AvgPool2dSame(3, 2)),
    }
    assert_equal(pairs, maps(2, *size, 3))


def test_blur_equals_timms():
    pairs = {
        (stride, window): (
            layers.BlurPool(stride, window),
            timm.layers.BlurPool2d(3, window, stride),
        )
        for stride, window in [(2, 3), (1, 3), (2, 5)]
    }
    assert_equal(pairs, maps(2, 8, 9, 3))


def test_adaptive_average_equals_torchs():
    sizes = [(7, 7), (3, 4), (9, 8), (1, 1)]
    xs = {size: maps(2, *size, 3) for size in sizes}
    average = jax.jit(lambda xs: [layers.adaptive_average(xs[size], (7, 7)) for size in sizes])
    for size, y in zip(sizes, average(xs), strict=True):
        expected = torch.nn.functional.adaptive_avg_pool2d(nchw(xs[size]), (7, 7))
        np.testing.assert_allclose(y, nhwc(expected), atol=1e-6)


# ---- the gradient of the maximum


def gradient(pool, x: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.vjp(pool, x)[1](weights)[0]


def test_the_first_largest_value_of_a_window_takes_its_gradient_as_in_torch():
    """Whole numbers, so that most windows have ties, and sums of gradients no rounding."""
    rng = np.random.default_rng(0)
    windows = [*WINDOWS, (2, 1, 0, False), (2, 3, 0, False), (5, 3, 2, False)]
    cases = {}
    for window, size in itertools.product(windows, [(8, 9), (11, 12)]):
        *sizes, ceil_mode = window
        x = rng.integers(-2, 3, (2, *size, 3)).astype(np.float32)
        inputs = nchw(x).requires_grad_()
        y = torch.nn.MaxPool2d(*sizes, ceil_mode=ceil_mode)(inputs)
        weights = torch.from_numpy(rng.integers(-9, 9, y.shape).astype(np.float32))
        (y * weights).sum().backward()
        cases[window, size] = x, nhwc(weights), nhwc(inputs.grad)

    @jax.jit
    def gradients():
        pools = {key: layers.MaxPool(*key[0]) for key in cases}
        return {
            key: gradient(functools.partial(pools[key].apply, {}), x, weights)
            for key, (x, weights, _) in cases.items()
        }

    for key, found in gradients().items():
        np.testing.assert_array_equal(found, cases[key][2], err_msg=str(key))


def test_the_maximum_has_every_derivative_of_xlas_own():
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (2, 7, 8, 3)), jnp.float32)
    x_dot, other = maps(2, 7, 8, 3), maps(2, 7, 8, 3, seed=1)
    weights = maps(2, 4, 4, 3, seed=2)

    def derivatives(pool):
        value = lambda x: jnp.sum(weights * jnp.sin(pool(x)))  # noqa: E731
        return {
            "gradient": gradient(pool, x, weights),
            "jvp": jax.jvp(pool, (x,), (x_dot,)),
            "second": jax.jvp(jax.grad(value), (x,), (x_dot,)),
            "vmap": jax.vmap(functools.partial(gradient, pool), (0, None))(
                jnp.stack([x, other]), weights
            ),
        }

    ours, expected = (
        jax.jit(functools.partial(derivatives, pool))()
        for pool in (
            functools.partial(layers.MaxPool(3, 2, 1).apply, {}),
            functools.partial(
                nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
            ),
        )
    )
    for found, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, reference)


def test_a_nan_makes_its_windows_nan_and_other_gradients_stay():
    x = jnp.asarray(maps(1, 8, 8, 1)).at[0, 2, 2].set(jnp.nan)
    pool = functools.partial(layers.MaxPool(2, 2).apply, {})
    y, backward = jax.vjp(pool, x)
    assert np.isnan(y).sum() == 1
    found = backward(jnp.ones_like(y))[0]
    assert np.isfinite(found).all()
    assert found.sum() == y.size


def test_the_gradient_of_the_maximum_scatters_nothing():
    x = jnp.ones((1, 8, 8, 1))
    pool = functools.partial(layers.MaxPool(3, 2, 1).apply, {})
    assert "scatter" not in str(jax.make_jaxpr(functools.partial(gradient, pool))(x, pool(x)))


def test_the_gradient_of_a_bfloat16_map_is_one():
    x = jnp.asarray(maps(1, 8, 8, 2), jnp.bfloat16)
    pool = functools.partial(layers.MaxPool(3, 2, 1).apply, {})
    y = pool(x)
    found = gradient(pool, x, jnp.ones_like(y))
    assert (y.dtype, found.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert found.astype(jnp.float32).sum() == y.size

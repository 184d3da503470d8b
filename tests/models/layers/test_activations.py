"""Tests of activation functions against torch's: values, gradients, and what they keep for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tl_jax.models import layers

THEIRS = {
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "hard_sigmoid": torch.nn.functional.hardsigmoid,
    "hard_swish": torch.nn.functional.hardswish,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}
SMOOTH = ("sigmoid", "silu", "gelu", "gelu_tanh")
# No kinks: at those the gradient is a matter of taste.
X = np.linspace(-7.03, 7.04, 64, dtype=np.float32)


@pytest.fixture(scope="module")
def results() -> dict:
    """By name the values, the gradients, and the derivatives of the gradients."""

    def of(act):
        x, gradient = jnp.asarray(X), jax.vmap(jax.grad(act))
        return act(x), gradient(x), jax.jvp(gradient, (x,), (jnp.ones_like(x),))[1]

    return jax.jit(lambda: {name: of(getattr(layers, name)) for name in THEIRS})()


@pytest.mark.parametrize("name", THEIRS)
def test_activations_and_their_gradients_equal_torchs(results, name):
    x = torch.from_numpy(X).double().requires_grad_()
    y = THEIRS[name](x)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    expected = [y, gradient]
    if name in SMOOTH:
        expected += torch.autograd.grad(gradient.sum(), x)
    for found, reference in zip(results[name], expected, strict=False):
        np.testing.assert_allclose(found, reference.detach(), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_in_half_precision_rounds_its_result_alone(name):
    x = jnp.asarray(X, jnp.bfloat16)
    found = getattr(layers, name)(x)
    exact = THEIRS[name](torch.from_numpy(np.asarray(x, np.float64))).numpy()
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_keeps_its_input_alone_for_the_gradient(name):
    _, backward = jax.vjp(getattr(layers, name), jnp.asarray(X))
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size == X.size]
    assert len(kept) == 1

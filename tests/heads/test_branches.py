"""Tests of the branch that gives the gradients of several heads one norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.heads.branches import equal_gradients

X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
FACTORS = (1.0, 30.0, 0.0)


def loss(x: jax.Array, factors: tuple[float, ...] = FACTORS) -> jax.Array:
    one, two, three = equal_gradients(x, 3)
    a, b, c = factors
    return a * jnp.sum(one**2) + b * jnp.sum(jnp.sin(two)) + c * jnp.sum(three)


def expected(factors: tuple[float, ...] = FACTORS) -> np.ndarray:
    a, b, _ = factors
    gradients = [a * 2 * X, b * np.cos(X)]
    norms = [np.linalg.norm(g) for g in gradients]
    return sum(g / norm for g, norm in zip(gradients, norms, strict=True)) * np.mean(norms)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_each_gradient_has_the_mean_norm(wrap):
    np.testing.assert_allclose(jax.grad(wrap(loss))(X), expected(), rtol=1e-5)


def test_the_values_are_the_features():
    for branch in equal_gradients(X, 3):
        np.testing.assert_array_equal(branch, X)


def test_no_gradient_at_all_stays_none():
    found = jax.jit(jax.grad(lambda x: loss(x, (0.0, 0.0, 0.0))))(X)
    np.testing.assert_array_equal(found, np.zeros_like(X))


def test_norms_are_those_of_the_whole_batch_where_it_is_mapped():
    def of_part(x):
        one, two = equal_gradients(x, 2, "batch")
        return jnp.sum(one**2) + 30.0 * jnp.sum(jnp.sin(two))

    parts = X.reshape(4, 2, 5)
    found = jax.vmap(jax.grad(of_part), axis_name="batch")(parts)
    np.testing.assert_allclose(found.reshape(8, 5), expected(), rtol=1e-5)

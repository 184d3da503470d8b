"""Layers of a kernel plus a product: values and derivatives of every order, at less cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.models import layers
from tl_jax.transfer.peft.low_rank import low_rank_layer, pays, sum_of_kernels


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return layers.convolve(x, kernel, stride=2, padding="symmetric")


def plain(linear, x, kernel, a, b) -> jax.Array:
    return linear(x, sum_of_kernels(kernel, a, b))


CASES = {
    "convolution": (convolve, (2, 5, 4, 3), (3, 3, 3, 4)),
    "dense": (jnp.matmul, (3, 5), (5, 4)),
}
ALL = (0, 1, 2, 3)


def second_order(f):
    """Returns the gradient of the gradient's product with the point, by reverse mode twice."""

    def product(*primals: jax.Array) -> jax.Array:
        return sum(map(jnp.vdot, jax.grad(f, ALL)(*primals), primals))

    return jax.grad(product, ALL)


DERIVATIVES = {
    "gradient": lambda f: jax.grad(f, ALL),
    "forward mode": lambda f: jax.jacfwd(f, ALL),
    "reverse over reverse": second_order,
    "forward over reverse": lambda f: lambda *p: jax.jvp(jax.grad(f, ALL), p, p)[1],
    "of many inputs": lambda f: jax.vmap(jax.grad(f, ALL), (0, None, None, None)),
}


def operands(inputs, kernel):
    rng, rank = np.random.default_rng(0), 2
    shapes = inputs, kernel, (*kernel[:-1], rank), (rank, kernel[-1])
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("kind", list(CASES))
def test_values_and_derivatives_are_those_of_the_kernel(kind):
    linear, *shapes = CASES[kind]
    primals = operands(*shapes)

    def scalars(layer, primals):
        def scalar(*p: jax.Array) -> jax.Array:
            return jnp.sin(layer(linear, *p)).sum()

        many = [primals[0][:, None], *primals[1:]]
        return {
            name: derivative(scalar)(*(many if name == "of many inputs" else primals))
            for name, derivative in DERIVATIVES.items()
        } | {"value": scalar(*primals)}

    found = jax.jit(functools.partial(scalars, low_rank_layer))(primals)
    expected = jax.jit(functools.partial(scalars, plain))(primals)
    for name in expected:
        for one, other in zip(*map(jax.tree.leaves, (found[name], expected[name])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_gradient_of_the_factors_does_without_that_of_the_kernel():
    x, kernel, a, b = operands((64, 128), (128, 128))

    def operations(layer) -> float:
        def loss(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.square(layer(jnp.matmul, x, kernel, a, b)).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(a, b).compile()
        return compiled.cost_analysis()["flops"]

    product = 2 * 64 * 128 * 128
    assert operations(plain) > 2 * product
    assert operations(low_rank_layer) < 1.4 * product


def test_in_bfloat16_the_factors_gradients_are_float32():
    x, kernel, a, b = operands((8, 16), (16, 4))
    x = x.astype(jnp.bfloat16)

    def loss(layer, a, b):
        return jnp.square(layer(jnp.matmul, x, kernel, a, b).astype(jnp.float32)).sum()

    def rounded(linear, x, kernel, a, b):
        return linear(x, sum_of_kernels(kernel, a, b).astype(x.dtype))

    assert low_rank_layer(jnp.matmul, x, kernel, a, b).dtype == jnp.bfloat16
    found, expected = (jax.grad(loss, (1, 2))(layer, a, b) for layer in (low_rank_layer, rounded))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02 * np.abs(other).max())


def test_it_pays_for_wide_layers_on_a_cpu_only():
    wide = ((3, 3, 256, 256), (1, 1, 256, 1024), (2048, 512))
    assert all(pays(shape, 8, on_cpu=True) for shape in wide)
    assert not any(pays(shape, 8, on_cpu=False) for shape in wide)
    assert not any(pays(shape, 256, on_cpu=True) for shape in wide)
    assert not pays((7, 7, 3, 64), 8, on_cpu=True) and not pays((1, 1, 64, 64), 8, on_cpu=True)

"""Tests of the encoders of columns, tokens and vectors, and of what is missing in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.task_networks import ENCODERS, inputs
from tl_jax import trees
from tl_jax.heads.encoders import (
    CategoricalEncoder,
    NumericEncoder,
    TokenEncoder,
    VectorEncoder,
)
from tl_jax.heads.poolings import Pooling
from tl_jax.heads.recurrent import GRU

KEY = jax.random.key(0)
INPUTS = inputs()


def made(encoder, values) -> dict:
    variables = jax.jit(encoder.init)(KEY, values)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), variables)


@pytest.mark.parametrize(
    ("name", "width", "present"),
    [
        ("numeric", 5, [1, 0, 1, 1]),
        ("categorical", 4, [1, 1, 0, 1]),
        ("tokens", 4, [1, 0, 1, 1]),
        ("vector", 6, [1, 1, 1, 0]),
    ],
)
def test_shapes_what_is_missing_and_gradients(name, width, present):
    encoder, values = ENCODERS[name], INPUTS[name]
    variables = made(encoder, values)
    found, has = jax.jit(encoder.apply)(variables, values)
    assert (found.shape, found.dtype) == ((4, width), jnp.float32)
    assert has.tolist() == [bool(each) for each in present]
    assert np.isfinite(found).all()

    @jax.jit
    @jax.grad
    def gradients(variables):
        encoding, has = encoder.apply(variables, values)
        return jnp.sum(jnp.where(has[:, None], jnp.sin(encoding), 0))

    for path, leaf in trees.flatten(gradients(variables)).items():
        assert np.isfinite(leaf).all(), path
        assert leaf.any(), path


def test_numbers_are_standardised_and_missing_ones_indicated():
    encoder = NumericEncoder((1.0, 2.0, 3.0), (2.0, 0.0, 0.5), (4,))
    values = np.array([[3, 2.5, np.nan], [np.nan, 2, 4]], np.float32)
    variables = made(encoder, values)
    found, _ = jax.jit(encoder.apply)(variables, values)
    layer = variables["params"]["fc1"]
    x = np.array([[1, 0.5, 0, 0, 0, 1], [0, 0, 2, 1, 0, 0]])
    np.testing.assert_allclose(
        found, np.maximum(x @ layer["kernel"] + layer["bias"], 0), rtol=1e-5, atol=1e-6
    )


def test_each_category_has_a_vector_and_so_has_a_missing_one():
    encoder = CategoricalEncoder((2, 3), 2)
    values = np.array([[0, 0], [1, 1], [-1, 2], [1, -1]], np.int32)
    variables = made(encoder, values)
    table = np.asarray(variables["params"]["table"]["embedding"])
    assert table.shape == (2 + 1 + 3 + 1, 2)
    found, _ = jax.jit(encoder.apply)(variables, values)
    rows = [[0, 3], [1, 4], [2, 5], [1, 6]]
    np.testing.assert_array_equal(found, [np.concatenate(table[row]) for row in rows])
    # A category that training did not have counts as missing, and another column is not touched.
    unknown, _ = encoder.apply(variables, np.array([[2, 0]], np.int32))
    np.testing.assert_array_equal(unknown[0], np.concatenate(table[[2, 3]]))


def test_tokens_are_read_to_the_last_word_or_pooled():
    values = np.array([[4, 2, 3, 0, 0]], np.int32)
    last = TokenEncoder(3, 5, width=4, embedding=2)
    variables = made(last, values)
    table = variables["params"]["table"]["embedding"]
    assert table.shape == (5, 2)
    words = np.asarray(table)[values[:, :3]]
    gru = jax.jit(GRU(4).apply)({"params": variables["params"]["gru"]}, words)
    found, _ = jax.jit(last.apply)(variables, values)
    np.testing.assert_allclose(found, gru[:, -1], rtol=1e-6)
    averaged, _ = jax.jit(last.clone(pooling=Pooling()).apply)(variables, values)
    np.testing.assert_allclose(averaged, gru.mean(1), rtol=1e-5)


def test_a_vector_does_not_depend_on_its_scale():
    encoder = VectorEncoder(9)
    values = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    variables, apply = made(encoder, values), jax.jit(encoder.apply)
    one, other = apply(variables, values)[0], apply(variables, 7 * values + 2)[0]
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NumericEncoder((0.0,), (1.0, 1.0)), "got 1 means and 2 standard deviations"),
        (lambda: NumericEncoder((float("nan"),), (1.0,)), "must be finite"),
        (lambda: NumericEncoder((0.0,), (1.0,), ()), "hidden is ()"),
        (lambda: CategoricalEncoder(()), "sizes is ()"),
        (lambda: TokenEncoder(-1, 5), "vocabulary is -1"),
        (lambda: VectorEncoder(0), "size is 0"),
        (
            lambda: VectorEncoder(3).init(KEY, np.ones((2, 4))),
            r"'vector' has shape \(2, 4\); the encoder was made for \[batch, 3\]",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
        make()

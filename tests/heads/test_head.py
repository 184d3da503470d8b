"""Tests of the heads: shapes, where they start, dropout, and what the cosine head ignores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax import trees
from tl_jax.heads.head import MLP, Cosine, Linear, unit
from tl_jax.heads.initializers import init_small, initializer

FEATURES = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
KEY = jax.random.key(0)
SHAPES = {
    "linear": (Linear(3), {"fc.kernel": (16, 3), "fc.bias": (3,)}),
    "mlp": (
        MLP(3, (7, 5)),
        {
            "fc1.kernel": (16, 7),
            "fc1.bias": (7,),
            "fc2.kernel": (7, 5),
            "fc2.bias": (5,),
            "fc.kernel": (5, 3),
            "fc.bias": (3,),
        },
    ),
    "mlp without hidden layers": (MLP(3, ()), {"fc.kernel": (16, 3), "fc.bias": (3,)}),
    "cosine": (Cosine(3), {"fc.kernel": (16, 3), "fc.logit_scale": ()}),
    "cosine, fixed scale": (Cosine(3, learned_scale=False), {"fc.kernel": (16, 3)}),
}


def moved(params):
    """Returns parameters none of which is zero."""
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes(name):
    head, expected = SHAPES[name]
    params = head.init(KEY, FEATURES)["params"]
    flat = trees.flatten(params)
    assert {trees.dotted(path): leaf.shape for path, leaf in flat.items()} == expected
    assert head.apply({"params": params}, FEATURES).shape == (8, 3)


@pytest.mark.parametrize("head", [Linear(3), MLP(3, (5,))])
def test_zero_is_where_linear_layers_start(head):
    params = head.init(KEY, FEATURES)["params"]
    assert not params["fc"]["kernel"].any()
    np.testing.assert_array_equal(head.apply({"params": params}, FEATURES), np.zeros((8, 3)))


@pytest.mark.parametrize(
    "head", [Linear(300, kernel_init="small"), MLP(300, (50,), kernel_init="small")]
)
def test_a_small_start(head):
    last = head.init(KEY, FEATURES)["params"]["fc"]
    assert 0.009 < np.std(last["kernel"]) < 0.011
    assert not last["bias"].any()


def test_an_unknown_initializer_names_the_nearest():
    with pytest.raises(ValueError, match="'smal' of a head; did you mean 'small'"):
        Linear(3, kernel_init="smal").init(KEY, FEATURES)
    assert initializer("zero")(KEY, (2, 2), jnp.float32).sum() == 0


def test_a_small_start_of_a_layer_in_a_network():
    params = {"conv": {"kernel": jnp.ones((3, 3))}, "head.fc": dict(SHAPES["linear"][0].init(
        KEY, np.zeros((1, 4000), np.float32))["params"]["fc"])}  # fmt: skip
    found = init_small(KEY, params, "head.fc")
    assert 0.009 < np.std(found["head.fc"]["kernel"]) < 0.011
    assert found["head.fc"]["bias"] is params["head.fc"]["bias"]
    assert found["conv"]["kernel"] is params["conv"]["kernel"]
    with pytest.raises(ValueError, match=r"no layer 'head.fcc'; did you mean 'head.fc'"):
        init_small(KEY, params, "head.fcc")


@pytest.mark.parametrize("head", [Linear(3, 0.5), MLP(3, (64,), 0.5), Cosine(3, 0.5)])
def test_dropout_acts_in_training_alone(head):
    variables = {"params": moved(head.init(KEY, FEATURES)["params"])}

    def logits(seed: int, *, train: bool) -> jax.Array:
        rngs = {"dropout": jax.random.key(seed)}
        return head.apply(variables, FEATURES, train=train, rngs=rngs)

    np.testing.assert_array_equal(logits(0, train=False), logits(1, train=False))
    assert (logits(0, train=True) != logits(1, train=True)).any()


@pytest.mark.parametrize("head", [Linear(3), MLP(3, (5,), dtype=jnp.bfloat16), Cosine(3)])
def test_logits_and_parameters_are_float32_of_bfloat16_features(head):
    features = FEATURES.astype(jnp.bfloat16)
    variables = head.init(KEY, features)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    variables = {"params": moved(variables["params"])}
    logits = head.apply(variables, features)
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16)).any()
    if not isinstance(head, MLP):  # The features are the only thing in bfloat16.
        expected = head.apply(variables, features.astype(jnp.float32))
        np.testing.assert_array_equal(logits, expected)


def test_cosine_by_hand():
    head = Cosine(3, scale=4.0)
    params = head.init(KEY, FEATURES)["params"]
    kernel = np.asarray(params["fc"]["kernel"])
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
    assert params["fc"]["logit_scale"] == 4.0
    params = {"fc": {"kernel": 3 * kernel, "logit_scale": jnp.float32(7)}}
    lengths = np.linalg.norm(FEATURES, axis=1, keepdims=True)
    found = head.apply({"params": params}, FEATURES)
    np.testing.assert_allclose(found, 7 * FEATURES @ kernel / lengths, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_cosine_ignores_the_length_of_features_and_of_the_vectors(factor):
    head = Cosine(3)
    variables = head.init(KEY, FEATURES)
    expected = head.apply(variables, FEATURES)
    found = head.apply(variables, FEATURES * factor)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    longer = {"params": {"fc": {**variables["params"]["fc"]}}}
    longer["params"]["fc"]["kernel"] *= factor
    np.testing.assert_allclose(head.apply(longer, FEATURES), expected, rtol=1e-4, atol=1e-5)


def test_a_fixed_scale_bounds_the_logits():
    head = Cosine(3, scale=2.0, learned_scale=False)
    variables = head.init(KEY, FEATURES)
    own = 5 * np.asarray(variables["params"]["fc"]["kernel"]).T
    np.testing.assert_allclose(np.diag(head.apply(variables, own)), 2, rtol=1e-5)


def test_features_of_zeros_have_logits_and_a_gradient():
    head = Cosine(3)
    variables = head.init(KEY, FEATURES)
    zeros = np.zeros((1, 16), np.float32)
    np.testing.assert_array_equal(head.apply(variables, zeros), np.zeros((1, 3)))
    gradient = jax.grad(lambda x: head.apply(variables, x).sum())(zeros)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(unit(zeros, axis=-1), zeros)

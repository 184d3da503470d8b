"""Tests of the poolings: what they compute, of which order, and what masked vectors change."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from tl_jax import trees
from tl_jax.heads import pooling
from tl_jax.heads.attention_pooling import AttentionPooling
from tl_jax.heads.poolings import Pooling, PoolingName, pool_map
from tl_jax.heads.recurrent import GRU, GRUPooling
from tl_jax.models import layers

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 2, size=(4, 5, 6)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
NAMES = get_args(PoolingName)
ORDER_FREE = ("average", "max", "average_max", "gem", "attention")


class Pool(nn.Module):
    """A pooling by name, with its parameters."""

    pooling: Pooling

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return self.pooling.module("pool")(x, mask)


@functools.cache
def made(name: str, **options) -> tuple[Pool, dict]:
    """Returns a pooling, and variables none of which is zero."""
    model = Pool(Pooling(name, **options))
    variables = jax.jit(model.init)(KEY, X)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape), variables)


def numpy_gem(x: np.ndarray, p: float) -> np.ndarray:
    """Returns the generalised mean over the first axis, in float64."""
    return np.mean(np.maximum(x.astype(np.float64), 1e-6) ** p, 0) ** (1 / p)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(name):
    model, variables = made(name, width=7)
    half = jnp.asarray(X, jnp.bfloat16)
    for mask in (None, MASK):
        y = jax.eval_shape(model.apply, variables, half, mask)
        assert y.shape == (4, {"concatenate": 30, "gru": 7}.get(name, 6))
        assert y.dtype == jnp.float32
    assert bool(jax.tree.leaves(variables)) == Pooling(name).is_learned


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (pooling.average, lambda x: x.mean(0)),
        (pooling.maximum, lambda x: x.max(0)),
        (pooling.average_max, lambda x: (x.mean(0) + x.max(0)) / 2),
        (lambda x, mask: pooling.GeM(2.5).apply({"params": {"p": jnp.full(1, 2.5)}}, x, mask),
         lambda x: numpy_gem(x, 2.5)),
    ],
    ids=["average", "max", "average_max", "gem"],
)  # fmt: skip
@pytest.mark.parametrize("negative", [False, True])
def test_what_is_computed_over_what_is_not_masked(pool, expected, negative):
    x = X - 1 if negative else X
    found = jax.jit(pool)(x, MASK)
    for i in range(3):
        np.testing.assert_allclose(found[i], expected(x[i][MASK[i]]), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(pool)(x, None)[0], found[0], rtol=1e-6)
    assert not found[3].any()


def test_the_gradient_of_the_maximum_goes_to_one_value_and_divides_by_nothing():
    """A compiled program may compute a value twice, and find none that equals the maximum."""
    gradient = jax.grad(lambda x, mask: jnp.sum(pooling.maximum(x, mask)))
    for mask in (None, MASK):
        assert " div " not in str(jax.make_jaxpr(gradient)(X, mask))
    tied = jnp.array([[[1.0], [3.0], [3.0]]])
    assert gradient(tied, None).tolist() == [[[0.0], [1.0], [0.0]]]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "concatenate"])
def test_a_masked_vector_is_left_out(name):
    model, variables = made(name)
    found = jax.jit(model.apply)(variables, X, MASK)
    kept = jax.jit(model.apply)(variables, X[1:2, [0, 2]])
    np.testing.assert_allclose(found[1], kept[0], rtol=1e-5, atol=1e-6)
    assert not found[3].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_masked_vectors_have_no_influence(name):
    model, variables = made(name)

    @jax.jit
    def value_and_grads(variables, x):
        return jax.value_and_grad(
            lambda v, x: jnp.sum(jnp.sin(model.apply(v, x, MASK))), argnums=(0, 1)
        )(variables, x)

    value, (of_params, of_x) = value_and_grads(variables, jnp.where(MASK[..., None], X, 0))
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(of_params))
    assert (of_x[~MASK] == 0).all()
    assert np.isfinite(of_x).all()
    assert of_x[MASK].any()
    other = value_and_grads(variables, jnp.where(MASK[..., None], X, jnp.nan))
    assert_same((value, (of_params, of_x)), other)


def assert_same(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_counts_for_sequences_alone(name):
    model, variables = made(name)
    order = [3, 1, 4, 0, 2]
    apply = jax.jit(model.apply)
    found, other = apply(variables, X, MASK), apply(variables, X[:, order], MASK[:, order])
    is_same = np.allclose(found, other, rtol=1e-5, atol=1e-6)
    assert is_same == (name in ORDER_FREE)


def test_gem_is_the_average_for_p_1_and_near_the_maximum_for_large_p():
    @jax.jit
    def gem(p: float) -> jax.Array:
        return pooling.GeM().apply({"params": {"p": jnp.full(1, p)}}, X)

    np.testing.assert_allclose(gem(1.0), X.mean(1), rtol=1e-5)
    np.testing.assert_allclose(gem(200.0), X.max(1), rtol=2e-2)


def test_gem_is_that_of_its_authors_in_torch():
    """The reference is their published layer, on a map [B, C, h, w]."""
    feature_map = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    x = torch.from_numpy(feature_map).moveaxis(-1, 1)
    p = torch.full((1,), 3.0, requires_grad=True)
    expected = torch.nn.functional.avg_pool2d(x.clamp(min=1e-6).pow(p), (3, 4)).pow(1 / p)[
        ..., 0, 0
    ]
    expected.sum().backward()

    @jax.jit
    def pooled(p):
        gem = pooling.GeM()
        return pool_map(lambda x, mask: gem.apply({"params": {"p": p}}, x, mask), feature_map)

    np.testing.assert_allclose(pooled(jnp.full(1, 3.0)), expected.detach(), rtol=2e-5)
    slope = jax.jit(jax.grad(lambda p: pooled(p).sum()))(jnp.full(1, 3.0))
    np.testing.assert_allclose(slope, p.grad, rtol=1e-4)
    assert pooling.GeM().init(KEY, X)["params"]["p"] == 3


def test_gem_of_a_large_exponent_is_finite():
    def total(p):
        return jnp.sum(pooling.GeM().apply({"params": {"p": p}}, jnp.zeros((1, 3, 2))))

    value, slope = jax.jit(jax.value_and_grad(total))(jnp.full(1, 9.0))
    np.testing.assert_allclose(value, 2e-6, rtol=1e-4)
    assert np.isfinite(slope).all()


def test_attention_weights_add_up_to_one_over_what_is_not_masked():
    model = AttentionPooling(heads=4)
    variables = jax.jit(model.init)(KEY, X)
    apply = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))
    y, state = apply(variables, X, MASK)
    (weights,) = state["intermediates"]["attention"]
    assert weights.shape == (4, 5, 4)
    np.testing.assert_allclose(weights.sum(1)[:3], 1, rtol=1e-6)
    assert (weights[~MASK] == 0).all()
    # Six channels of four heads: two weigh one channel, two weigh two.
    weights = np.asarray(weights)
    expected = [(weights[0][:, h, None] * X[0]).sum(0)[c] for c, h in enumerate([0, 0, 1, 2, 2, 3])]
    np.testing.assert_allclose(y[0], expected, rtol=1e-5)


def test_attention_starts_near_the_average_and_needs_a_channel_for_each_head():
    model = AttentionPooling()
    y, _ = jax.jit(model.init_with_output)(KEY, X)
    np.testing.assert_allclose(y, X.mean(1), rtol=0.1)
    assert (y != X.mean(1)).any()
    with pytest.raises(ValueError, match="attention of 7 heads needs as many channels.*got 6"):
        jax.eval_shape(AttentionPooling(heads=7).init, KEY, X)


def test_gru_is_torchs_on_sequences_of_any_length_and_with_holes():
    width = 7
    peer = torch.nn.GRU(6, width, batch_first=True)
    weights = {name: leaf.detach().numpy() for name, leaf in peer.named_parameters()}
    params = {
        "input": {"kernel": weights["weight_ih_l0"].T, "bias": weights["bias_ih_l0"]},
        "hidden": {"kernel": weights["weight_hh_l0"].T, "bias": weights["bias_hh_l0"]},
    }
    states = jax.jit(GRU(width).apply)({"params": params}, X, MASK)
    last = jax.jit(GRUPooling(width).apply)({"params": {"gru": params}}, X, MASK)
    for i in range(3):
        with torch.no_grad():
            expected, _ = peer(torch.from_numpy(X[i][MASK[i]]))
        np.testing.assert_allclose(states[i][MASK[i]], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last[i], expected[-1], rtol=1e-5, atol=1e-6)
    assert not states[3].any()
    assert not last[3].any()


def test_gru_starts_with_an_orthogonal_kernel_for_each_gate():
    kernel = jax.jit(GRU(5).init)(KEY, X)["params"]["hidden"]["kernel"]
    for gate in np.split(np.asarray(kernel), 3, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(5), atol=1e-5)


def test_average_over_space_is_that_of_all_networks():
    feature_map = RNG.normal(size=(3, 5, 7, 9)).astype(np.float32)
    average = Pooling().module("pool")
    found = jax.jit(lambda x: pool_map(average, x))(feature_map)
    np.testing.assert_array_equal(found, jax.jit(layers.global_average)(feature_map))
    features = jnp.asarray(feature_map[:, 0, 0], jnp.bfloat16)
    np.testing.assert_array_equal(pool_map(average, features), features.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 9\) to pool over space.*global_pool=''"):
        pool_map(Pooling("max").module("pool"), features)


def test_a_map_is_read_row_by_row():
    gru = GRUPooling(4)
    feature_map = RNG.normal(size=(2, 2, 3, 6)).astype(np.float32)
    variables = jax.jit(gru.init)(KEY, X)
    rows = np.stack([feature_map[:, r, c] for r in range(2) for c in range(3)], axis=1)
    apply = jax.jit(gru.apply)
    found = pool_map(lambda x, mask: apply(variables, x), feature_map)
    np.testing.assert_array_equal(found, apply(variables, rows))


def test_names_of_parameters():
    names = {name: trees.names(made(name)[1].get("params", {})) for name in NAMES}
    assert names["gem"] == ["pool.p"]
    assert set(names["gru"]) == {
        f"pool.gru.{part}.{leaf}" for part in ("input", "hidden") for leaf in ("kernel", "bias")
    }
    assert "pool.query" in names["attention"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "avarage"}, "unknown pooling 'avarage'; did you mean 'average'"),
        ({"name": "attention", "heads": 0}, "heads is 0; it must be at least 1"),
        ({"name": "gru", "width": -1}, "width is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pooling(**options)

"""Tests of the join of modalities: what it computes, what missing ones change, what is dropped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.heads.join import Join

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(4, 6)).astype(np.float32), np.array([1, 1, 0, 0], bool)
OTHERS = {
    "numeric": (RNG.normal(size=(4, 2)).astype(np.float32), np.array([1, 0, 1, 0], bool)),
    "tokens": (RNG.normal(size=(4, 3)).astype(np.float32), np.array([1, 1, 1, 0], bool)),
}


def made(kind: str, others=OTHERS) -> tuple[Join, dict]:
    join = Join(kind)
    variables = jax.jit(join.init)(KEY, IMAGE, others)
    return join, jax.tree.map(lambda x: x + 0.1, variables)


def test_concatenation_has_zeros_for_what_is_missing():
    found = Join().apply({}, IMAGE, OTHERS)
    parts = [np.where(has[:, None], x, 0) for x, has in (IMAGE, *OTHERS.values())]
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1))


def test_a_gated_sum_weighs_what_is_not_missing():
    join, variables = made("gated_sum")
    apply = jax.jit(functools.partial(join.apply, mutable=["intermediates"]))
    found, state = apply(variables, IMAGE, OTHERS)
    (gates,) = state["intermediates"]["gates"]
    params = jax.device_get(variables["params"])
    parts = {"image": IMAGE[0]}
    for name, (x, _) in OTHERS.items():
        layer = params[f"project.{name}"]
        parts[name] = x @ layer["kernel"] + layer["bias"]
    scores = np.concatenate(
        [
            np.tanh(x) @ params[f"gate.{name}"]["kernel"] + params[f"gate.{name}"]["bias"]
            for name, x in parts.items()
        ],
        axis=1,
    )
    present = np.stack([has for _, has in (IMAGE, *OTHERS.values())], axis=1)
    expected = np.exp(scores) * present
    expected /= np.maximum(expected.sum(1, keepdims=True), 1e-9)
    np.testing.assert_allclose(gates, expected, rtol=1e-4)
    stacked = np.stack(list(parts.values()), axis=1)
    np.testing.assert_allclose(found, (expected[..., None] * stacked).sum(1), rtol=1e-4, atol=1e-6)
    assert not found[3].any()


@pytest.mark.parametrize("kind", ["concatenate", "gated_sum"])
def test_what_is_missing_has_no_influence(kind):
    join, variables = made(kind)

    def hidden(value: float):
        def hide(part):
            x, has = part
            return jnp.where(has[:, None], x, value), has

        return hide(IMAGE), {name: hide(part) for name, part in OTHERS.items()}

    @jax.jit
    def value_and_grads(image, others):
        return jax.value_and_grad(
            lambda v, x: jnp.sum(jnp.sin(join.apply(v, (x, image[1]), others))), argnums=(0, 1)
        )(variables, image[0])

    one, other = value_and_grads(*hidden(0.0)), value_and_grads(*hidden(5.0))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_a_modality_that_is_missing_everywhere_changes_no_gated_sum():
    join, variables = made("gated_sum")
    others = {**OTHERS, "tokens": (OTHERS["tokens"][0], np.zeros(4, bool))}
    alone = {"numeric": OTHERS["numeric"]}
    apply = jax.jit(join.apply)
    expected = apply(variables, IMAGE, alone)
    np.testing.assert_allclose(apply(variables, IMAGE, others), expected, rtol=1e-6)


def test_training_drops_modalities_but_the_image_and_never_all():
    ones = np.ones((2000, 1), np.float32)
    image = ones, np.arange(2000) % 2 == 0
    others = {name: (ones, np.ones(2000, bool)) for name in ("numeric", "tokens")}
    join = Join(dropout=0.3)

    def shown(*, train: bool):
        return np.asarray(join.apply({}, image, others, train=train, rngs={"dropout": KEY}))

    in_training = shown(train=True)
    np.testing.assert_array_equal(in_training[:, 0], image[1])
    assert in_training.any(1).all()
    # Where there is an image each other modality is left out by itself; else not both.
    np.testing.assert_allclose(1 - in_training[image[1], 1:].mean(0), 0.3, atol=0.05)
    np.testing.assert_allclose(1 - in_training[~image[1], 1:].mean(0), 0.3 - 0.09, atol=0.05)
    assert shown(train=False)[:, 1:].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gated sum"}, "unknown join 'gated sum' of modalities; did you mean 'gated_sum'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Join(**options)

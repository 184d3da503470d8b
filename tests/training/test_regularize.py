"""L2-SP against its definition in NumPy, the form of its state, and an exact resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.tiny import assert_equal_trees
from tl_jax.training.regularize import l2_sp

RNG = np.random.default_rng(0)
ALPHA, BETA, RATE = 0.3, 0.05, 0.1


def draw():
    return {
        "conv": {"kernel": RNG.normal(size=(3, 2)).astype(np.float32)},
        "fc": {"kernel": RNG.normal(size=(2, 2)).astype(np.float32)},
    }


PARAMS = draw()
GRADIENTS = [draw() for _ in range(6)]


def mixed() -> optax.GradientTransformation:
    """The backbone is pulled back, the head decays; both by SGD with momentum."""

    def sgd(regulariser):
        return optax.chain(regulariser, optax.trace(0.9), optax.scale_by_learning_rate(RATE))

    rules = {"backbone": sgd(l2_sp(ALPHA)), "head": sgd(optax.add_decayed_weights(BETA))}
    return optax.multi_transform(rules, {"conv": "backbone", "fc": "head"})


def run(tx, params, state, gradients):
    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def test_steps_are_those_of_the_penalised_loss_in_numpy():
    found, _ = run(mixed(), PARAMS, mixed().init(PARAMS), GRADIENTS)
    for name, pull in (
        ("conv", lambda w, start: ALPHA * (w - start)),
        ("fc", lambda w, start: BETA * w),
    ):
        start = PARAMS[name]["kernel"].astype(np.float64)
        weights, velocity = start, np.zeros_like(start)
        for gradient in GRADIENTS:
            velocity = 0.9 * velocity + gradient[name]["kernel"] + pull(weights, start)
            weights = weights - RATE * velocity
        np.testing.assert_allclose(found[name]["kernel"], weights, rtol=1e-5, atol=1e-6)


def test_it_is_the_gradient_of_the_penalty():
    moved = jax.tree.map(lambda leaf: leaf + 0.5, PARAMS)
    tx = l2_sp(ALPHA)

    def penalty(params):
        apart = jax.tree.map(jnp.subtract, params, PARAMS)
        return ALPHA / 2 * optax.tree.norm(apart, squared=True)

    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    found, _ = tx.update(zeros, tx.init(PARAMS), moved)
    expected = jax.grad(penalty)(moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_the_state_is_the_start_and_does_not_change():
    tx = l2_sp(ALPHA)
    state = tx.init(PARAMS)
    assert_equal_trees(state.start, jax.tree.map(jnp.asarray, PARAMS))
    _, after = run(tx, PARAMS, state, GRADIENTS)
    assert_equal_trees(after, state)


def test_the_state_of_a_label_holds_its_parameters_alone():
    arrays = [leaf for leaf in jax.tree.leaves(mixed().init(PARAMS)) if jnp.ndim(leaf)]
    shapes = sorted(leaf.shape for leaf in arrays)
    assert shapes == [(2, 2), (3, 2), (3, 2)]  # two velocities and one start


def test_a_resumed_run_ends_with_the_same_bits():
    tx = mixed()
    whole, _ = run(tx, PARAMS, tx.init(PARAMS), GRADIENTS)
    halfway, state = run(tx, PARAMS, tx.init(PARAMS), GRADIENTS[:3])
    stored = [np.asarray(leaf) for leaf in jax.tree.leaves((halfway, state))]
    form = jax.tree.structure(jax.eval_shape(lambda p: (p, tx.init(p)), PARAMS))
    params, state = jax.tree.unflatten(form, [jnp.asarray(leaf) for leaf in stored])
    assert_equal_trees(run(tx, params, state, GRADIENTS[3:])[0], whole)


def test_a_compiled_step_may_donate_parameters_and_state():
    tx = l2_sp(ALPHA)
    params = jax.tree.map(jnp.array, PARAMS)
    for init in (tx.init, jax.jit(tx.init)):
        own = jax.tree.map(jnp.array, params)
        both = jax.jit(lambda both: both, donate_argnums=0)((own, init(own)))
        assert_equal_trees(both[0], both[1].start)


def test_a_compiled_step_holds_no_constants():
    tx = l2_sp(ALPHA)
    assert jax.make_jaxpr(tx.update)(GRADIENTS[0], tx.init(PARAMS), PARAMS).consts == []


@pytest.mark.parametrize("alpha", [-0.1, float("nan")])
def test_a_negative_strength_is_an_error(alpha):
    with pytest.raises(ValueError, match="got alpha=.* for L2-SP; expected 0 or more"):
        l2_sp(alpha)


def test_an_update_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="needs the parameters"):
        l2_sp(ALPHA).update(GRADIENTS[0], l2_sp(ALPHA).init(PARAMS))

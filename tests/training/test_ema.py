"""The moving average of the parameters, beside NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax import trees
from tl_jax.training import ema, optim, state, step
from tl_jax.transfer import freeze

KEY = jax.random.key(0)


def trained(decay: float, *, warmup: bool, steps: int = 12):
    """Returns the parameters after every step, from the start on, and the last average."""
    tx = ema.with_ema(optax.adam(0.1), decay, warmup=warmup)
    params = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}
    opt_state, passed = tx.init(params), [params]
    for i in range(steps):
        grads = jax.tree.map(lambda leaf, i=i: leaf + jnp.cos(i), params)
        updates, opt_state = jax.jit(tx.update)(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        passed.append(params)
    return passed, ema.averaged_params(opt_state)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_numpys(warmup):
    passed, found = trained(0.4, warmup=warmup)
    for name in ("w", "b"):
        expected = np.asarray(passed[0][name], np.float64)
        for n, params in enumerate(passed[1:]):
            decay = min(0.4, (1 + n) / (10 + n)) if warmup else 0.4
            expected = decay * expected + (1 - decay) * np.asarray(params[name], np.float64)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
        assert np.abs(found[name] - passed[-1][name]).min() > 1e-3


def test_a_warm_up_forgets_the_start_sooner():
    start = trained(0.99, warmup=False, steps=3)
    warmed = trained(0.99, warmup=True, steps=3)
    last = start[0][-1]["b"]
    assert abs(warmed[1]["b"] - last) < 0.2 * abs(start[1]["b"] - last)


def test_an_average_does_not_change_training():
    model, variables = TinyNet(), randomised(TinyNet())
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=False)
    plain = optim.optimizer("adam", {freeze.HEAD: 0.1}, plan, clip_norm=1.0)
    states = {}
    for name, tx in {"plain": plain, "ema": ema.with_ema(plain, 0.9)}.items():
        made = step.make_train_step(model, tx, plan, augment_fn=images_unchanged, seed_key=KEY)
        # The state is used up, as in a run: it may not hold the same array twice.
        compiled = jax.jit(made, donate_argnums=0)
        current = state.create(jax.tree.map(jnp.copy, variables), tx, plan)
        for seed in range(3):
            current, _ = compiled(current, batch(seed=seed))
        states[name] = current
    assert_equal_trees(states["ema"].variables, states["plain"].variables)
    assert_equal_trees(states["ema"].opt_state.inner, states["plain"].opt_state)
    average = ema.averaged_params(states["ema"].opt_state)
    assert trees.names(average) == ["fc.bias", "fc.kernel"]
    assert (average["fc"]["bias"] != states["ema"].params["fc"]["bias"]).all()


def test_the_average_starts_at_the_parameters():
    params = {"w": jnp.asarray([1.0, 2.0])}
    opt_state = ema.with_ema(optax.sgd(1.0), 0.9).init(params)
    assert_equal_trees(ema.averaged_params(opt_state), params)
    assert ema.averaged_params(opt_state)["w"].unsafe_buffer_pointer() != (
        params["w"].unsafe_buffer_pointer()
    )


def test_the_average_is_found_inside_of_other_states():
    tx = optax.chain(optax.clip(1.0), ema.with_ema(optax.sgd(1.0), 0.9))
    params = {"w": jnp.asarray([1.0])}
    assert_equal_trees(ema.averaged_params(tx.init(params)), params)


def test_errors_of_the_average():
    params = {"w": jnp.zeros(1)}
    with pytest.raises(ValueError, match="holds 0 moving averages"):
        ema.averaged_params(optax.sgd(0.1).init(params))
    with pytest.raises(ValueError, match=re.escape("got decay=1.0; expected a number in [0, 1)")):
        ema.with_ema(optax.sgd(0.1), 1.0)
    tx = ema.with_ema(optax.sgd(0.1), 0.9)
    with pytest.raises(ValueError, match="with_ema needs the parameters"):
        tx.update(params, tx.init(params))

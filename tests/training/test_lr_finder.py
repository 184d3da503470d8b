"""The learning-rate finder: a problem whose curve is known, its suggestions, and its ends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax.training import optim, state, step
from tl_jax.training.lr_finder import LrCurve, find_learning_rate
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

START = 2.0
CURVATURE = 4.0  # gradient descent diverges from a rate of 2 / 4 on


class Parabola:
    """Gradient descent on `scale * curvature / 2 * w^2`; the scale comes from the batch."""

    def __init__(self) -> None:
        self.traced = 0

    def setup(self, schedule):
        tx = optax.sgd(schedule)

        def loss_of(params, scale):
            return scale * CURVATURE / 2 * params["w"] ** 2

        def train_step(current: TrainState, inputs):
            self.traced += 1
            loss, grads = jax.value_and_grad(loss_of)(current.params, inputs["scale"])
            updates, opt_state = tx.update(grads, current.opt_state)
            params = optax.apply_updates(current.params, updates)
            return TrainState(current.step + 1, params, {}, opt_state), {"loss": loss}

        params = {"w": jnp.float32(START)}
        first = TrainState(jnp.int32(0), params, {}, tx.init(params))
        return jax.jit(train_step, donate_argnums=0), first


def ones():
    return itertools.repeat({"scale": np.float32(1)})


def descended(rates: np.ndarray) -> np.ndarray:
    """Returns the losses before each step, in NumPy."""
    factors = np.cumprod(np.concatenate([[1.0], 1 - CURVATURE * rates[:-1]]))
    return CURVATURE / 2 * (START * factors) ** 2


def test_losses_are_those_of_steps_whose_rates_rise_by_a_constant_factor():
    curve = find_learning_rate(Parabola().setup, ones(), low=1e-3, high=0.4, steps=40)
    assert not curve.diverged
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-3, 0.4, 40))
    np.testing.assert_allclose(curve.losses, descended(curve.rates), rtol=1e-3)


def test_it_stops_once_the_loss_is_four_times_the_lowest():
    curve = find_learning_rate(Parabola().setup, ones(), low=0.1, high=100, steps=60, smoothing=0)
    assert curve.diverged
    assert 2 < len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 60
    rates = np.geomspace(0.1, 100, 60)
    expected = descended(rates)
    limit = next(i for i in range(60) if expected[i] > 4 * expected[: i + 1].min())
    assert len(curve.rates) == limit
    assert curve.rates[-1] < 10  # far beyond 2 / curvature it is over soon


def test_the_smoothed_loss_is_the_corrected_average():
    curve = find_learning_rate(Parabola().setup, ones(), low=1e-3, high=0.1, steps=5, smoothing=0.9)
    for i, found in enumerate(curve.smoothed):
        weights = 0.9 ** np.arange(i, -1, -1)
        expected = (weights * curve.losses[: i + 1]).sum() / weights.sum()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_step_is_compiled_once():
    parabola = Parabola()
    find_learning_rate(parabola.setup, ones(), steps=20, high=0.1)
    assert parabola.traced == 1


def test_no_more_batches_are_taken_than_there_are_steps():
    batches = ones()
    taken = itertools.count()
    find_learning_rate(
        Parabola().setup, (b for b, _ in zip(batches, taken, strict=False)), steps=5, high=0.1
    )
    assert next(taken) == 5


def tiny_setup(variables):
    model = TinyNet()
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)

    def setup(schedule):
        tx = optim.optimizer("sgd", dict.fromkeys(("head", "backbone"), schedule), plan)
        made = step.make_train_step(
            model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(0)
        )
        return jax.jit(made), state.create(variables, tx, plan)

    return setup


def test_a_network_is_as_it_was_and_gives_the_same_curve_again():
    variables = randomised(TinyNet())
    before = jax.tree.map(np.array, variables)
    setup, batches = tiny_setup(variables), [batch()] * 30
    one = find_learning_rate(setup, batches, low=1e-4, high=100, steps=30, smoothing=0.5)
    assert_equal_trees(variables, before)
    other = find_learning_rate(setup, batches, low=1e-4, high=100, steps=30, smoothing=0.5)
    np.testing.assert_array_equal(one.losses, other.losses)
    assert 1e-4 < one.steepest < one.rates[np.argmin(one.smoothed)]
    assert one.smoothed.min() < 0.8 * one.smoothed[0]


# ---- suggestions


def curve_of(losses: np.ndarray) -> LrCurve:
    return LrCurve(np.geomspace(1e-6, 1, len(losses)), losses, losses, diverged=False)


def test_suggestions_of_a_curve_that_falls_and_rises():
    exponent = np.linspace(-6, 0, 121)
    falling = 1 / (1 + np.exp(4 * (exponent + 3)))  # fastest at 1e-3
    rising = np.exp(6 * (exponent + 0.5))
    curve = curve_of(falling + rising)
    assert curve.steepest == pytest.approx(1e-3, rel=0.2)
    lowest = curve.rates[np.argmin(falling + rising)]
    assert curve.minimum_over_ten == pytest.approx(lowest / 10)
    assert curve.steepest < lowest


def test_a_fall_behind_the_minimum_suggests_nothing():
    curve = curve_of(np.concatenate([np.linspace(2, 1, 30), np.linspace(1, 3, 6), [1.1, 2, 3, 4]]))
    assert curve.steepest <= curve.rates[30]


def test_the_first_steps_suggest_nothing():
    losses = np.concatenate([[5.0, 0.1, 3.0], np.linspace(2, 1, 37)])
    curve = curve_of(losses)
    assert curve.steepest > curve.rates[3]
    assert curve.minimum_over_ten == pytest.approx(curve.rates[-1] / 10)


@pytest.mark.parametrize("losses", [np.linspace(1, 3, 40), np.ones(40), np.ones(1), np.ones(2)])
def test_a_loss_that_never_falls_suggests_nothing(losses):
    curve = curve_of(losses)
    assert curve.steepest is None
    assert curve.minimum_over_ten is None


# ---- errors


def test_a_loss_that_is_no_number_ends_the_run():
    scales = [{"scale": np.float32(1)}] * 6 + [{"scale": np.float32(np.nan)}] * 6
    curve = find_learning_rate(Parabola().setup, scales, low=1e-3, high=1e-2, steps=12)
    assert curve.diverged
    assert len(curve.losses) == 6
    assert np.isfinite(curve.losses).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_first_loss_that_is_not_finite_is_an_error(value):
    with pytest.raises(FloatingPointError, match="first batch is not finite"):
        find_learning_rate(Parabola().setup, [{"scale": np.float32(value)}] * 9, steps=9)


def test_too_few_batches_are_an_error():
    with pytest.raises(ValueError, match="3 batches for 10 steps"):
        find_learning_rate(Parabola().setup, [{"scale": np.float32(1)}] * 3, steps=10, high=0.1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"low": 0.0}, "expected 0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "expected 0 < low < high"),
        ({"steps": 1}, "steps=1; expected 2 or more"),
        ({"smoothing": 1.0}, r"expected a number in \[0, 1\)"),
    ],
)
def test_invalid_options_are_errors(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        find_learning_rate(Parabola().setup, ones(), **options)

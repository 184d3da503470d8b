"""The learning-rate finder: a short run in which the rate rises from too low to too high."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
import optax

from tl_jax.training.state import TrainState
from tl_jax.training.step import Batch, TrainStep

# The run has diverged when the smoothed loss is this many times its lowest value (as in fastai).
_DIVERGED = 4.0
# Share of the first steps that the suggestions ignore: their smoothed loss averages few batches.
_UNSETTLED_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class LrCurve:
    """The loss by learning rate, and the learning rates that it suggests.

    Attributes:
      rates: of each step, rising by a constant factor, [n].
      losses: of each step's batch, before the update at that rate, [n].
      smoothed: their exponential average, with bias correction, [n].
      diverged: whether the run ended because the loss diverged.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    diverged: bool

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest by log rate; None if it never falls."""
        start, lowest = self._settled, self._lowest
        if lowest - start < 2:
            return None
        slope = np.gradient(self.smoothed[start:], np.log(self.rates[start:]))
        # After the minimum a noisy loss can fall steeply too.
        return float(self.rates[start + int(np.argmin(slope[: lowest - start + 1]))])

    @property
    def minimum_over_ten(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest; None if it never falls.

        If that is the last rate, the curve has not reached its minimum: raise `high`.
        """
        if self._lowest == self._settled:
            return None
        return float(self.rates[self._lowest]) / 10

    @property
    def _settled(self) -> int:
        """Index of the first step that the suggestions use."""
        return round(_UNSETTLED_SHARE * len(self.rates))

    @property
    def _lowest(self) -> int:
        """Index of the step with the lowest smoothed loss."""
        start = min(self._settled, len(self.smoothed) - 1)
        return start + int(np.argmin(self.smoothed[start:]))


def find_learning_rate(
    setup: Callable[[optax.Schedule], tuple[TrainStep, TrainState]],
    batches: Iterable[Batch],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.98,
) -> LrCurve:
    """Trains while the learning rate rises, and returns the loss by rate (arXiv:1506.01186).

    The run ends early once the smoothed loss is four times its lowest value, or not finite. The
    trained state is discarded.

    Args:
      setup: given a schedule of the learning rate, returns a compiled step whose optimizer has
        that schedule, and its first state, which the step may donate.
      batches: at least `steps` of them.
      low, high: first and last learning rate.
      steps: number of steps from `low` to `high`.
      smoothing: weight of the past in the average of the loss, in [0, 1). A higher weight delays
        the average, which moves the suggestions to higher rates.

    Raises:
      ValueError: if the rates do not rise, there are fewer than two steps or too few batches, or
        the smoothing is not in [0, 1).
      FloatingPointError: if the first loss is not finite.

    Examples:
      >>> import itertools, jax, jax.numpy as jnp
      >>> def setup(schedule):
      ...     tx, params = optax.sgd(schedule), {"w": jnp.ones(3)}
      ...     def step(state, batch):
      ...         loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(state.params)
      ...         updates, opt_state = tx.update(grads, state.opt_state)
      ...         params = optax.apply_updates(state.params, updates)
      ...         return TrainState(state.step + 1, params, {}, opt_state), {"loss": loss}
      ...     return jax.jit(step), TrainState(jnp.int32(0), params, {}, tx.init(params))
      >>> curve = find_learning_rate(setup, itertools.repeat({}), steps=50)
      >>> 0.01 < curve.steepest < 1
      True
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"got low={low} and high={high}; expected 0 < low < high")
    if steps < 2:
        raise ValueError(f"got steps={steps}; expected 2 or more, such as 100")
    if not 0 <= smoothing < 1:
        raise ValueError(f"got smoothing={smoothing}; expected a number in [0, 1), such as 0.98")
    rates = np.geomspace(low, high, steps)
    train_step, state = setup(optax.exponential_decay(low, steps - 1, high / low))
    average, lowest, diverged = 0.0, math.inf, False
    losses: list[float] = []
    smoothed: list[float] = []
    for _, batch in zip(rates, batches, strict=False):
        state, metrics = train_step(state, batch)
        loss = float(metrics["loss"])
        average = smoothing * average + (1 - smoothing) * loss
        corrected = average / (1 - smoothing ** (len(losses) + 1))
        diverged = not corrected <= _DIVERGED * lowest or math.isinf(corrected)
        if diverged:
            break
        losses.append(loss)
        smoothed.append(corrected)
        lowest = min(lowest, corrected)
    if not diverged and len(losses) < steps:
        raise ValueError(
            f"got {len(losses)} batches for {steps} steps; pass endless batches, or fewer steps"
        )
    if not losses:
        raise FloatingPointError(
            "the loss of the first batch is not finite, before anything was trained: "
            "check the images, the labels and the weights"
        )
    return LrCurve(rates[: len(losses)], np.array(losses), np.array(smoothed), diverged)

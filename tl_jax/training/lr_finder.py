"""The learning-rate finder: a short run whose rate rises from far too low to far too high."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
import optax

from tl_jax.training.state import TrainState
from tl_jax.training.step import Batch, TrainStep

# The loss, smoothed, at which a run has diverged, in multiples of the lowest (as in fastai).
_DIVERGED = 4.0
# The smoothed loss of the first steps is that of a few batches: no slope is read there.
_UNSETTLED_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class LrCurve:
    """The loss by learning rate, and the rates that it suggests.

    Attributes:
      rates: of each step, rising by a constant factor, [n].
      losses: of each step's batch, before the parameters move at that rate, [n].
      smoothed: their exponential average, corrected for its start, [n].
      diverged: whether the run ended because the loss did, and not after its steps.
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
        # Behind the minimum a loss that jumps about falls steeply too.
        return float(self.rates[start + int(np.argmin(slope[: lowest - start + 1]))])

    @property
    def minimum_over_ten(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest; None if it never falls.

        Where that is the last rate, the curve has no minimum yet: raise `high`.
        """
        if self._lowest == self._settled:
            return None
        return float(self.rates[self._lowest]) / 10

    @property
    def _settled(self) -> int:
        return round(_UNSETTLED_SHARE * len(self.rates))

    @property
    def _lowest(self) -> int:
        start = min(self._settled, len(self.smoothed) - 1)
        return start + int(np.argmin(self.smoothed[start:]))


def find_learning_rate(
    begin: Callable[[optax.Schedule], tuple[TrainStep, TrainState]],
    batches: Iterable[Batch],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.98,
) -> LrCurve:
    """Trains while the learning rate rises, and returns the loss by rate (arXiv:1506.01186).

    The run ends early once the smoothed loss is four times its lowest, or not finite. Nothing is
    put back afterwards, since nothing was changed: the trained state is thrown away.

    Args:
      begin: makes the run for a schedule of the learning rate: a compiled step, whose optimizer
        has that schedule, and the state it begins with, which the step may use up.
      batches: at least `steps` of them.
      low, high: first and last learning rate.
      steps: steps from `low` to `high`.
      smoothing: weight of the past in the average of the loss, below 1. The more there is of it,
        the later the average shows a turn: the suggestions move to higher rates.

    Raises:
      ValueError: if the rates do not rise, there are fewer than two steps or too few batches, or
        the smoothing is not in [0, 1).
      FloatingPointError: if the first loss is not finite.

    Example:
      >>> def begin(schedule):
      ...     rates = {"head": schedule, "backbone": schedule}
      ...     tx = optim.optimizer("sgd", rates, plan)
      ...     made = step.make_train_step(
      ...         model, tx, plan, prepare=prepare, seed_key=jax.random.key(0))
      ...     return jax.jit(made), state.create(variables, tx, plan)
      >>> curve = find_learning_rate(begin, batches)                         # doctest: +SKIP
      >>> curve.steepest                                                     # doctest: +SKIP
    """
    rates = _rates(low, high, steps, smoothing)
    train_step, current = begin(optax.exponential_decay(low, steps - 1, high / low))
    average, lowest, diverged = 0.0, math.inf, False
    losses: list[float] = []
    smoothed: list[float] = []
    for _, batch in zip(rates, batches, strict=False):
        current, values = train_step(current, batch)
        loss = float(values["loss"])
        average = smoothing * average + (1 - smoothing) * loss
        mean = average / (1 - smoothing ** (len(losses) + 1))
        diverged = not mean <= _DIVERGED * lowest or math.isinf(mean)
        if diverged:
            break
        losses.append(loss)
        smoothed.append(mean)
        lowest = min(lowest, mean)
    _check_length(len(losses), steps, diverged=diverged)
    return LrCurve(rates[: len(losses)], np.array(losses), np.array(smoothed), diverged)


def _rates(low: float, high: float, steps: int, smoothing: float) -> np.ndarray:
    if not 0 < low < high < math.inf:
        raise ValueError(f"the rate goes from {low} to {high}; it must rise, from above 0")
    if steps < 2:
        raise ValueError(f"got {steps} steps; a curve needs at least 2, and better 100")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it must lie in [0, 1)")
    return np.geomspace(low, high, steps)


def _check_length(done: int, steps: int, *, diverged: bool) -> None:
    if not diverged and done < steps:
        raise ValueError(
            f"there were {done} batches for {steps} steps; pass batches without end, or set steps="
        )
    if not done:
        raise FloatingPointError(
            "the loss of the first batch is not finite, before anything was trained: "
            "look at the images, the labels and the weights"
        )

"""Records of training: mean metrics of some steps, fetched while later steps are computed."""

import contextlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.run.phases import Phase
from tl_jax.training.step import Metrics

Record = Callable[[int, dict[str, float]], None]
# A program that stacks the metrics of many more steps would take seconds to compile.
_MOST_STACKED = 32


class Intervals:
    """Means of the metrics of every few steps of an epoch.

    The metrics of an interval are fetched at the end of the next one, when its steps have been
    dispatched: so the host waits for steps that are computed, or nearly so, and the devices do not
    wait for the host. They are stacked on the devices first and come in one transfer.
    """

    def __init__(self, every: int, record: Record) -> None:
        """Begins an epoch.

        Args:
          every: steps of an interval.
          record: called with the number of steps done at the end of an interval, and its means.
        """
        self._every, self._record = every, record
        self._steps_done = 0
        self._metrics: list[Metrics] = []
        self._stacks: list[Metrics] = []
        self._before: tuple[int, list[Metrics]] | None = None

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of a step; at the end of an interval records the one before it.

        Raises:
          FloatingPointError: if the loss of a step is not finite.
        """
        self._steps_done += 1
        self._metrics.append(metrics)
        if len(self._metrics) == _MOST_STACKED:
            self._stack()
        if self._steps_done % self._every == 0:
            self._end_interval()

    def finish(self) -> None:
        """Records what is left at the end of the epoch, and waits for it.

        Raises:
          FloatingPointError: if the loss of a step is not finite.
        """
        if self._metrics or self._stacks:
            self._end_interval()
        self._record_before()

    def _end_interval(self) -> None:
        self._stack()
        self._record_before()
        self._before, self._stacks = (self._steps_done, self._stacks), []

    def _stack(self) -> None:
        if self._metrics:
            self._stacks.append(_stacked(self._metrics))
            self._metrics = []

    def _record_before(self) -> None:
        if self._before is None:
            return
        steps_done, stacks = self._before
        values = jax.device_get(stacks)
        means = {
            name: float(np.mean(np.concatenate([stack[name] for stack in values])))
            for name in values[0]
        }
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the training loss is {means['loss']}")
        self._record(steps_done, means)
        self._before = None


@jax.jit
def _stacked(metrics: list[Metrics]) -> Metrics:
    """Returns the metrics of n steps as arrays [n]."""
    return jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def learning_rates(phase: Phase, step: int) -> dict[str, float]:
    """Returns `learning_rate_<label>` of the labels that a phase trains, at a step of it."""
    trained = set(jax.tree.leaves(phase.plan))
    with _on_host():
        return {
            f"learning_rate_{label}": float(schedule(step))
            for label, schedule in phase.schedules.items()
            if label in trained
        }


def _on_host() -> contextlib.AbstractContextManager[object]:
    """Returns a context in which small computations do not queue behind an accelerator's steps."""
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone.
        return contextlib.nullcontext()

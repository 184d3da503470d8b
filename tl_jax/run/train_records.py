"""Records of training: mean metrics of some steps, fetched while later steps are computed."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.run import divergence
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

    Steps that were skipped (their metric "skipped" is 1) count in no mean. If there is this metric,
    a record holds the number of them as "skipped_steps".

    Attributes:
      skipped: number of steps of the recorded intervals that were skipped.
    """

    skipped: int = 0

    def __init__(
        self,
        every: int,
        record: Record,
        *,
        steps_done: int = 0,
        interval: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Begins an epoch, or goes on with one.

        Args:
          every: steps of an interval.
          record: called with the number of steps done at the end of an interval, and its means.
          steps_done: steps of the epoch that were done before.
          interval: the metrics of the last of these, which `flush` returned.
        """
        self._every, self._record = every, record
        self._steps_done = steps_done
        self._metrics: list[Metrics] = []
        self._stacks: list[Mapping[str, Any]] = []
        self._before: tuple[int, list[Mapping[str, Any]]] | None = None
        if interval:
            self._stacks = [{n: np.asarray(values, np.float32) for n, values in interval.items()}]

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of a step; at the end of an interval records the one before it.

        Raises:
          NotFiniteError: if the loss or the gradient of a step is not finite.
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
          NotFiniteError: if the loss or the gradient of a step is not finite.
        """
        if self._metrics or self._stacks:
            self._end_interval()
        self._record_before()

    def flush(self) -> dict[str, tuple[float, ...]]:
        """Waits for all steps, and records the intervals that are complete.

        Returns:
          The metrics of the steps after these, by name, from which a resumed epoch goes on.

        Raises:
          NotFiniteError: if the loss or the gradient of a step is not finite.
        """
        self._record_before()
        self._stack()
        if not self._stacks:
            return {}
        values = _joined(self._stacks)
        self._check(values, self._steps_done)
        self._stacks = [values]
        return {name: tuple(map(float, of_steps)) for name, of_steps in values.items()}

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
        values = _joined(stacks)
        self._check(values, steps_done)
        skipped, counts = values.pop("skipped", None), dict[str, float]()
        if skipped is not None:
            values = {name: of_steps[skipped == 0] for name, of_steps in values.items()}
            counts["skipped_steps"] = int(skipped.sum())
            self.skipped += int(skipped.sum())
        means = {
            name: float(np.mean(of_steps)) if of_steps.size else math.nan
            for name, of_steps in values.items()
        }
        self._record(steps_done, means | counts)
        self._before = None

    @staticmethod
    def _check(values: Mapping[str, np.ndarray], steps_done: int) -> None:
        """Raises an error if one of the last steps up to a number of them is not finite."""
        if "skipped" not in values:
            divergence.check_steps(values, steps_done - len(values["loss"]) + 1)


def _joined(stacks: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Fetches the metrics of some steps; returns them by name, each [steps]."""
    values = jax.device_get(list(stacks))
    return {name: np.concatenate([stack[name] for stack in values]) for name in values[0]}


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

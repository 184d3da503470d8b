"""Stopping rules: when the values of a metric say that a run has gone on long enough."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tl_jax import messages


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When to stop before the last epoch: at a target, or when patience is at its end.

    It holds no state. What it decides follows from the history of the metric alone, so a run that
    is resumed from its journal stops where one that was never killed does.

    Attributes:
      metric: name of the metric, such as "accuracy".
      patience: evaluations without a better value after which to stop; None never does.
      min_delta: by how much more than this a value must surpass the best to be better.
      target: value at which to stop; None never does.
      lower_is_better: as for a loss.

    Raises:
      ValueError: on construction, if a field makes no sense.
    """

    metric: str
    patience: int | None = None
    min_delta: float = 0.0
    target: float | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; it must be 1 or more, or None")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta is {self.min_delta}; it must be a number from 0 on")
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(f"target is {self.target}; it must be a finite number, or None")

    def decide(self, history: Sequence[float], *, patience_from: int = 0) -> str | None:
        """Returns why to stop, or None to go on.

        Args:
          history: the metric after each epoch so far, the first epoch's first. A value that is not
            finite is never better, and reaches no target.
          patience_from: epochs of the history before patience begins, such as those of earlier
            phases; a target that was reached in them stays reached.

        Example:
          >>> Stopping("accuracy", target=0.95).decide([0.9, 0.951])
          'accuracy 0.951 reached the target 0.95 in epoch 2'
          >>> Stopping("loss", patience=2, lower_is_better=True).decide([0.5, 0.6, 0.7])
          'no better loss for 2 epochs: the best is 0.5, of epoch 1'
        """
        reached = self._reached(history)
        if reached is not None:
            return (
                f"{self.metric} {history[reached]:.4g} reached the target {self.target:.4g} in "
                f"epoch {reached + 1}"
            )
        best = self._best(history, patience_from)
        waited = len(history) - (patience_from if best is None else best + 1)
        if self.patience is None or waited < self.patience:
            return None
        found = (
            "there is none yet"
            if best is None
            else f"the best is {history[best]:.4g}, of epoch {best + 1}"
        )
        return f"no better {self.metric} for {waited} epoch{'s' * (waited > 1)}: {found}"

    def history(self, records: Sequence[Mapping[str, Any]], split: str) -> list[float]:
        """Returns the metric's values on a split from a run's journal, in their order.

        Args:
          records: of `tl_jax.run.journal.read`.
          split: such as "validation".

        Raises:
          ValueError: if the split's records lack the metric.
        """
        found = [record for record in records if record["split"] == split]
        for record in found:
            if self.metric not in record:
                close = messages.hint(self.metric, record)
                raise ValueError(f"the journal has no {self.metric!r} of split {split!r}{close}")
        return [float(record[self.metric]) for record in found]

    def _reached(self, history: Sequence[float]) -> int | None:
        """Returns the place of the first value at the target or beyond."""
        if self.target is None:
            return None
        goal = self._score(self.target)
        return next((i for i, value in enumerate(history) if self._score(value) >= goal), None)

    def _best(self, history: Sequence[float], start: int) -> int | None:
        """Returns the place of the last value that was better than all before it, from a start."""
        best, place = -math.inf, None
        for i in range(start, len(history)):
            if self._score(history[i]) > best + self.min_delta:
                best, place = self._score(history[i]), i
        return place

    def _score(self, value: float) -> float:
        """Returns a value as one of which more is better; the worst if it is not finite."""
        if not math.isfinite(value):
            return -math.inf
        return -value if self.lower_is_better else value

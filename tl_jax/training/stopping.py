"""Early stopping: at a target value, or when a metric has not improved for some epochs."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When to stop before the last epoch.

    It has no state: the decision follows from the history of the metric alone, so a resumed run
    stops in the same epoch as one that was never interrupted.

    Attributes:
      metric: name of the metric, such as "accuracy".
      patience: epochs without improvement after which to stop; None: never.
      patience_from: number of epochs at the start that patience ignores, such as those of earlier
        phases.
      min_delta: a value counts as an improvement if it is better than the best by more than this.
      target: value at which to stop; None: never.
      lower_is_better: whether lower values are better, as for a loss.

    Raises:
      ValueError: on construction, if a field is out of range.
    """

    metric: str
    patience: int | None = None
    patience_from: int = 0
    min_delta: float = 0.0
    target: float | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"got patience={self.patience}; expected 1 or more, or None")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"got min_delta={self.min_delta}; expected a finite number, 0 or more")
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(f"got target={self.target}; expected a finite number, or None")

    def decide(self, history: Sequence[float]) -> str | None:
        """Returns why to stop, or None to go on.

        Args:
          history: the metric after each epoch so far, the first epoch's first. A value that is not
            finite is never an improvement, and reaches no target.

        Examples:
          >>> Stopping("accuracy", target=0.95).decide([0.9, 0.951])
          'accuracy 0.951 reached the target 0.95 in epoch 2'
          >>> Stopping("loss", patience=2, lower_is_better=True).decide([0.5, 0.6, 0.7])
          'no better loss for 2 epochs: the best is 0.5, of epoch 1'
        """
        scores = [self._score(value) for value in history]
        if self.target is not None:
            for epoch, score in enumerate(scores, start=1):
                if score >= self._score(self.target):
                    return (
                        f"{self.metric} {history[epoch - 1]:.4g} reached the target "
                        f"{self.target:.4g} in epoch {epoch}"
                    )
        best_score, best_epoch = -math.inf, self.patience_from
        for epoch, score in enumerate(scores[self.patience_from :], start=self.patience_from + 1):
            if score > best_score + self.min_delta:
                best_score, best_epoch = score, epoch
        waited = len(history) - best_epoch
        if self.patience is None or waited < self.patience:
            return None
        best = "there is none yet"
        if best_epoch > self.patience_from:
            best = f"the best is {history[best_epoch - 1]:.4g}, of epoch {best_epoch}"
        return f"no better {self.metric} for {waited} epoch{'s' * (waited > 1)}: {best}"

    def _score(self, value: float) -> float:
        """Returns the value with its sign such that higher is better; -inf if it is not finite."""
        if not math.isfinite(value):
            return -math.inf
        return -value if self.lower_is_better else value

"""Which checkpoints of a run are kept, and which of them is the best."""

import dataclasses
import math
from collections.abc import Mapping

from tl_jax.training.checkpoint_folder import Saved


@dataclasses.dataclass(frozen=True)
class Retention:
    """The rule by which checkpoints are kept.

    A checkpoint within an epoch is never the best, and is kept until there is a newer one.

    Attributes:
      best_metric: metric of the best checkpoint, which is kept; None: the newest is the best.
      keep: number of the newest checkpoints that are kept.
      keep_every: those of every so many epochs are kept too; None: of none.
      lower_is_better: whether a lower metric is better.

    Examples:
      >>> scores = {10: 0.5, 20: 0.9, 30: 0.9, 40: 0.1}
      >>> steps = {step: Saved({"accuracy": score}) for step, score in scores.items()}
      >>> Retention("accuracy").best(steps), Retention("accuracy").kept(steps)
      (20, {40, 20})
    """

    best_metric: str | None
    keep: int = 1
    keep_every: int | None = None
    lower_is_better: bool = False

    def best(self, steps: Mapping[int, Saved]) -> int | None:
        """Returns the step with the best metric (the first of equals); None if no epoch is done."""
        whole = [step for step, saved in steps.items() if saved.within is None]
        if self.best_metric is None:
            return max(whole, default=None)
        return max(whole, key=lambda step: (self._score(steps[step]), -step), default=None)

    def kept(self, steps: Mapping[int, Saved]) -> set[int]:
        """Returns the steps that are kept."""
        whole = [step for step in sorted(steps) if steps[step].within is None]
        kept = {*whole[-self.keep :], *([max(steps)] if steps else [])}
        kept |= {step for step in whole if self._is_milestone(steps[step])}
        best = self.best(steps)
        return kept if best is None else kept | {best}

    def _is_milestone(self, saved: Saved) -> bool:
        if self.keep_every is None or saved.epoch is None:
            return False
        return saved.epoch % self.keep_every == 0

    def _score(self, saved: Saved) -> float:
        """Returns the metric with its sign such that higher is better; -inf if it has no value."""
        value = saved.metrics.get(self.best_metric or "", math.nan)
        if not math.isfinite(value):
            return -math.inf
        return -value if self.lower_is_better else value

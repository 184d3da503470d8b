"""Checkpoints of a run: saved whole, restored exactly, the newest and the best kept (Orbax)."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers

from tl_jax.training.state import TrainState

_VARIABLES, _OPTIMIZER = "variables", "optimizer"


class Checkpoints:
    """The checkpoints of one run, by step.

    The variables and the optimizer's state are separate items, so that a finished run can be read
    without knowing its optimizer. Use as a context manager: leaving it waits for what is being
    written, and raises if that failed.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 1,
        best_metric: str | None = None,
        lower_is_better: bool = False,
    ) -> None:
        """Opens the checkpoints under `directory`.

        Args:
          directory: where they lie; made if it is missing.
          keep: how many of the newest are kept.
          best_metric: name of the metric, among those given to `save`, whose best checkpoint is
            kept besides; None keeps only the newest.
          lower_is_better: whether a lower `best_metric` is better.
        """
        self._sign = -1.0 if lower_is_better else 1.0
        self._best_metric = best_metric
        kept: list[Any] = [checkpoint_managers.LatestN(keep)]
        if best_metric is not None:
            kept.append(checkpoint_managers.BestN(get_metric_fn=self._score, n=1))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
            best_fn=None if best_metric is None else self._score,
        )
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Writes a state under its step, in the background; `metrics` decide which is best.

        An error of the write before is raised here.
        """
        self._manager.check_for_errors()
        items = {
            _VARIABLES: ocp.args.StandardSave(state.variables),
            _OPTIMIZER: ocp.args.StandardSave({"opt_state": state.opt_state}),
        }
        self._manager.save(
            int(state.step), args=ocp.args.Composite(**items), metrics=dict(metrics), force=True
        )

    def latest_step(self) -> int | None:
        """Returns the newest step that was saved whole, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the best metric (the newest of equals), or None."""
        self._manager.wait_until_finished()
        if self._best_metric is None:
            return None
        steps = sorted(self._manager.all_steps())
        scores = {step: self._score(self._manager.metrics(step)) for step in steps}
        return max(steps, key=lambda step: (scores[step], step), default=None)

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with a step."""
        return dict(self._manager.metrics(step))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, bit for bit.

        Args:
          step: which.
          like: a state of the same form, arrays or abstract arrays; its shardings decide where
            the restored arrays lie, whatever devices wrote them.
        """
        items = {
            _VARIABLES: ocp.args.StandardRestore(like.variables),
            _OPTIMIZER: ocp.args.StandardRestore({"opt_state": like.opt_state}),
        }
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        return TrainState(
            step=jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), _sharding(like.step)),
            params=found[_VARIABLES]["params"],
            batch_stats=found[_VARIABLES].get("batch_stats", {}),
            opt_state=found[_OPTIMIZER]["opt_state"],
        )

    def restore_variables(self, step: int, like: Any) -> Any:
        """Returns only the variables of a step, laid out as those of `like`."""
        args = ocp.args.Composite(**{_VARIABLES: ocp.args.StandardRestore(like)})
        return self._manager.restore(step, args=args)[_VARIABLES]

    def _score(self, metrics: Mapping[str, float]) -> float:
        score = self._sign * metrics[self._best_metric]
        return score if math.isfinite(score) else -math.inf


def _sharding(array: Any) -> Sharding | None:
    return getattr(array, "sharding", None)


def abstract(tree: Any, sharding: Sharding) -> Any:
    """Returns the form of a tree of arrays, to be restored with a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )

"""Checkpoints of a run (Orbax): atomic writes, exact restores; the newest and best are kept."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers

from tl_jax import messages, trees
from tl_jax.training.state import TrainState

_VARIABLES, _OPTIMIZER, _EVALUATED = "variables", "optimizer", "evaluated"
_ITEMS = (_VARIABLES, _OPTIMIZER, _EVALUATED)


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or was written with another network or optimizer."""


class Checkpoints:
    """The checkpoints of one run, by step.

    The variables and the optimizer's state are separate items, so that a finished run can be read
    without knowing its optimizer. A third item holds the variables that were evaluated, if they
    differ from those that training continues with because they are averaged or recalibrated.

    Use as a context manager: leaving it waits for pending writes, and raises if one failed.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        best_metric: str,
        keep: int = 1,
        lower_is_better: bool = False,
    ) -> None:
        """Opens the checkpoints under `directory`.

        Args:
          directory: folder of the checkpoints; created if it is missing.
          best_metric: name of the metric, among those given to `save`, whose best checkpoint is
            kept.
          keep: number of the newest checkpoints that are kept too.
          lower_is_better: whether a lower `best_metric` is better.

        Raises:
          CheckpointError: if the metrics of a checkpoint are damaged.
        """
        self._sign = -1.0 if lower_is_better else 1.0
        self._best_metric = best_metric
        newest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=self._score, n=1)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
            best_fn=self._score,
        )
        handlers = {item: ocp.StandardCheckpointHandler() for item in _ITEMS}
        directory = Path(directory).absolute()
        try:
            self._manager = ocp.CheckpointManager(
                directory, options=options, item_handlers=handlers
            )
        except json.JSONDecodeError as error:
            raise CheckpointError(
                f"the metrics of a checkpoint under {directory} are damaged ({error}); delete the "
                "folder of this checkpoint's step"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(
        self,
        state: TrainState,
        metrics: Mapping[str, float],
        evaluated: trees.Tree | None = None,
    ) -> None:
        """Starts to write a state under its step; raises the error of an earlier write, if any.

        Args:
          state: the state that training continues with.
          metrics: of the evaluated variables; `best_metric` decides which checkpoint is best.
          evaluated: the variables that were evaluated; None for those of `state`.
        """
        self._manager.check_for_errors()
        items = {
            _VARIABLES: ocp.args.StandardSave(_without_empty(state.variables)),
            _OPTIMIZER: ocp.args.StandardSave({"opt_state": state.opt_state}),
        }
        if evaluated is not None:
            items[_EVALUATED] = ocp.args.StandardSave(_without_empty(evaluated))
        self._manager.save(
            int(state.step), args=ocp.args.Composite(**items), metrics=dict(metrics), force=True
        )

    def latest_step(self) -> int | None:
        """Returns the newest completely written step, or None if there is none."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the best metric (the newest of equals), or None."""
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps())
        scores = {step: self._score(self._manager.metrics(step)) for step in steps}
        return max(steps, key=lambda step: (scores[step], step), default=None)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, bit for bit.

        Args:
          step: the step to restore.
          like: a state of the same structure, arrays or abstract arrays; its shardings decide
            where the restored arrays lie, whatever devices wrote them.

        Raises:
          CheckpointError: if the checkpoint is damaged or has another structure; the message
            lists the variables that differ.
        """
        variables = self._restore_variables(step, _VARIABLES, like.variables)
        args = ocp.args.StandardRestore({"opt_state": like.opt_state})
        with self._wrap_errors(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**{_OPTIMIZER: args}))
        step_array = jax.numpy.asarray(step, jax.numpy.int32)
        return TrainState(
            step=jax.device_put(step_array, like.step.sharding),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=restored[_OPTIMIZER]["opt_state"],
        )

    def restore_variables(self, step: int, like: trees.Tree) -> dict[str, Any]:
        """Returns only the evaluated variables of a step, with the structure of `like`.

        An empty collection is left out. Raises as `restore` does.
        """
        self._manager.wait_until_finished()
        with self._wrap_errors(step):
            items = self._manager.item_metadata(step)
        return self._restore_variables(
            step, _EVALUATED if _EVALUATED in items else _VARIABLES, like
        )

    def _restore_variables(self, step: int, item: str, like: trees.Tree) -> dict[str, Any]:
        like = _without_empty(like)
        self._manager.wait_until_finished()
        with self._wrap_errors(step):
            saved = _shapes(self._manager.item_metadata(step)[item].tree)
        # Orbax's own error about a shape does not name the variable.
        expected, absent = _shapes(like), "nothing"
        problems = [
            f"{name}: got {saved.get(name, absent)}, expected {expected.get(name, absent)}"
            for name in sorted(saved.keys() | expected.keys())
            if saved.get(name) != expected.get(name)
        ]
        if problems:
            raise CheckpointError(
                messages.report(
                    f"{self._manager.directory / str(step)} does not fit the network; "
                    f"{len(problems)} variables differ:",
                    problems,
                    "build the network as it was when the checkpoint was written (name, head, "
                    "classes)",
                )
            )
        with self._wrap_errors(step):
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(like)})
            return self._manager.restore(step, args=args)[item]

    @contextlib.contextmanager
    def _wrap_errors(self, step: int) -> Iterator[None]:
        # Orbax raises errors of many types, and some do not say which file they are about.
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self._manager.directory / str(step)} cannot be restored: it is damaged, or was "
                "written with another optimizer. Delete this folder to continue from the "
                f"checkpoint before it. The cause: {error}"
            ) from error

    def _score(self, metrics: Mapping[str, float]) -> float:
        score = self._sign * metrics[self._best_metric]
        return score if math.isfinite(score) else -math.inf


def abstract(tree: Any, sharding: Sharding) -> Any:
    """Returns a tree of arrays as abstract arrays, to be restored with a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _without_empty(variables: trees.Tree) -> dict[str, Any]:
    """Leaves out empty collections, so that `{}` and a missing collection are the same."""
    return {name: collection for name, collection in variables.items() if collection}


def _shapes(tree: trees.Tree) -> dict[str, tuple[int, ...]]:
    return {trees.dotted(path): tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}

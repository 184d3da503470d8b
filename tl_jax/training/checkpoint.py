"""Checkpoints of a run: saved whole, restored exactly, the newest and the best kept (Orbax)."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers

from tl_jax import trees
from tl_jax.training.state import TrainState

_VARIABLES, _OPTIMIZER, _EVALUATED = "variables", "optimizer", "evaluated"
_ITEMS = (_VARIABLES, _OPTIMIZER, _EVALUATED)
_MOST_PROBLEMS = 12
_Shapes = Mapping[str, tuple[int, ...]]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be restored: it is damaged, or that of another network or optimizer."""


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run, by step.

    The variables and the optimizer's state are separate items, so that a finished run can be read
    without knowing its optimizer; and so are the variables to be used, where they are others than
    those that training goes on with (averaged or recalibrated ones). Use as a context manager:
    leaving it waits for what is being written, and raises if that failed.
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
          directory: where they lie; made if it is missing.
          best_metric: name of the metric, among those given to `save`, whose best checkpoint is
            kept.
          keep: how many of the newest are kept besides.
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
                "folder of its step"
            ) from error

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(
        self,
        state: TrainState,
        metrics: Mapping[str, float],
        evaluated: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes a state under its step, in the background; an error of the write before is raised.

        Args:
          state: what training goes on with.
          metrics: they decide which is best.
          evaluated: the variables that were measured and are to be used; None: those of `state`.
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
        """Returns the newest step that was saved whole, or None."""
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
          step: which.
          like: a state of the same form, arrays or abstract arrays; its shardings decide where
            the restored arrays lie, whatever devices wrote them.

        Raises:
          CheckpointError: if the checkpoint is damaged, or has another form; it lists the
            variables that differ.
        """
        variables = self._restore(step, _VARIABLES, like.variables)
        form = ocp.args.StandardRestore({"opt_state": like.opt_state})
        with self._naming(step):
            args = ocp.args.Composite(**{_OPTIMIZER: form})
            opt_state = self._manager.restore(step, args=args)[_OPTIMIZER]["opt_state"]
        return TrainState(
            step=jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), _sharding(like.step)),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=opt_state,
        )

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """Returns only the variables of a step that are to be used, laid out as those of `like`.

        An empty collection is left out. Raises as `restore` does.
        """
        self._manager.wait_until_finished()
        with self._naming(step):
            saved = self._manager.item_metadata(step)
        return self._restore(step, _EVALUATED if _EVALUATED in saved else _VARIABLES, like)

    def _restore(self, step: int, item: str, like: Any) -> dict[str, Any]:
        like = _without_empty(like)
        self._manager.wait_until_finished()
        with self._naming(step):
            stored = _shapes(self._manager.item_metadata(step)[item].tree)
        self._check_form(step, stored, _shapes(like))
        with self._naming(step):
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(like)})
            return self._manager.restore(step, args=args)[item]

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        # Orbax raises errors of many types, and some do not say which file they are about.
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self._manager.directory / str(step)} cannot be restored: it is damaged, or was "
                "written by another optimizer. Delete this folder to go on from the checkpoint "
                f"before it. The cause: {error}"
            ) from error

    def _check_form(self, step: int, stored: _Shapes, wanted: _Shapes) -> None:
        # Orbax's own error over a shape does not say whose it is.
        no = "not at all"
        problems = [
            f"{name}: saved {stored.get(name, no)}, wanted {wanted.get(name, no)}"
            for name in sorted(stored.keys() | wanted.keys())
            if stored.get(name) != wanted.get(name)
        ]
        if problems:
            listing = "\n  ".join(problems[:_MOST_PROBLEMS])
            raise CheckpointError(
                f"{self._manager.directory / str(step)} does not fit the network; "
                f"{len(problems)} variables differ:\n  {listing}\n"
                "build the network as it was when the checkpoint was written (name, head, classes)"
            )

    def _score(self, metrics: Mapping[str, float]) -> float:
        score = self._sign * metrics[self._best_metric]
        return score if math.isfinite(score) else -math.inf


def _without_empty(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out empty collections, which some say by `{}` and some by not naming them."""
    return {name: collection for name, collection in variables.items() if collection}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {trees.dotted(path): tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}


def _sharding(array: Any) -> Sharding | None:
    return getattr(array, "sharding", None)


def abstract(tree: Any, sharding: Sharding) -> Any:
    """Returns the form of a tree of arrays, to be restored with a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )

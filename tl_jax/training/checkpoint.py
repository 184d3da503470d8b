"""Checkpoints of a run (Orbax): atomic writes, exact restores; which of them are kept."""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from tl_jax import distributed, interrupt, messages, trees
from tl_jax.training import arrays, checkpoint_folder, manifest
from tl_jax.training.checkpoint_folder import Saved, Within
from tl_jax.training.retention import Retention
from tl_jax.training.state import TrainState

_VARIABLES, _OPTIMIZER, _EVALUATED = "variables", "optimizer", "evaluated"
_ITEMS = (_VARIABLES, _OPTIMIZER, _EVALUATED)


T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or was written with another network or optimizer."""


class Checkpoints:
    """The checkpoints of one run, by step.

    The variables and the optimizer's state are separate items, so that a finished run can be read
    without knowing its optimizer. A third item holds the variables that were evaluated, if they
    differ from those that training continues with because they are averaged or recalibrated.

    A checkpoint within an epoch is never the best, and is removed once there is a newer one. The
    others are kept as `keep` and `keep_every` say, and the best of them.

    What a kill left is ignored, and removed unless the checkpoints are only read. A checkpoint
    whose files are not what was written is passed over for the one before it; a line on standard
    error names it.

    Use as a context manager: leaving it waits for pending writes, and raises if one failed.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        best_metric: str | None,
        keep: int = 1,
        keep_every: int | None = None,
        lower_is_better: bool = False,
        read_only: bool = False,
    ) -> None:
        """Opens the checkpoints under `directory`.

        Args:
          directory: folder of the checkpoints; created if it is missing.
          best_metric: name of the metric, among those given to `save`, whose best checkpoint is
            kept; of equals the first. None: the newest checkpoint is the best.
          keep: number of the newest checkpoints that are kept too.
          keep_every: the checkpoints of every so many epochs are kept too; None: of none.
          lower_is_better: whether a lower `best_metric` is better.
          read_only: whether to leave the folder as it is.
        """
        self._directory = Path(directory).absolute()
        self._retention = Retention(best_metric, keep, keep_every, lower_is_better)
        self._read_only = read_only
        self._pending: tuple[int, Saved] | None = None
        self._manifest: Mapping[str, Any] = {}
        self._is_sound: set[tuple[Path, tuple[str, ...]]] = set()
        self._damaged: list[str] = []
        _silence_orbax()
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                metrics=ocp.JsonCheckpointHandler(filename="metrics"),
                **{item: ocp.StandardCheckpointHandler() for item in _ITEMS},
            ),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        if not read_only:
            if jax.process_index() == 0:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._say(checkpoint_folder.clear(self._directory))
            interrupt.writes.add(self._is_writing)
        self._steps = self._read_steps()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            self._finish()
        except CheckpointError as error:
            if error_type is None:
                raise
            self._say([str(error)])
        finally:
            interrupt.writes.discard(self._is_writing)
            self._checkpointer.close()

    def save(
        self,
        state: TrainState,
        metrics: Mapping[str, float],
        evaluated: trees.Tree | None = None,
        *,
        epoch: int | None = None,
        history: Sequence[Mapping[str, float]] = (),
        within: Within | None = None,
        skipped_steps: int = 0,
        labels: trees.Tree | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a state under its step; raises the error of an earlier write, if any.

        Args:
          state: the state that training continues with.
          metrics: of the evaluated variables; `best_metric` decides which checkpoint is best. A
            value that is not finite is left out, and never the best.
          evaluated: the variables that were evaluated; None for those of `state`.
          epoch: number of epochs done.
          history: the metrics after each of these epochs, the first epoch's first.
          within: where in the next epoch it is; None: at the end of an epoch.
          skipped_steps: steps that changed nothing, as they were not finite.
          labels: of the parameters, by which they are trained or frozen; for the manifest.
          origin: what the manifest says of the run, as JSON values.

        Raises:
          CheckpointError: if this or an earlier checkpoint cannot be written.
        """
        self._finish()
        step = int(state.step)
        saved = Saved(dict(metrics), epoch, tuple(history), within, skipped_steps)
        items = {
            "metrics": ocp.args.JsonSave(checkpoint_folder.record(saved)),
            _VARIABLES: ocp.args.StandardSave(arrays.without_empty(state.variables)),
            _OPTIMIZER: ocp.args.StandardSave({"opt_state": state.opt_state}),
        }
        if evaluated is not None:
            items[_EVALUATED] = ocp.args.StandardSave(arrays.without_empty(evaluated))
        held = {_VARIABLES: state.variables, _OPTIMIZER: state.opt_state, _EVALUATED: evaluated}
        listed = {
            item: manifest.arrays(tree, labels) for item, tree in held.items() if item in items
        }
        self._manifest = {"step": step, "epoch": epoch, **(origin or {}), "arrays": listed}
        self._pending = step, saved
        try:
            path = checkpoint_folder.path_of(self._directory, step, saved)
            self._checkpointer.save(path, args=ocp.args.Composite(**items))
        except Exception as error:
            raise self._not_written(error) from error

    def check_for_errors(self) -> None:
        """Raises a CheckpointError if a write in the background has failed; does not wait."""
        try:
            self._checkpointer.check_for_errors()
        except Exception as error:
            raise self._not_written(error) from error

    def saved(self, step: int) -> Saved:
        """Returns what a step says of itself: its epoch, its metrics, those of earlier epochs."""
        self._finish()
        return self._steps[step]

    def latest_step(self) -> int | None:
        """Returns the newest step that is whole, within an epoch or not, or None if there is none.

        Raises:
          CheckpointError: if there are only damaged ones, and the checkpoints are only read.
        """
        self._finish()
        step = self._first_sound(lambda steps: max(steps, default=None), _ITEMS)
        if step is None and self._damaged and self._read_only:
            raise self._all_damaged()
        if not self._read_only:
            self._remove_old()
        return step

    def best_step(self) -> int | None:
        """Returns the step with the best metric (the first of equals), or None if no epoch is done.

        Raises:
          CheckpointError: if there are only damaged ones.
        """
        self._finish()
        step = self._first_sound(self._retention.best, (_VARIABLES, _EVALUATED))
        if step is None and self._damaged:
            raise self._all_damaged()
        return step

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
            self._check(step, (_OPTIMIZER,))
            restored = self._checkpointer.restore(
                self._folder(step), args=ocp.args.Composite(**{_OPTIMIZER: args})
            )
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
        self._finish()
        has_evaluated = (self._folder(step) / _EVALUATED).is_dir()
        return self._restore_variables(step, _EVALUATED if has_evaluated else _VARIABLES, like)

    def _restore_variables(self, step: int, item: str, like: trees.Tree) -> dict[str, Any]:
        like = arrays.without_empty(like)
        self._finish()
        with self._wrap_errors(step):
            self._check(step, (item,))
            saved = self._checkpointer.metadata(self._folder(step)).item_metadata[item].tree
        differences = arrays.differences(saved, like)
        if differences:
            raise CheckpointError(
                messages.report(
                    f"{self._folder(step)} does not fit the network; "
                    f"{len(differences)} variables differ:",
                    differences,
                    "build the network as it was when the checkpoint was written (name, head, "
                    "classes)",
                )
            )
        with self._wrap_errors(step):
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(like)})
            return self._checkpointer.restore(self._folder(step), args=args)[item]

    @contextlib.contextmanager
    def _wrap_errors(self, step: int) -> Iterator[None]:
        # Orbax raises errors of many types, and some do not say which file they are about.
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self._folder(step)} cannot be restored: it is damaged, or was written with "
                "another optimizer. Delete this folder to continue from the checkpoint before it. "
                f"The cause: {error}"
            ) from error

    def _first_sound(
        self, choose: Callable[[Mapping[int, Saved]], int | None], items: tuple[str, ...]
    ) -> int | None:
        """Returns the step that `choose` prefers among those whose items are not damaged."""
        while (step := choose(self._steps)) is not None:
            try:
                self._check(step, items)
            except CheckpointError as error:
                self._pass_over(step, str(error))
            else:
                return step
        return None

    def _check(self, step: int, items: tuple[str, ...]) -> None:
        """Raises a CheckpointError if files of some items of a step are damaged."""
        folder = self._folder(step)
        if (folder, items) in self._is_sound:
            return
        damage = self._on_first(lambda: checkpoint_folder.damage(folder, items))
        if damage is not None:
            raise CheckpointError(damage)
        self._is_sound.add((folder, items))

    def _pass_over(self, step: int, damage: str) -> None:
        """Forgets a damaged step, and sets it aside if the folder may be changed."""
        folder = self._folder(step)
        if not self._on_first(folder.is_dir):  # A run that is trained has removed it meanwhile.
            self._steps = self._read_steps()
            return
        del self._steps[step]
        note = f"the checkpoint {folder} is damaged ({damage}), and another one is used"
        if not self._read_only and jax.process_index() == 0:
            note = checkpoint_folder.set_aside(folder, damage)
        self._damaged.append(note)
        self._say([note])

    def _all_damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self._directory} holds no checkpoint that can be read. {'; '.join(self._damaged)}. "
            "Train the run again: the same command on this folder begins anew"
        )

    def _read_steps(self) -> dict[int, Saved]:
        """Returns the whole steps, as the first process sees them."""
        listed = self._on_first(
            lambda: [
                (step, checkpoint_folder.record(saved))
                for step, saved in checkpoint_folder.whole_steps(self._directory).items()
            ]
        )
        return {step: checkpoint_folder.parse(fields) for step, fields in listed}

    def _on_first(self, function: Callable[[], T]) -> T:
        """Returns what the first process finds; of checkpoints that are only read each looks."""
        return function() if self._read_only else distributed.first(function)

    def _finish(self) -> None:
        """Waits for a pending write, and removes what it replaces; raises if it failed."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        if self._pending is not None:
            step, saved = self._pending
            if step in self._steps:  # Within an epoch, at its last step.
                self._remove(step)
            self._steps[step], self._pending = saved, None
            self._remove_old()

    def _is_writing(self) -> bool:
        """Whether a checkpoint is being written that may yet become whole."""
        pending = self._pending
        if pending is None or checkpoint_folder.path_of(self._directory, *pending).exists():
            return False
        try:
            self.check_for_errors()
        except CheckpointError:
            return False
        return True

    def _not_written(self, error: Exception) -> CheckpointError:
        where = self._directory
        if self._pending is not None:
            where = checkpoint_folder.path_of(where, *self._pending)
            self._pending = None
        # Orbax's messages end with lines of its source.
        cause = str(error).split("[source locations")[0].strip()
        return CheckpointError(
            f"the checkpoint {where} could not be written: {cause}\n"
            "make room on the disk, or mend what the cause names; the same command then goes on "
            "from the checkpoint before it"
        )

    def _seal(self) -> None:
        """Called by Orbax's thread when all of a checkpoint is written, before it is renamed."""
        if self._pending is not None and jax.process_index() == 0:
            path = checkpoint_folder.path_of(self._directory, *self._pending)
            checkpoint_folder.seal(path, self._manifest)

    def _remove_old(self) -> None:
        for step in self._steps.keys() - self._retention.kept(self._steps):
            self._remove(step)

    def _remove(self, step: int) -> None:
        folder = self._folder(step)
        del self._steps[step]
        if jax.process_index() == 0:
            checkpoint_folder.remove(folder)

    def _folder(self, step: int) -> Path:
        saved = self._steps.get(step, Saved({}))
        return checkpoint_folder.path_of(self._directory, step, saved)

    @staticmethod
    def _say(notes: Iterable[str]) -> None:
        if jax.process_index() == 0:
            for note in notes:
                print(note, file=sys.stderr, flush=True)


@functools.cache
def _silence_orbax() -> None:
    """Drops tracebacks of failed reads and writes, each of which is raised as a CheckpointError.

    Orbax logs each three times, and tensorstore's threads then miss the loop that it has closed.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    hook = sys.unraisablehook

    def print_others(unraisable: Any) -> None:
        if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = print_others

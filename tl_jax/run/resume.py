"""Where a run goes on: its newest checkpoint, and the records that belong to it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from tl_jax import distributed, messages
from tl_jax.run import journal
from tl_jax.run import metrics as run_metrics
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.run.journal import Journal
from tl_jax.run.progress import log
from tl_jax.run.report import ZERO_SHOT
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.checkpoint_folder import Within
from tl_jax.training.state import TrainState, not_finite


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run goes on; the default is its beginning.

    Attributes:
      state: of the newest checkpoint; None at the beginning.
      epochs_done: number of epochs that are done and evaluated.
      within: what was done of the next epoch; None: nothing.
      history: the metrics after each epoch that is done.
      skipped_steps: steps so far that changed nothing, as they were not finite.
    """

    state: TrainState | None = None
    epochs_done: int = 0
    within: Within | None = None
    history: tuple[Mapping[str, float], ...] = ()
    skipped_steps: int = 0

    def begun(self, epoch: int) -> Within:
        """Returns what was done of an epoch before."""
        is_begun = self.within is not None and epoch == self.epochs_done + 1
        return self.within if self.within is not None and is_begun else Within(0)

    def steps_done(self, steps_per_epoch: int) -> int:
        """Returns the number of steps done in all."""
        within = 0 if self.within is None else self.within.steps
        return self.epochs_done * steps_per_epoch + within


def find(experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints) -> Place:
    """Restores the newest checkpoint, and says where in the run it is.

    Raises:
      FloatingPointError: if its variables are not finite.
    """
    saved_step = checkpoints.latest_step()
    if saved_step is None:
        return Place()
    saved = checkpoints.saved(saved_step)
    state = experiment.restore(checkpoints, saved_step)
    epochs_done = experiment.epoch_of(checkpoints, saved_step)
    where = f"epoch {epochs_done} of {experiment.num_epochs}"
    if saved.within is not None:
        steps = f"step {saved.within.steps} of {experiment.steps_per_epoch}"
        where = f"epoch {epochs_done + 1} of {experiment.num_epochs}, {steps}"
    if names := not_finite(state.variables):  # Earlier versions did not look before they wrote.
        raise FloatingPointError(
            f"the checkpoint of {where}, from which this run would go on, holds NaN or "
            f"infinity in {messages.some(names, quoted=False)}. Lower optim.learning_rate or set "
            "optim.clip_norm, and train into another folder (--workdir); predict, evaluate and "
            "export use the best checkpoint of this one"
        )
    log(f"resumed from {where}")
    history = saved.history
    if len(history) < epochs_done:  # An earlier version wrote the checkpoint.
        history = _history_of_records(experiment, folder, checkpoints, epochs_done)
    return Place(state, epochs_done, saved.within, history, saved.skipped_steps)


def open_journal(experiment: Experiment, folder: RunFolder, place: Place) -> Journal:
    """Opens the records of a run that goes on at a place."""
    # At the beginning the zero-shot accuracy, which has step 0, is recorded again too.
    steps_done = place.steps_done(experiment.steps_per_epoch)
    return Journal(
        folder.path,
        after_step=-1 if place.state is None else steps_done,
        is_evaluated=place.within is None,
        enabled=jax.process_index() == 0,
    )


def say_lost_epochs(experiment: Experiment, folder: RunFolder, place: Place) -> None:
    """Says which epochs that are done have no record of their evaluation."""
    split = experiment.config.data.eval_split
    known = [record["epoch"] for record in journal.read(folder.path) if record["split"] == split]
    lost = [str(epoch) for epoch in range(1, place.epochs_done + 1) if epoch not in known]
    if lost and split is not None:
        log(
            f"note: {folder.path / 'metrics.jsonl'} has no record of epoch "
            f"{messages.some(lost, quoted=False)}; the curves will lack what is gone, training and "
            "early stopping do not need it"
        )


def lacks_zero_shot(folder: RunFolder) -> bool:
    """Returns whether the accuracy before training has no record, on all processes the same."""
    is_lost: bool = distributed.first(
        lambda: all(record["split"] != ZERO_SHOT for record in journal.read(folder.path))
    )
    return is_lost


def _history_of_records(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints, epochs_done: int
) -> tuple[Mapping[str, float], ...]:
    """Returns the metrics of each epoch by the journal, and by the checkpoints that are kept.

    An epoch that neither knows has no metrics: it is no improvement, as the best one is kept.
    """
    split, best_metric = experiment.config.data.eval_split, experiment.config.train.best_metric
    recorded = distributed.first(
        lambda: [record for record in journal.read(folder.path) if record["split"] == split]
    )
    known: dict[float, Mapping[str, Any]] = {record["epoch"]: record for record in recorded}
    for step in (checkpoints.best_step(), checkpoints.latest_step()):
        if step is not None:
            known[experiment.epoch_of(checkpoints, step)] = checkpoints.saved(step).metrics
    return tuple(
        run_metrics.kept(known.get(epoch, {}), best_metric) for epoch in range(1, epochs_done + 1)
    )

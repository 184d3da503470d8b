"""The epochs of a run: their steps and records, checkpoints within them, and their evaluation."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from tl_jax import config as configuration
from tl_jax import trees
from tl_jax.run import divergence, train_records
from tl_jax.run import metrics as run_metrics
from tl_jax.run.experiment import Experiment
from tl_jax.run.journal import Journal
from tl_jax.run.phases import Phase
from tl_jax.run.progress import Progress, clock, log
from tl_jax.run.report import ZERO_SHOT
from tl_jax.run.stops import StoppedError, Stops
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.checkpoint_folder import Within
from tl_jax.training.state import TrainState
from tl_jax.training.step import TrainStep


@dataclasses.dataclass
class Training:
    """What the epochs of a run share.

    Attributes:
      experiment: the run.
      checkpoints: of the run.
      records: of the run.
      stops: whether the run was asked to stop.
      history: the metrics after each epoch that is done; grows.
      skipped_steps: steps so far that changed nothing, as they were not finite; grows.
    """

    experiment: Experiment
    checkpoints: Checkpoints
    records: Journal
    stops: Stops
    history: list[Mapping[str, float]]
    skipped_steps: int = 0

    def save(
        self,
        phase: Phase,
        state: TrainState,
        evaluated: trees.Tree | None = None,
        *,
        within: Within | None = None,
        skipped_steps: int = 0,
    ) -> None:
        """Starts to save the state after the last epoch of the history, or within the next one."""
        metrics = self.history[-1] if within is None else {}
        self.checkpoints.save(
            state,
            metrics,
            evaluated,
            epoch=len(self.history),
            history=self.history,
            within=within,
            skipped_steps=self.skipped_steps + skipped_steps,
            labels=phase.plan,
            origin=_origin(self.experiment, phase),
        )

    def stop(self, step: int) -> None:
        """Ends training after the saved step, within the epoch after those of the history.

        Raises:
          CheckpointError: if it could not be saved.
          StoppedError: if it could.
        """
        latest = self.checkpoints.latest_step()  # Waits for the write.
        epochs, steps = self.experiment.num_epochs, self.experiment.steps_per_epoch
        where = "before the first step" if latest is None else f"after epoch {len(self.history)}"
        if step:
            where = f"after step {step} of {steps} of epoch {len(self.history) + 1}"
        raise StoppedError(
            f"asked to stop, and stopped {where}, of {epochs} epochs; all of it is saved, and the "
            "same command continues from here"
        )


def train(
    training: Training,
    phase: Phase,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    state: TrainState,
    *,
    begun: Within,
    compiles: bool,
) -> TrainState:
    """Trains the epoch after those of the history, and records losses and learning rates.

    Args:
      training: the run.
      phase: of the epoch.
      train_step: of the phase.
      batches: from the first step on that is not done.
      state: after the steps that are done; donated.
      begun: what was done of the epoch by an earlier process.
      compiles: whether the first step is compiled.

    Raises:
      CheckpointError: if a write has failed.
      FloatingPointError: if the loss or a gradient of a step is not finite, or what is to be saved.
      StoppedError: if the run was asked to stop; the state is saved.
    """
    experiment, epoch = training.experiment, len(training.history) + 1
    steps_per_epoch, options = experiment.steps_per_epoch, experiment.config.train
    first_step = (epoch - 1) * steps_per_epoch
    with Progress(
        f"epoch {epoch}/{experiment.num_epochs} ({phase.name})",
        steps=steps_per_epoch,
        images_per_step=experiment.config.data.batch_size,
        steps_done=begun.steps,
        compiles=compiles,
        enabled=jax.process_index() == 0,
    ) as progress:

        def record(steps_done: int, means: dict[str, float]) -> None:
            progress.finish(means["loss"], steps_done)
            step_of_phase = first_step - phase.start_epoch * steps_per_epoch + steps_done - 1
            rates = train_records.learning_rates(phase, step_of_phase)
            rate = progress.images_per_second
            speed = {} if rate is None else {"images_per_second": rate}
            step = first_step + steps_done
            training.records.write("train", step, step / steps_per_epoch, means | rates | speed)

        intervals = train_records.Intervals(
            options.log_every, record, steps_done=begun.steps, interval=begun.interval
        )
        for step in range(begun.steps + 1, steps_per_epoch + 1):
            state, step_metrics = train_step(state, next(batches))
            progress.update(step_metrics)
            training.checkpoints.check_for_errors()
            intervals.add(step_metrics)
            if step == steps_per_epoch:
                intervals.finish()
            is_stop = training.stops.wanted()
            if is_stop or (options.save_every and (first_step + step) % options.save_every == 0):
                within = Within(step, intervals.flush())
                divergence.check_state(state)
                training.save(phase, state, within=within, skipped_steps=intervals.skipped)
            if is_stop:
                training.stop(step)
    if intervals.skipped:
        log(f"note: {intervals.skipped} steps of epoch {epoch} were not finite and were skipped")
    training.skipped_steps += intervals.skipped
    if intervals.skipped == steps_per_epoch:  # Training would stand still for ever.
        raise FloatingPointError("the loss or a gradient is not finite in every step")
    return state


def evaluate_and_save(training: Training, phase: Phase, state: TrainState) -> None:
    """Evaluates and saves the epoch after those of the history, which gets its metrics.

    Raises:
      FloatingPointError: if the state or its loss on the evaluation split is not finite.
      StoppedError: if the run was asked to stop; the state is saved as one that is not evaluated.
    """
    experiment = training.experiment
    evaluated = experiment.variables_to_evaluate(phase, state)
    try:
        metrics = _evaluate(training, evaluated or state.variables)
    except _StopAskedError:
        divergence.check_state(state)
        steps = experiment.steps_per_epoch
        if training.checkpoints.latest_step() != int(state.step):
            training.save(phase, state, within=Within(steps))
        training.stop(steps)
    divergence.check_state(state)
    training.history.append(run_metrics.kept(metrics, experiment.config.train.best_metric))
    training.save(phase, state, evaluated)


class _StopAskedError(Exception):
    """The run was asked to stop while it is evaluated."""


def _evaluate(training: Training, variables: trees.Tree) -> dict[str, Any]:
    """Evaluates on the evaluation split after an epoch, and records the metrics; {} without one."""
    experiment, epoch = training.experiment, len(training.history) + 1
    start_time = time.monotonic()
    split = experiment.config.data.eval_split
    if split is None:
        log(f"epoch {epoch}/{experiment.num_epochs} done")
        return {}

    def look_for_a_stop() -> None:
        if training.stops.wanted():
            raise _StopAskedError

    included = "" if experiment.evaluator.compiled else " with compilation"
    metrics = experiment.evaluator.evaluate(
        variables,
        experiment.held_out[split],
        costly=(experiment.config.train.best_metric,),  # The report has all of them.
        after_batch=look_for_a_stop,
    ).metrics
    step = epoch * experiment.steps_per_epoch
    training.records.write(split, step, epoch, run_metrics.by_name(metrics))
    log(
        f"epoch {epoch}/{experiment.num_epochs}  {split}: {run_metrics.sentence(metrics)}, "
        f"in {clock(time.monotonic() - start_time)}{included}"
    )
    return metrics


def record_zero_shot(experiment: Experiment, records: Journal) -> None:
    """Records the accuracy of the carried-over classifier before any training, if there is one."""
    zero_shot = experiment.zero_shot()
    if zero_shot is None:
        return
    values = {
        "accuracy": zero_shot.accuracy,
        "matched_accuracy": zero_shot.matched_accuracy,
        "examples": zero_shot.examples,
        "of_matched_classes": zero_shot.of_matched_classes,
    }
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    records.write(ZERO_SHOT, 0, 0, finite)
    log(
        f"before training, {experiment.first_held_out.split}: accuracy {zero_shot.accuracy:.4f} "
        f"by the pretrained classifier alone ({zero_shot.correct} of {zero_shot.examples}; "
        f"{zero_shot.of_matched_classes} are of classes that it knows)"
    )


def _origin(experiment: Experiment, phase: Phase) -> dict[str, Any]:
    """Returns what the manifest of a checkpoint says of its run."""
    return {
        "phase": phase.name,
        "class_names": list(experiment.info.class_names),
        "versions": dict(experiment.info.versions),
        "config": json.loads(configuration.to_json(experiment.config)),
    }

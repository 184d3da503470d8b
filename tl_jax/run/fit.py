"""`fit`: trains a network, from a configuration to the folder of a finished run."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax import trees
from tl_jax.config import Config
from tl_jax.run import journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.run.journal import Journal
from tl_jax.run.phases import Phase
from tl_jax.run.progress import Progress, clock, log
from tl_jax.run.report import ZERO_SHOT, write_report
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.state import TrainState
from tl_jax.training.step import Metrics, TrainStep

_CHECKPOINT_METRICS = ("loss", "accuracy", "balanced_accuracy", "macro_f1")


def fit(
    config: Config, workdir: str | Path, *, stop_after_epoch: int | None = None
) -> dict[str, Any] | None:
    """Trains a network as configured, and reports on the best checkpoint.

    Called again on the same folder it continues from the newest checkpoint, and ends with the same
    parameters and metrics as a run that was never interrupted.

    Args:
      config: the experiment.
      workdir: the run's folder; created if it is missing. It gets `config.json`, `run.json`,
        `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `curves.png`, `confusion.png` and
        `report.json`.
      stop_after_epoch: stop once this many epochs are done in total; the next call continues.

    Returns:
      The report, as in `report.json`: epochs, the best one, metrics by split; None if
      `stop_after_epoch` ended the call before the end of the run.

    Raises:
      ValueError: if the folder holds a run of another configuration, or the configuration does not
        fit the data or the devices.
      FloatingPointError: if the training loss is not finite.

    Examples:
      >>> from tl_jax.config import DataConfig, ModelConfig, TrainConfig
      >>> config = Config(
      ...     ModelConfig("simple_cnn", weights="random"),
      ...     DataConfig("digits", shots=2, image_size=16),
      ...     train=TrainConfig(epochs=1))
      >>> report = fit(config, "runs/digits")
      >>> report["metrics"]["validation"]["count"]
      269
    """
    folder = RunFolder(workdir)
    folder.claim(config)
    report = folder.read_report()
    if report is not None:
        log(f"{folder.path} holds a finished run of this configuration; its report is returned")
        return report
    experiment = Experiment.from_config(config)
    folder.write_info(experiment.info)
    log(experiment.description)
    with folder.open_checkpoints(config) as checkpoints:
        epochs_done, reason = _train(experiment, folder, checkpoints, stop_after_epoch)
        where = f"stopped after epoch {epochs_done} of {experiment.num_epochs}"
        if reason is not None:
            log(f"{where}: {reason}")
        elif epochs_done < experiment.num_epochs:
            log(f"{where}; the same command continues from here")
            return None
        return write_report(experiment, folder, checkpoints, reason)


def _train(
    experiment: Experiment,
    folder: RunFolder,
    checkpoints: Checkpoints,
    stop_after_epoch: int | None,
) -> tuple[int, str | None]:
    """Trains from the newest checkpoint, or from the initial variables.

    Returns:
      The number of epochs done, and why training stopped early; None if it did not.
    """
    options, steps_per_epoch = experiment.config.train, experiment.steps_per_epoch
    last_epoch = experiment.num_epochs
    if stop_after_epoch is not None:
        last_epoch = min(stop_after_epoch, last_epoch)
    state: TrainState | None = None
    epochs_done = 0
    saved_step = checkpoints.latest_step()
    if saved_step is not None:
        state = experiment.restore(checkpoints, saved_step)
        epochs_done = saved_step // steps_per_epoch
        log(f"resumed from epoch {epochs_done} of {experiment.num_epochs}")
    history = [
        record[options.best_metric]
        for record in journal.read(folder.path)
        if record["split"] == experiment.config.data.eval_split and record["epoch"] <= epochs_done
    ]
    stopping = experiment.stopping
    # Without a checkpoint the zero-shot accuracy, which has step 0, is recorded again too.
    after_step = epochs_done * steps_per_epoch if epochs_done else -1
    with (
        contextlib.closing(experiment.train_batches(epochs_done * steps_per_epoch)) as batches,
        Journal(folder.path, after_step=after_step, enabled=jax.process_index() == 0) as records,
    ):
        if state is None:
            _record_zero_shot(experiment, records)
        for phase in experiment.phases:
            epochs = range(max(phase.start_epoch, epochs_done) + 1, phase.end_epoch + 1)
            if not epochs or epochs[0] > last_epoch:
                continue
            if stopping.decide(history):
                break
            log(f"phase    {phase.name}, epochs {phase.start_epoch + 1} to {phase.end_epoch}")
            log(phase.description)
            if state is None or epochs_done == phase.start_epoch:
                state = experiment.begin(phase, state)
            train_step = experiment.compile_step(phase)
            for epoch in epochs:
                state = _train_epoch(experiment, phase, epoch, train_step, batches, state, records)
                evaluated = experiment.variables_to_evaluate(phase, state)
                metrics = _evaluate(experiment, epoch, evaluated or state.variables, records)
                scores = {name: metrics[name] for name in _CHECKPOINT_METRICS}
                checkpoints.save(state, scores, evaluated)
                history.append(metrics[options.best_metric])
                epochs_done = epoch
                if epoch == last_epoch or stopping.decide(history):
                    break
    if epochs_done >= last_epoch:
        return epochs_done, None
    return epochs_done, stopping.decide(history)


def _train_epoch(
    experiment: Experiment,
    phase: Phase,
    epoch: int,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    state: TrainState,
    records: Journal,
) -> TrainState:
    """Trains one epoch, and records losses and learning rates."""
    steps_per_epoch = experiment.steps_per_epoch
    trained_labels = set(jax.tree.leaves(phase.plan))
    pending: list[Metrics] = []
    with Progress(
        f"epoch {epoch}/{experiment.num_epochs} ({phase.name})",
        steps=steps_per_epoch,
        images_per_step=experiment.config.data.batch_size,
        enabled=jax.process_index() == 0,
    ) as progress:
        for steps_done in range(1, steps_per_epoch + 1):
            state, step_metrics = train_step(state, next(batches))
            pending.append(step_metrics)
            if steps_done % experiment.config.train.log_every and steps_done < steps_per_epoch:
                progress.update()
                continue
            means = _means(pending, epoch)
            pending = []
            step_of_phase = (epoch - 1 - phase.start_epoch) * steps_per_epoch + steps_done - 1
            rates = {
                f"learning_rate_{label}": float(schedule(step_of_phase))
                for label, schedule in phase.schedules.items()
                if label in trained_labels
            }
            speed = {"images_per_second": progress.images_per_second}
            step = (epoch - 1) * steps_per_epoch + steps_done
            records.write("train", step, step / steps_per_epoch, means | rates | speed)
            progress.update(means["loss"])
    return state


def _means(pending: list[Metrics], epoch: int) -> dict[str, float]:
    """Returns the mean metrics of some steps; waits until they are computed."""
    values = jax.device_get(pending)
    means = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the training loss is {means['loss']} in epoch {epoch}; lower optim.learning_rate, "
            "set optim.clip_norm, or lengthen optim.warmup_epochs (the newest checkpoint is intact)"
        )
    return means


def _evaluate(
    experiment: Experiment, epoch: int, variables: trees.Tree, records: Journal
) -> dict[str, Any]:
    """Evaluates on the evaluation split after an epoch, and records the metrics."""
    start_time = time.monotonic()
    split = experiment.config.data.eval_split
    metrics, _ = experiment.evaluator(variables, experiment.held_out[split])
    records.write(split, epoch * experiment.steps_per_epoch, epoch, metrics)
    low, high = metrics["accuracy_interval"]
    log(
        f"epoch {epoch}/{experiment.num_epochs}  {split}: loss {metrics['loss']:.4f}, accuracy "
        f"{metrics['accuracy']:.4f} ({low:.3f} to {high:.3f}), balanced "
        f"{metrics['balanced_accuracy']:.4f}, in {clock(time.monotonic() - start_time)}"
    )
    return metrics


def _record_zero_shot(experiment: Experiment, records: Journal) -> None:
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
        f"before training, {experiment.config.data.eval_split}: accuracy {zero_shot.accuracy:.4f} "
        f"by the pretrained classifier alone ({zero_shot.correct} of {zero_shot.examples}; "
        f"{zero_shot.of_matched_classes} are of classes that it knows)"
    )

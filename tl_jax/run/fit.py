"""`fit`: trains a network, from a configuration to the folder of a finished run."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from tl_jax import messages, process, trees
from tl_jax.config import Config, changes
from tl_jax.run import data, examples, journal, longer, train_records
from tl_jax.run import metrics as run_metrics
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.run.initial import with_architecture
from tl_jax.run.journal import Journal
from tl_jax.run.phases import Phase
from tl_jax.run.progress import Progress, clock, log
from tl_jax.run.report import ZERO_SHOT, write_report
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.checkpoint_folder import Saved
from tl_jax.training.state import TrainState, not_finite
from tl_jax.training.step import TrainStep


def fit(
    config: Config, workdir: str | Path, *, stop_after_epoch: int | None = None
) -> dict[str, Any] | None:
    """Trains a network as configured, and reports on the best checkpoint.

    Without an evaluation split (`data.eval_split` None) that is the last one.

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
    _check_arguments(config, stop_after_epoch)
    process.prepare()
    config = with_architecture(config)
    folder = RunFolder(workdir)
    with folder.locked():
        existing = folder.check(config)
        report = folder.finished(config)
        if report is not None:
            _check_data_of_finished(folder, config)
            log(f"{folder.path} holds a finished run of this configuration; its report is returned")
            return report
        experiment = Experiment.from_config(config)
        experiment.check()
        if existing is not None:
            _check_continuation(existing, experiment, folder)
        folder.claim(config, experiment.info, experiment.examples)
        log(f"{experiment.description}\nworkdir  {folder.path}")
        with folder.open_checkpoints(config) as checkpoints:
            epochs_done, reason = _train(experiment, folder, checkpoints, stop_after_epoch)
            where = f"stopped after epoch {epochs_done} of {experiment.num_epochs}"
            if reason is not None:
                log(f"{where}: {reason}")
            elif epochs_done < experiment.num_epochs:
                log(f"{where}; the same command continues from here")
                return None
            return write_report(experiment, folder, checkpoints, reason)


def _check_arguments(config: Config, stop_after_epoch: int | None) -> None:
    if not isinstance(config, Config):
        raise TypeError(
            f"got a {type(config).__name__} as configuration; expected a tl_jax.Config, such as "
            "Config(data=DataConfig('folder:photos'))"
        )
    is_number = isinstance(stop_after_epoch, int) and not isinstance(stop_after_epoch, bool)
    if stop_after_epoch is not None and not (is_number and stop_after_epoch >= 1):
        raise ValueError(
            f"got stop_after_epoch={stop_after_epoch!r}; expected a number of epochs, 1 or more"
        )


def _check_data_of_finished(folder: RunFolder, config: Config) -> None:
    """Checks that the report of a finished run is one on the data as they are, if they are there.

    The record of an earlier version cannot tell.
    """
    before = folder.read_info()
    if not before.digests:
        return
    try:
        splits = data.open_splits(config)
    except (OSError, ValueError) as error:
        log(f"note: the data of the run cannot be read now ({error})")
        return
    train = next(iter(splits.values()))
    tasks = data.learned_tasks(config, train)
    listed = {split: examples.of_source(source, tasks) for split, source in splits.items()}
    now = dataclasses.replace(
        before,
        class_names=tuple(train.class_names),
        examples={split: len(source) for split, source in splits.items()},
        digests={split: each.digest for split, each in listed.items()},
        tasks=tasks,
        inputs=train.inputs,
    )
    folder.compare(config, now, listed)


def _check_continuation(existing: Config, experiment: Experiment, folder: RunFolder) -> None:
    """Checks that the run in a folder can go on as an experiment: same data, same epochs so far."""
    folder.compare(existing, experiment.info, experiment.examples)
    steps_per_epoch, config = experiment.steps_per_epoch, experiment.config
    step, saved = folder.newest() or (0, Saved({}))
    longer.check(
        existing,
        config,
        epochs_done=saved.epochs_done(step, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        folder=str(folder.path),
    )
    if changes.changed(existing, config) & changes.LENGTH:
        longer.check_stopping(experiment.stopping, saved.history, folder=str(folder.path))


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
    steps_per_epoch, stopping = experiment.steps_per_epoch, experiment.stopping
    last_epoch = experiment.num_epochs
    if stop_after_epoch is not None:
        last_epoch = min(stop_after_epoch, last_epoch)
    state, epochs_done, history = _resume(experiment, folder, checkpoints)

    def why_stop() -> str | None:
        return stopping.decide([scores.get(stopping.metric, math.nan) for scores in history])

    # Without a checkpoint the zero-shot accuracy, which has step 0, is recorded again too.
    after_step = epochs_done * steps_per_epoch if epochs_done else -1
    with (
        contextlib.closing(experiment.train_batches(epochs_done * steps_per_epoch)) as batches,
        Journal(folder.path, after_step=after_step, enabled=jax.process_index() == 0) as records,
    ):
        _complete_records(experiment, folder, epochs_done, records)
        for phase in experiment.phases:
            epochs = range(max(phase.start_epoch, epochs_done) + 1, phase.end_epoch + 1)
            if not epochs or epochs[0] > last_epoch:
                continue
            if why_stop():
                break
            log(f"phase    {phase.name}, epochs {phase.start_epoch + 1} to {phase.end_epoch}")
            log(phase.description)
            if state is None or epochs_done == phase.start_epoch:
                state = experiment.begin(phase, state)
            train_step = experiment.compile_step(phase)
            for epoch in epochs:
                compiles = epoch == epochs[0]
                with _explained_divergence(experiment, checkpoints, epoch):
                    state = _train_epoch(
                        experiment, phase, epoch, train_step, batches, state, records, checkpoints,
                        compiles=compiles,
                    )  # fmt: skip
                    evaluated = experiment.variables_to_evaluate(phase, state)
                    metrics = _evaluate(experiment, epoch, evaluated or state.variables, records)
                    _check_finite(state)
                history.append(run_metrics.kept(metrics, experiment.config.train.best_metric))
                checkpoints.save(state, history[-1], evaluated, epoch=epoch, history=history)
                epochs_done = epoch
                if epoch == last_epoch or why_stop():
                    break
    return epochs_done, None if epochs_done >= last_epoch else why_stop()


def _resume(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints
) -> tuple[TrainState | None, int, list[Mapping[str, float]]]:
    """Returns the state of the newest checkpoint, its epoch, and the metrics of the epochs so far.

    Without a checkpoint these are None, 0 and an empty list.
    """
    saved_step = checkpoints.latest_step()
    if saved_step is None:
        return None, 0, []
    state = experiment.restore(checkpoints, saved_step)
    epochs_done = experiment.epoch_of(checkpoints, saved_step)
    if names := not_finite(state.variables):  # Earlier versions did not look before they wrote.
        raise FloatingPointError(
            f"the checkpoint of epoch {epochs_done}, from which this run would go on, holds NaN or "
            f"infinity in {messages.some(names, quoted=False)}. Lower optim.learning_rate or set "
            "optim.clip_norm, and train into another folder (--workdir); predict, evaluate and "
            "export use the best checkpoint of this one"
        )
    log(f"resumed from epoch {epochs_done} of {experiment.num_epochs}")
    history = list(checkpoints.saved(saved_step).history)
    if len(history) < epochs_done:  # An earlier version wrote the checkpoint.
        history = _history_of_records(experiment, folder, checkpoints, epochs_done)
    return state, epochs_done, history


def _history_of_records(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints, epochs_done: int
) -> list[Mapping[str, float]]:
    """Returns the metrics of each epoch by the journal, and by the checkpoints that are kept.

    An epoch that neither knows has no metrics: it is no improvement, as the best one is kept.
    """
    known: dict[float, Mapping[str, Any]] = {
        record["epoch"]: record
        for record in journal.read(folder.path)
        if record["split"] == experiment.config.data.eval_split
    }
    for step in (checkpoints.best_step(), checkpoints.latest_step()):
        if step is not None:
            known[experiment.epoch_of(checkpoints, step)] = checkpoints.saved(step).metrics
    best_metric = experiment.config.train.best_metric
    return [
        run_metrics.kept(known.get(epoch, {}), best_metric) for epoch in range(1, epochs_done + 1)
    ]


def _complete_records(
    experiment: Experiment, folder: RunFolder, epochs_done: int, records: Journal
) -> None:
    """Records the zero-shot accuracy unless it is there, and says which epochs are not."""
    known = journal.read(folder.path)
    # All processes evaluate, or none, so what a file holds decides only where there is one process.
    is_lost = not any(record["split"] == ZERO_SHOT for record in known)
    if epochs_done == 0 or (is_lost and jax.process_count() == 1):
        _record_zero_shot(experiment, records)
    split = experiment.config.data.eval_split
    if split is None:
        return
    recorded = {record["epoch"] for record in known if record["split"] == split}
    lost = [str(epoch) for epoch in range(1, epochs_done + 1) if epoch not in recorded]
    if lost:
        log(
            f"note: {folder.path / 'metrics.jsonl'} has no record of epoch "
            f"{messages.some(lost, quoted=False)}; the curves will lack what is gone, training and "
            "early stopping do not need it"
        )


def _train_epoch(
    experiment: Experiment,
    phase: Phase,
    epoch: int,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    state: TrainState,
    records: Journal,
    checkpoints: Checkpoints,
    *,
    compiles: bool,
) -> TrainState:
    """Trains one epoch, and records losses and learning rates; raises if a write has failed."""
    steps_per_epoch, options = experiment.steps_per_epoch, experiment.config
    with Progress(
        f"epoch {epoch}/{experiment.num_epochs} ({phase.name})",
        steps=steps_per_epoch,
        images_per_step=options.data.batch_size,
        compiles=compiles,
        enabled=jax.process_index() == 0,
    ) as progress:

        def record(steps_done: int, means: dict[str, float]) -> None:
            progress.finish(means["loss"], steps_done)
            step_of_phase = (epoch - 1 - phase.start_epoch) * steps_per_epoch + steps_done - 1
            rates = train_records.learning_rates(phase, step_of_phase)
            rate = progress.images_per_second
            speed = {} if rate is None else {"images_per_second": rate}
            step = (epoch - 1) * steps_per_epoch + steps_done
            records.write("train", step, step / steps_per_epoch, means | rates | speed)

        intervals = train_records.Intervals(options.train.log_every, record)
        for _ in range(steps_per_epoch):
            state, step_metrics = train_step(state, next(batches))
            progress.update(step_metrics)
            checkpoints.check_for_errors()
            intervals.add(step_metrics)
        intervals.finish()
    return state


def _check_finite(state: TrainState) -> None:
    """Raises a FloatingPointError if a parameter or statistic is not finite.

    The loss of a step is computed before its update, so it does not show what that one spoiled.
    """
    names = not_finite(state.variables)
    if names:
        raise FloatingPointError(
            f"{len(names)} variables hold NaN or infinity ({messages.some(names, quoted=False)})"
        )


@contextlib.contextmanager
def _explained_divergence(
    experiment: Experiment, checkpoints: Checkpoints, epoch: int
) -> Iterator[None]:
    """Adds to a FloatingPointError where it arose, what to do, and what is kept."""
    try:
        yield
    except FloatingPointError as error:
        remedy = "Lower optim.learning_rate, set optim.clip_norm or lengthen optim.warmup_epochs"
        step = checkpoints.latest_step()
        if step is None:
            where = "; no checkpoint was written yet, so the folder can be used again."
        else:
            saved_epoch = experiment.epoch_of(checkpoints, step)
            where = (
                ", and train into another folder (--workdir): this one belongs to the present "
                "configuration, which would fail again in the same place. The checkpoint of epoch "
                f"{saved_epoch} is whole, and finite."
            )
        raise FloatingPointError(f"{error} in epoch {epoch}. {remedy}{where}") from error


def _evaluate(
    experiment: Experiment, epoch: int, variables: trees.Tree, records: Journal
) -> dict[str, Any]:
    """Evaluates on the evaluation split after an epoch, and records the metrics; {} without one."""
    start_time = time.monotonic()
    split = experiment.config.data.eval_split
    if split is None:
        log(f"epoch {epoch}/{experiment.num_epochs} done")
        return {}
    included = "" if experiment.evaluator.compiled else " with compilation"
    needed = (experiment.config.train.best_metric,)  # Of the costly ones; the report has all.
    metrics = experiment.evaluator.evaluate(
        variables, experiment.held_out[split], costly=needed
    ).metrics
    records.write(split, epoch * experiment.steps_per_epoch, epoch, run_metrics.by_name(metrics))
    log(
        f"epoch {epoch}/{experiment.num_epochs}  {split}: {run_metrics.sentence(metrics)}, "
        f"in {clock(time.monotonic() - start_time)}{included}"
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
        f"before training, {experiment.first_held_out.split}: accuracy {zero_shot.accuracy:.4f} "
        f"by the pretrained classifier alone ({zero_shot.correct} of {zero_shot.examples}; "
        f"{zero_shot.of_matched_classes} are of classes that it knows)"
    )

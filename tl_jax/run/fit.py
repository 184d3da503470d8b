"""`fit`: trains a network, from a configuration to the folder of a finished run."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tl_jax import distributed, process
from tl_jax.config import Config, changes
from tl_jax.run import data, divergence, epochs, examples, longer, resume
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.run.initial import with_architecture
from tl_jax.run.progress import log
from tl_jax.run.report import write_report
from tl_jax.run.stops import Stops
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.checkpoint_folder import Saved


def fit(
    config: Config,
    workdir: str | Path,
    *,
    stop_after_epoch: int | None = None,
    should_stop: Callable[[], bool] | None = None,
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
      should_stop: asked after each step and each batch of evaluation whether to stop: the run is
        then saved where it is, also within an epoch, and `StoppedError` is raised. For SIGTERM and
        SIGUSR1 give what `tl_jax.interrupt.stops` gives; without it signals are left to Python.
        With several processes it is enough that one of them says so.

    Returns:
      The report, as in `report.json`: epochs, the best one, metrics by split; None if
      `stop_after_epoch` ended the call before the end of the run.

    Raises:
      ValueError: if the folder holds a run of another configuration, or the configuration does not
        fit the data or the devices.
      FloatingPointError: if the training loss is not finite.
      StoppedError: if `should_stop` said so; the same call continues.

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
            distributed.first(lambda: _check_data_of_finished(folder, config))
            log(f"{folder.path} holds a finished run of this configuration; its report is returned")
            return report
        experiment = Experiment.from_config(config)
        experiment.check()
        if existing is not None:
            distributed.first(lambda: _check_continuation(existing, experiment, folder))
        folder.claim(config, experiment.info, experiment.examples)
        log(f"{experiment.description}\nworkdir  {folder.path}")
        with folder.open_checkpoints(config) as checkpoints:
            epochs_done, reason = _train(
                experiment, folder, checkpoints, stop_after_epoch, should_stop
            )
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
    epochs_begun = saved.epochs_done(step, steps_per_epoch) + (saved.within is not None)
    longer.check(
        existing,
        config,
        epochs_done=epochs_begun,
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
    should_stop: Callable[[], bool] | None,
) -> tuple[int, str | None]:
    """Trains from the newest checkpoint, or from the initial variables.

    Returns:
      The number of epochs done, and why training stopped early; None if it did not.
    """
    stopping, last_epoch = experiment.stopping, experiment.num_epochs
    if stop_after_epoch is not None:
        last_epoch = min(stop_after_epoch, last_epoch)
    place = resume.find(experiment, folder, checkpoints)
    state, history = place.state, list(place.history)
    if state is None:
        distributed.same(experiment.initial.variables, "the initial variables")

    def why_stop() -> str | None:
        values = [scores.get(stopping.metric, math.nan) for scores in history]
        return distributed.agree(stopping.decide(values))

    start_step = place.steps_done(experiment.steps_per_epoch)
    with (
        contextlib.closing(experiment.train_batches(start_step)) as batches,
        resume.open_journal(experiment, folder, place) as records,
    ):
        if resume.lacks_zero_shot(folder):
            epochs.record_zero_shot(experiment, records)
        resume.say_lost_epochs(experiment, folder, place)
        stops = Stops(should_stop)
        training = epochs.Training(
            experiment, checkpoints, records, stops, history, place.skipped_steps
        )
        for phase in experiment.phases:
            numbers = range(max(phase.start_epoch, len(history)) + 1, phase.end_epoch + 1)
            if not numbers or numbers[0] > last_epoch:
                continue
            if why_stop():
                break
            log(f"phase    {phase.name}, epochs {phase.start_epoch + 1} to {phase.end_epoch}")
            log(phase.description)
            begins = numbers[0] == phase.start_epoch + 1 and not place.begun(numbers[0]).steps
            if state is None or begins:
                state = experiment.begin(phase, state)
            experiment.initial.release()
            train_step = experiment.compile_step(phase)
            for epoch in numbers:
                with divergence.explained(experiment, checkpoints, epoch):
                    state = epochs.train(
                        training, phase, train_step, batches, state,
                        begun=place.begun(epoch), compiles=epoch == numbers[0],
                    )  # fmt: skip
                    epochs.evaluate_and_save(training, phase, state)
                if epoch == last_epoch or why_stop():
                    break
                if stops.wanted():
                    training.stop(0)
    return len(history), None if len(history) >= last_epoch else why_stop()

"""`fit`: the loop that trains a network, from a configuration to a finished run's folder."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import config as configuration
from tl_jax.config import Config
from tl_jax.data import augment, loader
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.objectives import metrics as objectives
from tl_jax.training import experiment, journal, measure, parallel, plots, progress, state, step
from tl_jax.training.checkpoint import Checkpoints, abstract
from tl_jax.training.experiment import Phase, RunInfo
from tl_jax.training.state import TrainState
from tl_jax.weights.sources import WeightsRecord

CONFIG_FILE, INFO_FILE, REPORT_FILE = "config.json", "run.json", "report.json"
CHECKPOINTS = "checkpoints"
_CHECKPOINT_METRICS = ("loss", "accuracy", "balanced_accuracy", "macro_f1")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def fit(
    config: Config, workdir: str | Path, *, stop_after_epoch: int | None = None
) -> dict[str, Any] | None:
    """Trains a network as configured, and reports on the best checkpoint.

    Called again on the same folder it goes on from the newest checkpoint, and ends with the same
    parameters and metrics as a run that was never stopped.

    Args:
      config: the experiment.
      workdir: the run's folder; made if it is missing. It gets `config.json`, `run.json`,
        `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `curves.png`, `confusion.png` and
        `report.json`.
      stop_after_epoch: stop when this many epochs are done in all, to be resumed later.

    Returns:
      The report, as in `report.json`: epochs, the best one, metrics by split, seconds; None if it
      stopped before the end.

    Raises:
      ValueError: if the folder holds a run of another configuration, or the configuration does not
        fit the data or the devices.
      FloatingPointError: if the loss is no longer finite.

    Example:
      >>> report = fit(Config(), "runs/demo")                                # doctest: +SKIP
      >>> report["metrics"]["validation"]["accuracy"]                        # doctest: +SKIP
    """
    workdir = claim(Path(workdir), config)
    if (workdir / REPORT_FILE).exists():
        say(f"{workdir} holds a finished run of this configuration; its report is returned")
        return json.loads((workdir / REPORT_FILE).read_text())
    parts = _prepare(config, workdir)
    with Checkpoints(
        workdir / CHECKPOINTS,
        keep=config.train.keep,
        best_metric=config.train.best_metric,
        lower_is_better=config.train.best_metric in objectives.LOWER_IS_BETTER,
    ) as checkpoints:
        last = _train(parts, checkpoints, workdir, stop_after_epoch)
        if last < parts.epochs:
            say(f"stopped after epoch {last} of {parts.epochs}; the same command goes on from here")
            return None
        return _report(parts, checkpoints, workdir)


def claim(workdir: Path, config: Config) -> Path:
    """Makes a folder that of a run of this configuration, or finds that it is.

    Raises:
      ValueError: if it holds a run of another configuration; the message lists the differences.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        found = configuration.from_json(path.read_text())
        if found != config:
            listing = "\n  ".join(configuration.differences(found, config))
            raise ValueError(
                f"{workdir} holds a run of another configuration (there != here):\n  {listing}\n"
                "take another --workdir, or delete the folder"
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run; take another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(path, configuration.to_json(config))
    return workdir


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a stop in the middle leaves none, or the one that was there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def say(text: str) -> None:
    """Prints a line on the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a run is made of, derived from its configuration and data alone."""

    config: Config
    train: Source
    held_out: dict[str, Source]
    model: nn.Module
    preprocess: Preprocess
    variables: dict[str, Any]
    phases: list[Phase]
    steps_per_epoch: int
    mesh: Mesh
    measure: measure.Measure

    @property
    def epochs(self) -> int:
        return self.phases[-1].last_epoch


def _prepare(config: Config, workdir: Path) -> _Parts:
    """Opens the data, makes the network, loads its weights, and says what was found."""
    mesh = parallel.data_mesh()
    parallel.check_batch_size(config.data.batch_size, mesh)
    train = experiment.open_split(config, config.data.train_split)
    names = dict.fromkeys([config.data.eval_split, config.data.test_split])
    held_out = {name: experiment.open_split(config, name) for name in names if name}
    preprocess = experiment.preprocess_of(config)
    model = experiment.build_model(config.model, len(train.class_names))
    variables, weights = experiment.initial_variables(config, model, preprocess.size)
    steps_per_epoch = max(1, round(len(train) / config.data.batch_size))
    info = _info(train, held_out, preprocess, weights, variables)
    write_whole(workdir / INFO_FILE, info.to_json())
    say(_description(config, info))
    return _Parts(
        config=config,
        train=train,
        held_out=held_out,
        model=model,
        preprocess=preprocess,
        variables=variables,
        phases=experiment.phases(config, variables["params"], model.classifier, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        mesh=mesh,
        measure=measure.Measure(
            model,
            preprocess,
            mesh=mesh,
            batch_size=config.data.batch_size,
            workers=config.data.workers,
            cache=config.data.cache,
        ),
    )


def _info(
    train: Source,
    held_out: dict[str, Source],
    preprocess: Preprocess,
    weights: WeightsRecord | None,
    variables: dict[str, Any],
) -> RunInfo:
    sources = {train.split: train, **held_out}
    return RunInfo(
        class_names=tuple(train.class_names),
        preprocess=preprocess,
        weights=weights,
        parameters=experiment.count_parameters(variables["params"]),
        examples={split: len(source) for split, source in sources.items()},
        skipped={split: list(source.skipped) for split, source in sources.items()},
        versions={library: metadata.version(library) for library in _LIBRARIES},
    )


def _description(config: Config, info: RunInfo) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in info.examples.items())
    height, width = info.preprocess.size
    lines = [
        f"data     {config.data.source}: {counts}; {len(info.class_names)} classes",
        f"model    {config.model.name}: {info.parameters:,} parameters, images {height}x{width}",
        f"start    {info.weights or 'random weights'}",
    ]
    for split, names in info.skipped.items():
        if names:
            lines.append(f"skipped  {len(names)} corrupt images of {split}: {', '.join(names)}")
    return "\n".join(lines)


def _train(
    parts: _Parts, checkpoints: Checkpoints, workdir: Path, stop_after_epoch: int | None
) -> int:
    """Trains from the newest checkpoint, or from the start; returns the epochs done."""
    current, done = _resume(parts, checkpoints)
    until = parts.epochs if stop_after_epoch is None else min(stop_after_epoch, parts.epochs)
    first = jax.process_index() == 0
    start = done * parts.steps_per_epoch
    batches = _train_batches(parts, start)
    with journal.Journal(workdir, after_step=start, enabled=first) as record:
        for phase in parts.phases:
            if not phase.first_epoch <= done < min(until, phase.last_epoch):
                continue
            if done == phase.first_epoch:
                current = _begin(parts, phase, current)
            train_step = _compile(parts, phase)
            for epoch in range(done + 1, min(until, phase.last_epoch) + 1):
                current = _epoch(parts, phase, epoch, train_step, batches, current, record)
                held_out = _evaluate(parts, epoch, current, record)
                checkpoints.save(current, {name: held_out[name] for name in _CHECKPOINT_METRICS})
                done = epoch
    return done


def _resume(parts: _Parts, checkpoints: Checkpoints) -> tuple[TrainState | None, int]:
    """Returns the state to go on from, and the epochs that are done: (None, 0) in a new run."""
    found = checkpoints.latest_step()
    if found is None:
        return None, 0
    done = found // parts.steps_per_epoch
    phase = next(p for p in parts.phases if p.first_epoch < done <= p.last_epoch)
    like = jax.eval_shape(lambda v: state.create(v, phase.tx, phase.plan), parts.variables)
    say(f"resumed from epoch {done} of {parts.epochs}")
    return checkpoints.restore(found, abstract(like, parallel.replicated(parts.mesh))), done


def _begin(parts: _Parts, phase: Phase, before: TrainState | None) -> TrainState:
    """Returns the state in which a phase begins: the optimizer's state is new."""
    variables, steps = parts.variables, 0
    if before is not None:
        variables, steps = before.variables, int(before.step)
    begun = state.create(variables, phase.tx, phase.plan, steps)
    # A copy: the step uses its state up, and the starting variables are still needed.
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, parallel.replicated(parts.mesh), may_alias=False), begun
    )


def _compile(parts: _Parts, phase: Phase) -> step.TrainStep:
    options, preprocess = parts.config.augment, parts.preprocess

    def prepare(key: jax.Array, batch: step.Batch) -> jax.Array:
        return augment.augment(
            key,
            batch["image"],
            batch["size"],
            size=preprocess.size,
            scale=options.scale,
            ratio=options.ratio,
            horizontal_flip=options.horizontal_flip,
            vertical_flip=options.vertical_flip,
            mean=preprocess.mean,
            std=preprocess.std,
            interpolation=preprocess.interpolation,
        )

    made = step.make_train_step(
        parts.model,
        phase.tx,
        phase.plan,
        prepare=prepare,
        seed_key=jax.random.key(parts.config.train.seed),
        label_smoothing=parts.config.train.label_smoothing,
    )
    return parallel.jit_train_step(made, parts.mesh)


def _train_batches(parts: _Parts, start_step: int) -> Iterator[dict[str, jax.Array]]:
    options = parts.config.data
    batches = loader.train_batches(
        parts.train,
        batch_size=options.batch_size,
        canvas=parts.preprocess.canvas,
        seed=parts.config.train.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=options.workers,
        cache=options.cache,
    )
    return (parallel.put_batch(batch, parts.mesh) for batch in batches)


def _epoch(
    parts: _Parts,
    phase: Phase,
    epoch: int,
    train_step: step.TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    current: TrainState,
    record: journal.Journal,
) -> TrainState:
    """Trains one epoch and records its losses."""
    title = f"epoch {epoch}/{parts.epochs} ({phase.name})"
    steps, size = parts.steps_per_epoch, parts.config.data.batch_size
    pending: list[dict[str, jax.Array]] = []
    with progress.Progress(
        title, steps=steps, images_per_step=size, enabled=jax.process_index() == 0
    ) as bar:
        for done in range(1, steps + 1):
            current, values = train_step(current, next(batches))
            pending.append(values)
            loss = None
            if done % parts.config.train.log_every == 0 or done == steps:
                means = _means(pending, epoch)
                pending, loss = [], means["loss"]
                rates = _rates_at(phase, (epoch - 1 - phase.first_epoch) * steps + done - 1)
                speed = {"images_per_second": bar.images_per_second}
                at = (epoch - 1) * steps + done
                record.write("train", at, at / steps, means | rates | speed)
            bar.update(loss)
    return current


def _means(pending: list[dict[str, jax.Array]], epoch: int) -> dict[str, float]:
    """Returns the means over some steps; waits for them."""
    values = jax.device_get(pending)
    means = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the training loss is {means['loss']} in epoch {epoch}; lower optim.learning_rate, "
            "set optim.clip_norm, or lengthen optim.warmup_epochs (the newest checkpoint is whole)"
        )
    return means


def _rates_at(phase: Phase, step_of_phase: int) -> dict[str, float]:
    trained = set(jax.tree.leaves(phase.plan))
    return {
        f"learning_rate_{label}": float(rate(step_of_phase))
        for label, rate in phase.rates.items()
        if label in trained
    }


def _evaluate(
    parts: _Parts, epoch: int, current: TrainState, record: journal.Journal
) -> dict[str, Any]:
    """Evaluates after an epoch and records the metrics."""
    begun = time.monotonic()
    split = parts.config.data.eval_split
    found, _ = parts.measure(current.variables, parts.held_out[split])
    record.write(split, int(current.step), epoch, found)
    low, high = found["accuracy_interval"]
    say(
        f"epoch {epoch}/{parts.epochs}  {split}: loss {found['loss']:.4f}, accuracy "
        f"{found['accuracy']:.4f} ({low:.3f} to {high:.3f}), balanced "
        f"{found['balanced_accuracy']:.4f}, in {progress.clock(time.monotonic() - begun)}"
    )
    return found


def _report(parts: _Parts, checkpoints: Checkpoints, workdir: Path) -> dict[str, Any]:
    """Measures the best checkpoint on every held-out split, draws, and writes the report."""
    best = checkpoints.best_step()
    like = abstract(parts.variables, parallel.replicated(parts.mesh))
    variables = checkpoints.restore_variables(best, like)
    measured = {split: parts.measure(variables, source) for split, source in parts.held_out.items()}
    report = {
        "model": parts.config.model.name,
        "epochs": parts.epochs,
        "best_epoch": best // parts.steps_per_epoch,
        "best_metric": parts.config.train.best_metric,
        "metrics": {split: found for split, (found, _) in measured.items()},
        "confusion": {split: confusion.tolist() for split, (_, confusion) in measured.items()},
        "class_names": list(parts.train.class_names),
    }
    if jax.process_index() == 0:
        _draw(parts, workdir, report)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        write_whole(workdir / REPORT_FILE, text + "\n")
    return report


def _draw(parts: _Parts, workdir: Path, report: dict[str, Any]) -> None:
    plots.learning_curves(
        journal.read(workdir),
        workdir / "curves.png",
        title=f"{parts.config.model.name} on {parts.config.data.source}",
        phase_ends=[phase.last_epoch for phase in parts.phases[:-1]],
    )
    split = parts.config.data.test_split or parts.config.data.eval_split
    accuracy = report["metrics"][split]["accuracy"]
    plots.confusion_matrix(
        np.asarray(report["confusion"][split]),
        parts.train.class_names,
        workdir / "confusion.png",
        title=f"{split}, accuracy {accuracy:.3f}",
    )

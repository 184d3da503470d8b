"""`fit`: the loop that trains a network, from a configuration to a finished run's folder."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax import config as configuration
from tl_jax import trees
from tl_jax.config import Config
from tl_jax.objectives import metrics as objectives
from tl_jax.run import data, journal, plots, progress
from tl_jax.run.experiment import (
    Parts,
    compile_step,
    measure_of,
    prepare,
    recalibrated,
    recalibrates,
    train_batches,
)
from tl_jax.run.phases import Phase
from tl_jax.training import optim, sharding, state, step
from tl_jax.training.checkpoint import Checkpoints, abstract
from tl_jax.training.state import TrainState
from tl_jax.training.stopping import Stopping
from tl_jax.transfer import averaging, class_names, freeze

CONFIG_FILE, INFO_FILE, REPORT_FILE = "config.json", "run.json", "report.json"
CHECKPOINTS = "checkpoints"
ZERO_SHOT = "zero_shot"  # The record of what is known before training.
_CHECKPOINT_METRICS = ("loss", "accuracy", "balanced_accuracy", "macro_f1")


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
      The report, as in `report.json`: epochs, the best one, metrics by split; None if it
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
    parts = prepare(config)
    write_whole(workdir / INFO_FILE, parts.info.to_json())
    say(parts.description)
    with Checkpoints(
        workdir / CHECKPOINTS,
        keep=config.train.keep,
        best_metric=config.train.best_metric,
        lower_is_better=config.train.best_metric in objectives.LOWER_IS_BETTER,
    ) as checkpoints:
        last, reason = _train(parts, checkpoints, workdir, stop_after_epoch)
        if reason is not None:
            say(f"stopped after epoch {last} of {parts.epochs}: {reason}")
        if last < parts.epochs and reason is None:
            say(f"stopped after epoch {last} of {parts.epochs}; the same command goes on from here")
            return None
        return _report(parts, checkpoints, workdir, reason)


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


def _train(
    parts: Parts, checkpoints: Checkpoints, workdir: Path, stop_after_epoch: int | None
) -> tuple[int, str | None]:
    """Trains from the newest checkpoint, or from the start.

    Returns:
      The epochs done, and why training ended before the last one, if it did.
    """
    current, done = _resume(parts, checkpoints)
    until = parts.epochs if stop_after_epoch is None else min(stop_after_epoch, parts.epochs)
    first = jax.process_index() == 0
    begun = done * parts.steps_per_epoch
    history = _history(parts, workdir, done)
    with (
        contextlib.closing(train_batches(parts, begun)) as batches,
        # Without a checkpoint the start, of step 0, is to be scored again, too.
        journal.Journal(workdir, after_step=begun if done else -1, enabled=first) as record,
    ):
        if current is None:
            _score_start(parts, record)
        train_step = None
        for epoch in range(done + 1, until + 1):
            phase = _phase_of(parts, epoch)
            if reason := _reason_to_stop(parts, phase, history):
                return epoch - 1, reason
            begins = epoch == phase.first_epoch + 1
            if begins:
                current = _begin(parts, phase, current)
            if begins or train_step is None:
                say(f"phase    {phase.name}, epochs {phase.first_epoch + 1} to {phase.last_epoch}")
                say(phase.description)
                train_step = compile_step(parts, phase, phase.tx)
            current = _epoch(parts, phase, epoch, train_step, batches, current, record)
            evaluated = _to_evaluate(parts, phase, current)
            held_out = _evaluate(parts, epoch, evaluated or current.variables, record)
            kept = {name: held_out[name] for name in _CHECKPOINT_METRICS}
            checkpoints.save(current, kept, evaluated)
            history.append(held_out[parts.config.train.best_metric])
    return max(done, until), None


def _phase_of(parts: Parts, epoch: int) -> Phase:
    """Returns the phase of an epoch, counted from 1."""
    return next(p for p in parts.phases if p.first_epoch < epoch <= p.last_epoch)


def _resume(parts: Parts, checkpoints: Checkpoints) -> tuple[TrainState | None, int]:
    """Returns the state to go on from, and the epochs that are done: (None, 0) in a new run."""
    found = checkpoints.latest_step()
    if found is None:
        return None, 0
    done = found // parts.steps_per_epoch
    phase = _phase_of(parts, done)
    like = jax.eval_shape(lambda v: state.create(v, phase.tx, phase.plan), parts.start.variables)
    say(f"resumed from epoch {done} of {parts.epochs}")
    return checkpoints.restore(found, abstract(like, sharding.replicated(parts.mesh))), done


def _history(parts: Parts, workdir: Path, done: int) -> list[float]:
    """Returns the metric that decides, after each epoch that is done."""
    split, metric = parts.config.data.eval_split, parts.config.train.best_metric
    records = [record for record in journal.read(workdir) if record["split"] == split]
    return [record[metric] for record in records if record["epoch"] <= done]


def _reason_to_stop(parts: Parts, phase: Phase, history: list[float]) -> str | None:
    """Says why training should stop, or None: at the target, or in the last phase for patience."""
    options = parts.config.train
    rule = Stopping(
        options.best_metric,
        patience=options.patience if phase is parts.phases[-1] else None,
        target=options.target,
        lower_is_better=options.best_metric in objectives.LOWER_IS_BETTER,
    )
    return rule.decide(history, patience_from=phase.first_epoch)


def _score_start(parts: Parts, record: journal.Journal) -> None:
    """Reports what the carried rows of the pretrained classifier can do before any training."""
    mapping = parts.start.mapping
    if parts.config.transfer.classifier != "load" or mapping is None or not mapping.matched:
        return
    split = parts.config.data.eval_split
    restricted = class_names.Restricted(parts.model, mapping)
    _, confusion = measure_of(parts.config, restricted, parts.preprocess, parts.mesh)(
        parts.start.variables, parts.held_out[split]
    )
    found = class_names.zero_shot(confusion, mapping)
    values = {
        "accuracy": found.accuracy,
        "matched_accuracy": found.matched_accuracy,
        "examples": found.examples,
        "of_matched_classes": found.of_matched_classes,
    }
    record.write(ZERO_SHOT, 0, 0, {name: v for name, v in values.items() if math.isfinite(v)})
    say(
        f"before training, {split}: accuracy {found.accuracy:.4f} by the pretrained classifier "
        f"alone ({found.correct} of {found.examples}; {found.of_matched_classes} are of classes "
        "that it knows)"
    )


def _begin(parts: Parts, phase: Phase, before: TrainState | None) -> TrainState:
    """Returns the state in which a phase begins; what stays trained keeps its optimizer's state."""
    if before is None:
        variables = parts.start.variables
        if recalibrates(parts.config, "before"):
            variables = recalibrated(parts, variables)
        begun = state.create(variables, phase.tx, phase.plan)
    else:
        begun = state.create(before.variables, phase.tx, phase.plan, int(before.step))
        begun = begun.replace(opt_state=optim.carry_over(before.opt_state, begun.opt_state))
    # A copy: the step uses its state up, and the starting variables are still needed.
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, sharding.replicated(parts.mesh), may_alias=False), begun
    )


def _to_evaluate(parts: Parts, phase: Phase, current: TrainState) -> dict[str, Any] | None:
    """Returns the variables to be measured and used, where they are not those of the state."""
    averages, again = parts.config.train.ema > 0, recalibrates(parts.config, "after")
    if not (averages or again):
        return None
    variables = current.variables
    if averages:
        _, frozen = freeze.split(phase.plan, current.params)
        params = trees.merge(averaging.averaged(current.opt_state), frozen)
        variables = {**variables, "params": params}
    return recalibrated(parts, variables) if again else variables


def _epoch(
    parts: Parts,
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
    parts: Parts, epoch: int, variables: dict[str, Any], record: journal.Journal
) -> dict[str, Any]:
    """Evaluates after an epoch and records the metrics."""
    begun = time.monotonic()
    split = parts.config.data.eval_split
    found, _ = parts.evaluator(variables, parts.held_out[split])
    record.write(split, epoch * parts.steps_per_epoch, epoch, found)
    low, high = found["accuracy_interval"]
    say(
        f"epoch {epoch}/{parts.epochs}  {split}: loss {found['loss']:.4f}, accuracy "
        f"{found['accuracy']:.4f} ({low:.3f} to {high:.3f}), balanced "
        f"{found['balanced_accuracy']:.4f}, in {progress.clock(time.monotonic() - begun)}"
    )
    return found


def _report(
    parts: Parts, checkpoints: Checkpoints, workdir: Path, reason: str | None
) -> dict[str, Any]:
    """Measures the best checkpoint on every held-out split, draws, and writes the report."""
    best = checkpoints.best_step()
    like = abstract(parts.start.variables, sharding.replicated(parts.mesh))
    variables = checkpoints.restore_variables(best, like)
    measured = {
        split: parts.evaluator(variables, source) for split, source in parts.held_out.items()
    }
    report = {
        "model": parts.config.model.name,
        "epochs": checkpoints.latest_step() // parts.steps_per_epoch,
        "stopped": reason,
        "best_epoch": best // parts.steps_per_epoch,
        "best_metric": parts.config.train.best_metric,
        "metrics": {split: found for split, (found, _) in measured.items()},
        "confusion": {split: confusion.tolist() for split, (_, confusion) in measured.items()},
        "class_names": list(parts.train.class_names),
        "trained_parameters": {p.name: _trained(p, parts.start.variables) for p in parts.phases},
        "zero_shot": next((r for r in journal.read(workdir) if r["split"] == ZERO_SHOT), None),
    }
    if jax.process_index() == 0:
        _draw(parts, workdir, report)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        write_whole(workdir / REPORT_FILE, text + "\n")
    return report


def _trained(phase: Phase, variables: dict[str, Any]) -> int:
    return data.count_parameters(freeze.split(phase.plan, variables["params"])[0])


def _draw(parts: Parts, workdir: Path, report: dict[str, Any]) -> None:
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

"""The report of a finished run: metrics of its best checkpoint, as JSON and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax import distributed, files
from tl_jax.objectives import main_intervals
from tl_jax.objectives.metrics import Counts
from tl_jax.run import calibrate, journal
from tl_jax.run import metrics as run_metrics
from tl_jax.run.describe import count_parameters, describe_devices
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.training import sharding
from tl_jax.training.arrays import abstract
from tl_jax.training.checkpoint import CheckpointError, Checkpoints
from tl_jax.training.evaluator import Evaluation
from tl_jax.transfer import freeze

# The journal's split for the accuracy before training.
ZERO_SHOT = "zero_shot"
_LEVEL = 0.95  # Of the bootstrap intervals.


def write_report(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints, stopped: str | None
) -> dict[str, Any]:
    """Evaluates the best checkpoint on every held-out split, and writes report and pictures.

    Args:
      experiment: the run.
      folder: gets `curves.png`, `confusion.png`, `reliability.png` and `report.json`. Beyond 2,000
        classes there is no confusion matrix: no picture, and null in its place in the report. Of
        several tasks each with classes or levels has a picture `confusion_TASK.png`, and each with
        classes `reliability_TASK.png`.
      checkpoints: of the run.
      stopped: why training stopped before the last epoch; None if it did not.

    Returns:
      The report.
    """
    config = experiment.config
    best_step, last_step = checkpoints.best_step(), checkpoints.latest_step()
    if best_step is None or last_step is None:
        raise CheckpointError(f"{folder.path} holds no checkpoint to report on; train it again")
    like = abstract(experiment.initial.variables, sharding.replicated(experiment.mesh))
    variables = checkpoints.restore_variables(best_step, like)
    results = {
        split: experiment.evaluator.evaluate(variables, source)
        for split, source in experiment.held_out.items()
    }
    eval_split, chosen = config.data.eval_split, dict[str, dict[str, Any]]()
    if eval_split is not None:  # Nothing is chosen on the test split.
        chosen = calibrate.choose(
            experiment.objective, results[eval_split].statistics, experiment.info.tasks
        )
    calibrated = calibrate.apply(experiment.objective, chosen)
    # Of the splits that nothing was chosen on.
    calibrated_metrics = {
        split: calibrated.metrics(result.statistics)
        for split, result in results.items()
        if chosen and split != eval_split
    }
    shown = config.data.test_split or experiment.first_held_out.split
    records = journal.read(folder.path)
    report = {
        "model": config.model.name,
        "device": describe_devices(experiment.mesh, config.model.dtype),
        "epochs": experiment.epoch_of(checkpoints, last_step),
        "stopped": stopped,
        "best_epoch": experiment.epoch_of(checkpoints, best_step),
        "best_metric": None if eval_split is None else config.train.best_metric,
        "metrics": {split: result.metrics for split, result in results.items()},
        "confusion": {split: _as_lists(result.confusion) for split, result in results.items()},
        "calibration": chosen,
        "calibrated_metrics": calibrated_metrics,
        "intervals": _intervals(shown, results[shown]),
        "class_names": list(experiment.train.class_names),
        "tasks": _tasks(experiment),
        "trained_parameters": _trained_parameters(experiment),
        "zero_shot": next((r for r in records if r["split"] == ZERO_SHOT), None),
    }
    if config.train.on_divergence == "skip":
        report["skipped_steps"] = checkpoints.saved(last_step).skipped_steps

    def write() -> None:
        _draw(experiment, folder.path, records, shown, results[shown])
        _draw_reliability(
            folder.path, shown, results[shown].metrics, calibrated_metrics.get(shown, {})
        )
        # The last file: a run that is killed before it measures and draws again.
        folder.write_report(report)

    distributed.first(write)
    return report


def _tasks(experiment: Experiment) -> list[dict[str, Any]]:
    return [
        {"name": task.name, "kind": task.kind, "class_names": list(task.class_names)}
        for task in experiment.info.tasks
    ]


def _trained_parameters(experiment: Experiment) -> dict[str, int]:
    """Returns how many parameters each phase trains, by its name."""
    params = experiment.initial.variables["params"]
    return {
        phase.name: count_parameters(freeze.split(phase.plan, params)[0])
        for phase in experiment.phases
    }


def _draw(
    experiment: Experiment,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    split: str,
    result: Evaluation,
) -> None:
    """Draws the learning curves, and the confusion matrices of a split."""
    from tl_jax.run import plots  # Here, because matplotlib loads slowly.

    curves, config = folder / "curves.png", experiment.config
    with files.naming(curves):
        plots.learning_curves(
            records,
            curves,
            title=f"{config.model.name} on {config.data.source}",
            phase_ends=[phase.end_epoch for phase in experiment.phases[:-1]],
            metrics=_curves(result.metrics),
        )
    class_names = {task.name: task.class_names for task in experiment.info.tasks}
    confusion, several = result.confusion, "tasks" in result.metrics
    of_tasks = (
        confusion if isinstance(confusion, dict) else {experiment.info.tasks[0].name: confusion}
    )
    for task, counts in of_tasks.items():
        if not isinstance(counts, np.ndarray):
            continue
        of_task = result.metrics["tasks"][task] if several else result.metrics
        picture = folder / (f"confusion_{_as_file_name(task)}.png" if several else "confusion.png")
        title = f"{split}, accuracy {of_task['accuracy'] or 0:.3f}"
        with files.naming(picture):
            plots.confusion_matrix(
                counts,
                class_names[task],
                picture,
                title=f"{task}, {title}" if several else title,
            )


def _draw_reliability(
    folder: Path, split: str, metrics: Mapping[str, Any], calibrated: Mapping[str, Any]
) -> None:
    """Draws the reliability of each task of classes, before and after its temperature."""
    from tl_jax.run import plots

    of_tasks = metrics.get("tasks", {"": metrics})
    after = calibrated.get("tasks", {"": calibrated})
    for task, of_one in of_tasks.items():
        if not of_one.get("reliability"):
            continue
        panels = {"as trained": of_one["reliability"]}
        if after.get(task, {}).get("reliability"):
            panels["with the temperature"] = after[task]["reliability"]
        picture = folder / (f"reliability_{_as_file_name(task)}.png" if task else "reliability.png")
        with files.naming(picture):
            title = f"{task}, {split}" if task else split
            plots.reliability_diagram(panels, picture, title=title)


def _intervals(split: str, result: Evaluation) -> dict[str, Any]:
    """Returns bootstrap intervals of the main metrics of a split, and how they were drawn."""
    found = main_intervals.main_intervals(result.objective, result.statistics, level=_LEVEL)
    return {"split": split, "level": _LEVEL, "draws": main_intervals.DRAWS, "metrics": found}


def _curves(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the metrics that are drawn over the epochs: the loss, and the first of each task."""
    if "tasks" not in metrics:
        return ("loss", *run_metrics.headlines(metrics)[:1])
    of_tasks = [
        f"{task}.{name}"
        for task, of_one in metrics["tasks"].items()
        for name in run_metrics.headlines(of_one)[:1]
    ]
    return ("loss", *of_tasks)


def _as_file_name(task: str) -> str:
    """Returns a task's name with nothing in it that a file's name cannot have."""
    return "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in task)


def _as_lists(confusion: Counts | dict[str, Counts] | None) -> Any:
    """Returns confusion matrices as lists; None for counts by class, which are in the metrics."""
    if isinstance(confusion, dict):
        return {task: _as_lists(counts) for task, counts in confusion.items()}
    return confusion.tolist() if isinstance(confusion, np.ndarray) else None

"""Evaluates a trained run on a split of its own data, or of other data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax import messages, process
from tl_jax.data.images.value_check import value_warnings
from tl_jax.data.relabel import UnknownClasses
from tl_jax.data.source import Source, Task
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation import run_data
from tl_jax.objectives.main_intervals import main_intervals
from tl_jax.run.data import load_options
from tl_jax.run.folder import Run, RunFolder, load_run
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    on_corrupt: OnCorrupt | None = None,
    labels: Sequence[str] = (),
    image_column: str | Sequence[str] | None = None,
    group: str | None = None,
    value_range: tuple[float, float] | None = None,
    unknown_classes: UnknownClasses = "raise",
    batch_size: int | None = None,
    views: Views = ONE_VIEW,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run.

    The tasks and classes of other data are matched to the run's by name, in any order. Classes of
    which a split has no image are left out of the means (balanced accuracy, macro F1). Other data
    of a run with columns or views beside an image have these under the same names.

    Args:
      workdir: the run's folder.
      split: which split. The default is the run's test split, or else its evaluation split; of
        other data these where they exist, or else "test" or "validation", and the whole set where
        it has no splits of its own.
      source: other data, as in the configuration's `data.source`.
      data_dir, on_corrupt: as in the configuration. The default is the run's value for the run's
        data, and the configuration's default for other data.
      labels: columns of the labels, as in `data.labels`. Of a run with `tasks` those of its tasks
        that the data have, where the default is all; or the column of its one task.
      image_column: column of the images; several are the views of an object, in the place of the
        run's `inputs.views`.
      group: column that joins the rows of one object, in the place of the run's `inputs.group`.
      value_range: as in the configuration; the default is the run's, for other data too.
      unknown_classes: what to do with labels of classes that the run was not trained on: "raise",
        or "skip" to leave the images out (of several tasks: to count the labels as missing).
      batch_size: images at once; the default is the run's.
      views: views of each image, over which predictions are averaged (`average_outputs`). The
        default is the single view that training evaluates.

    Returns:
      The metrics of the run's objective, as in its report: those of its one task, or of several
      "count", "loss" and "tasks", the metrics by task. With "split", "step", "inputs" (of the
      network), "notes" (what was decided, left out or looks wrong, as sentences); for each task
      "kind", "class_names" and "absent_classes" (of which the split has no example), where those
      beside "tasks" are the main one's; "calibration", the temperatures and thresholds that the
      run chose on its evaluation split, and "calibrated_metrics", the metrics with these, for
      other splits; and "intervals", [low, high] of 95% by "METRIC" or "TASK.METRIC"
      (`main_intervals`).

    Raises:
      ValueError: if the split is unknown, the data have images of other classes or other inputs,
        or the images are too small for the views.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> evaluate("runs/digits", split="test")["count"]
      450
    """
    process.prepare()
    run = load_run(workdir)
    _check_views(run, views)
    options = run_data.DataOptions(
        source, data_dir, on_corrupt, tuple(labels), run_data.as_columns(image_column), group,
        value_range, batch_size,
    )  # fmt: skip
    is_other = run_data.is_other(run, options)
    config = run_data.config_of(run, options)
    split = split or run_data.split_of(config, is_other=is_other)
    examples = run_data.open_examples(
        run, config, split, is_other=is_other, unknown=unknown_classes
    )
    evaluator = Evaluator(
        run.model,
        run.info.preprocess,
        mesh=sharding.data_mesh(),
        load_options=load_options(config.data),
        views=views,
        objective=run.objective,
    )
    found = evaluator.evaluate(run.variables, examples)
    tasks = described(run, examples)
    trained_on = _trained_on(workdir, config.data.train_split, examples) if is_other else []
    is_chosen_on = not is_other and split == config.data.eval_split
    return {
        "split": split,
        "step": run.step,
        "inputs": ["views" if run.info.inputs.views else "image", *run.info.inputs.keys],
        "notes": [*_notes(examples, value_range, tasks), *trained_on],
        **next(iter(tasks.values())),
        **_with_tasks(found.metrics, tasks),
        "calibration": run.calibration,
        "calibrated_metrics": {}
        if is_chosen_on or not run.calibration
        else run.calibrated.metrics(found.statistics),
        "intervals": main_intervals(found.objective, found.statistics),
    }


def described(run: Run, examples: Source) -> dict[str, dict[str, Any]]:
    """Returns kind, class names and absent classes of each task of a run, by name.

    Args:
      run: the run.
      examples: a split with the run's tasks.
    """
    tasks = run.info.example_facts.tasks
    labels = examples.task_labels().values() if len(tasks) > 1 else [examples.labels()]
    return {
        task.name: {
            "kind": task.kind,
            "class_names": list(task.class_names),
            "absent_classes": _absent(task, values),
        }
        for task, values in zip(tasks, labels, strict=True)
    }


def _check_views(run: Run, views: Views) -> None:
    if run.info.inputs.views and views != ONE_VIEW:
        raise ValueError(
            f"got several views of each image (crops, flip or scales) for a run that takes up to "
            f"{run.info.inputs.views} images of each example; leave them out"
        )


def _with_tasks(metrics: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metrics; of several tasks with what is said of each."""
    if "tasks" not in metrics:
        return dict(metrics)
    of_tasks = {name: {**tasks[name], **of_one} for name, of_one in metrics["tasks"].items()}
    return {**metrics, "tasks": of_tasks}


def _absent(task: Task, labels: np.ndarray) -> list[str]:
    """Returns the classes of a task of which no example is, in the order of the labels."""
    if task.multi_label:
        present = set(np.flatnonzero((labels == 1).any(axis=0)).tolist())
    else:
        present = set(np.unique(labels).tolist())
    return [name for index, name in enumerate(task.class_names) if index not in present]


def _trained_on(workdir: str | Path, train_split: str, examples: Source) -> list[str]:
    """Returns a note on images of other data that the run seems to have been trained on.

    Such are those of the run's own data that were moved, or copied into a larger set.
    """
    trained = RunFolder(workdir).read_examples().get(train_split)
    if trained is None or not trained.names or len(trained.marks) != len(trained.names):
        return []
    names, marks = examples.identities(), examples.content_marks()
    if all("-" in mark for mark in (*trained.marks, *marks)):  # With a hash of the content.
        known, found = {*trained.marks}, list(marks)
    else:
        known = {f"{_size(mark)} {n}" for n, mark in zip(trained.names, trained.marks, strict=True)}
        found = [f"{_size(mark)} {name}" for name, mark in zip(names, marks, strict=False)]
    count = sum(key in known for key in found)
    if not count:
        return []
    return [
        f"{count} of {len(examples)} images seem to be among those that the run was trained on; if "
        "so, these metrics measure what was trained on: name the split that it held out (split, "
        "--split), or leave them out of the data"
    ]


def _size(mark: str) -> str:
    return mark.partition("-")[0]


def _notes(
    examples: Source,
    value_range: tuple[float, float] | None,
    tasks: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Returns what a reader of the metrics must know."""
    notes = [*examples.notes, *value_warnings(examples, value_range)]
    if examples.skipped:
        skipped = messages.some(examples.skipped, quoted=False)
        notes.append(f"left out {len(examples.skipped)} images that cannot be decoded: {skipped}")
    for name, task in tasks.items():
        absent, count = task["absent_classes"], len(task["class_names"])
        means = "macro F1" if task["kind"] == "multi_label" else "balanced accuracy and macro F1"
        verb = "is a mean" if task["kind"] == "multi_label" else "are means"
        if absent:
            of_task = f"{name}: " * (len(tasks) > 1)
            notes.append(
                f"{of_task}no image of {messages.some(absent)}: {means} {verb} over the other "
                f"{count - len(absent)} of {count} classes"
            )
    return notes

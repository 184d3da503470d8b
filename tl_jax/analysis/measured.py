"""What a run says of every example of a split, task by task, in the order of the examples."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tl_jax.config import Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, Task
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_label_metrics import sigmoid
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import MASK, Objective, Rows, example_rows
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run.data import load_options
from tl_jax.run.folder import Run
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator


@dataclasses.dataclass(frozen=True)
class TaskRows:
    """One task of a split, measured.

    Attributes:
      task: what the labels are.
      objective: what the outputs mean, with the temperature and thresholds of the run.
      rows: of `Objective.statistics`, of all examples [N, ...] in their order.
    """

    task: Task
    objective: Any
    rows: Rows

    @property
    def is_labelled(self) -> np.ndarray:
        """Which examples have a label, bool [N]."""
        return ~self.task.missing(self.rows["label"])

    @property
    def probabilities(self) -> np.ndarray | None:
        """Of the classes or levels, float [N, C]; None of numbers, and beyond 2,000 classes."""
        if "probabilities" in self.rows:
            return self.rows["probabilities"]
        if "logits" not in self.rows:
            return None
        logits = self.rows["logits"].astype(np.float64)
        if isinstance(self.objective, MultiLabel):
            return sigmoid(logits)
        return np.asarray(jax.nn.softmax(logits / self.objective.temperature))

    @property
    def predicted(self) -> np.ndarray:
        """The predicted class, level or number [N]; of several classes bool [N, C]."""
        if not isinstance(self.objective, MultiLabel):
            return self.rows["predicted"]
        limits = np.broadcast_to(self.objective.thresholds, self.rows["logits"].shape)
        return sigmoid(self.rows["logits"]) >= np.asarray(limits, np.float32)

    @property
    def errors(self) -> np.ndarray:
        """How wrong each prediction is, float [N]; NaN without a label.

        Of classes and levels 1 if it is wrong, of several classes the share of the known ones that
        are wrong, of numbers the absolute error. The means are 1 - accuracy, Hamming loss, MAE.
        """
        labels, predicted = self.rows["label"], self.predicted
        if self.task.kind == "regression":
            return np.abs(predicted.astype(np.float64) - labels)
        if self.task.multi_label:
            known = labels >= 0
            wrong = ((labels == 1) != predicted) & known
            return np.where(known.any(1), wrong.sum(1) / np.maximum(known.sum(1), 1), np.nan)
        return np.where(labels >= 0, (predicted != labels).astype(np.float64), np.nan)

    def part(self, chosen: np.ndarray) -> "TaskRows":
        """Returns some of the examples; `chosen` is bool [N] or indices."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return dataclasses.replace(self, rows=rows)

    def metrics(self) -> dict[str, Any]:
        """Returns the metrics of the objective."""
        found: dict[str, Any] = self.objective.metrics(self.rows)
        return found


def measurer(run: Run, config: Config, preprocess: Preprocess | None = None) -> Evaluator:
    """Returns the evaluator of a run, with its calibrated objective; its first call compiles.

    Args:
      run: the run.
      config: of `run_data.config_of`, how images are read.
      preprocess: the transform, in the place of the run's.
    """
    return Evaluator(
        run.model,
        preprocess or run.info.preprocess,
        mesh=sharding.data_mesh(),
        load_options=dataclasses.replace(load_options(config.data), cache="none"),
        objective=run.calibrated,
    )


def measure(run: Run, evaluator: Evaluator, source: Source) -> dict[str, TaskRows]:
    """Passes once over a split, and returns what was found by the task's name.

    Args:
      run: the run.
      evaluator: of `measurer`.
      source: a split with the run's tasks.

    Raises:
      ValueError, FloatingPointError, RuntimeError: as `Evaluator.evaluate`; and a ValueError in a
        process that is one of several, or for several classes beyond 2,000.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"got {jax.process_count()} processes; expected one: errors are told by example, and "
            "each process reads a part of them"
        )
    found = evaluator.evaluate(run.variables, source)
    rows = {**example_rows(found.statistics), MASK: np.ones(len(source), bool)}
    return dict(_by_task(run.info.example_facts.tasks, found.objective, rows))


def _by_task(
    tasks: tuple[Task, ...], objective: Objective, rows: Rows
) -> Iterator[tuple[str, TaskRows]]:
    for task in tasks:
        of_task, of_rows = objective, rows
        if isinstance(objective, MultiTask):
            of_task = objective.tasks[task.name]
            of_rows = objective.task_statistics(rows, task.name)
        if isinstance(of_task, MultiLabel) and "label" not in of_rows:
            raise ValueError(
                f"the task {task.name!r} has {len(task.class_names)} classes, of which an image "
                "may have several; errors are told by example up to 2,000 of these"
            )
        yield task.name, TaskRows(task, of_task, of_rows)


MAIN: Mapping[str, tuple[str, ...]] = {
    "multi_class": ("accuracy", "balanced_accuracy", "macro_f1", "loss", "calibration_error"),
    "multi_label": ("mean_average_precision", "macro_f1", "micro_f1", "exact_match", "loss"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy", "loss"),
    "regression": ("mae", "rmse", "r2", "loss"),
}
"""The metrics that are told of a split and of its slices, by kind of task."""


def label_text(task: Task, label: Any) -> str:
    """Returns a label or prediction as a person reads it.

    >>> label_text(Task("size", ()), 1.23456), label_text(Task("kind", ("a", "b")), 1)
    ('1.235', 'b')
    """
    if task.kind == "regression":
        return "missing" if np.isnan(label) else f"{label:.4g}"
    if task.multi_label:
        names = [task.class_names[i] for i in np.flatnonzero(np.asarray(label) == 1)]
        return ", ".join(names) or "none"
    return task.class_names[int(label)] if label >= 0 else "missing"


def is_single_label(rows: TaskRows) -> bool:
    """Returns whether a task tells one class of each example by a softmax."""
    return isinstance(rows.objective, SingleLabel)

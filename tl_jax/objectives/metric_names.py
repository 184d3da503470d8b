"""Every metric with one number: its name, its meaning, and whether lower values are better."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tl_jax import messages


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric with one number.

    Attributes:
      name: its key in the dict that `Objective.metrics` returns.
      meaning: what it is, in one line.
      lower_is_better: whether lower values are better, as of an error.
      is_costly: whether it sorts all scores of each class, which takes seconds at 50,000 examples
        of 1,000 classes, so that it is not measured after each epoch unless it is needed.
    """

    name: str
    meaning: str
    lower_is_better: bool = False
    is_costly: bool = False


_ALL = (
    Metric("loss", "mean of the loss that is trained, without smoothing and weights", True),
    # Classes and levels.
    Metric("accuracy", "share of examples whose predicted class is the label"),
    Metric("balanced_accuracy", "mean over the classes of the share that is recognised (recall)"),
    Metric("top5_accuracy", "share of examples whose label is among the five likeliest classes"),
    Metric("macro_f1", "mean over the classes of F1"),
    Metric("micro_f1", "F1 of all decisions together; of single labels it is the accuracy"),
    Metric(
        "macro_auc",
        "mean over the classes of the area under the ROC curve, one versus rest",
        is_costly=True,
    ),
    Metric("mean_average_precision", "mean over the classes of average precision", is_costly=True),
    Metric("log_loss", "mean of -log of the label's probability, in nats", True),
    Metric("brier", "mean squared distance of the probabilities from the label, 0 to 2", True),
    Metric("calibration_error", "mean distance of confidence and accuracy, 15 bins", True),
    Metric("kappa", "Cohen's kappa: agreement beyond chance"),
    # Levels.
    Metric("quadratic_kappa", "Cohen's kappa with quadratic weights"),
    # Levels and values.
    Metric("mae", "mean absolute error, in levels or in the unit of the values", True),
    Metric("rmse", "root of the mean squared error, in the unit of the values", True),
    Metric("r2", "share of the variance that is explained, R squared"),
    # Any number of classes per example.
    Metric("macro_precision", "mean over the classes of precision"),
    Metric("micro_precision", "precision of all decisions together"),
    Metric("macro_recall", "mean over the classes of recall"),
    Metric("micro_recall", "recall of all decisions together"),
    Metric("micro_auc", "area under the ROC curve of all decisions together", is_costly=True),
    Metric("exact_match", "share of examples with all known classes right"),
    Metric("hamming_loss", "share of wrong decisions", True),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""All metrics by name."""


_IN_WORDS = {
    "mean_average_precision": "mAP",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "macro_auc": "macro AUC",
    "micro_auc": "micro AUC",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "f1": "F1",
    "auc": "AUC",
    "brier": "Brier score",
}


def in_words(name: str) -> str:
    """Returns a metric's name as a person writes it.

    >>> in_words("macro_f1"), in_words("exact_match")
    ('macro F1', 'exact match')
    """
    return _IN_WORDS.get(name, name.replace("_", " "))


def is_needed(costly: Collection[str] | None, names: Iterable[str]) -> bool:
    """Returns whether one of some costly metrics is to be computed.

    Args:
      costly: the metrics that are asked for, as in `Objective.metrics`; None for all.
      names: the metrics.

    Examples:
      >>> is_needed(None, ["macro_auc"]), is_needed(["loss"], ["macro_auc", "micro_auc"])
      (True, False)
    """
    return costly is None or not set(costly).isdisjoint(names)


def of_task(task: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of a task's metrics among those of several tasks: "TASK.METRIC".

    >>> of_task("defect", ["mae"])
    ('defect.mae',)
    """
    return tuple(f"{task}.{name}" for name in names)


def within(task: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns a task's own names of its metrics among those of several tasks.

    >>> within("defect", ["loss", "defect.mae", "cell.accuracy"])
    ('mae',)
    """
    parts = [name.rpartition(".") for name in names]
    return tuple(own for of, _, own in parts if of == task)


def metric(name: str, names: Iterable[str] | None = None) -> Metric:
    """Returns the metric of a name, "METRIC" or "TASK.METRIC".

    Args:
      name: of the metric.
      names: the names that are possible, `Objective.metric_names`; None for any known metric of any
        task.

    Raises:
      ValueError: if there is none of this name; the message names the nearest, or all.

    Examples:
      >>> metric("mae").lower_is_better, metric("cell.accuracy").lower_is_better
      (True, False)
      >>> metric("acuracy", ["loss", "accuracy"])
      Traceback (most recent call last):
      ...
      ValueError: got the metric 'acuracy'; expected one of loss, accuracy; did you mean 'accuracy'?
    """
    possible = list(METRICS if names is None else names)
    plain = name.rpartition(".")[2]
    if plain in METRICS and (names is None or name in possible):
        return METRICS[plain]
    # A metric that a task has and that was named without it, or another task's: these are nearest.
    same = [each for each in possible if each.rpartition(".")[2] == plain and each != plain]
    hint = f"; did you mean {' or '.join(map(repr, same))}?" if same else ""
    raise ValueError(
        f"got the metric {name!r}; expected one of {messages.some(possible, quoted=False)}"
        f"{hint or messages.hint(name, possible)}"
    )


def value(metrics: Mapping[str, Any], name: str) -> float:
    """Returns the number of a metric; NaN where it does not exist (None).

    Args:
      metrics: of `Objective.metrics`.
      name: "METRIC", or "TASK.METRIC" of several tasks.

    Raises:
      ValueError: if the metrics have none of this name.

    Examples:
      >>> found = {"loss": 0.5, "tasks": {"cell": {"accuracy": 0.75, "kappa": None}}}
      >>> value(found, "loss"), value(found, "cell.accuracy"), value(found, "cell.kappa")
      (0.5, 0.75, nan)
    """
    numbers = {key: number for key, number in metrics.items() if key in METRICS}
    for task, of_one in metrics.get("tasks", {}).items():
        numbers |= {f"{task}.{key}": of_one[key] for key in of_one if key in METRICS}
    if name not in numbers:
        metric(name, numbers)
    found = numbers[name]
    return math.nan if found is None else float(found)

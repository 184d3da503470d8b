"""The metrics of an evaluation as a run keeps and says them: by name, of one task or several."""

import math
from collections.abc import Mapping
from typing import Any

# Kept with every checkpoint, so that a run can say more of its epochs than the best metric.
_KEPT = ("loss", "accuracy", "balanced_accuracy", "macro_f1")
# What is for a report alone: objects, and matrices of numbers.
_OBJECTS = ("reliability", "confusion")
_HEADLINES = (
    "accuracy", "balanced_accuracy", "macro_f1", "mean_average_precision", "mae", "quadratic_kappa",
    "r2",
)  # fmt: skip
_IN_WORDS = {
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "mean_average_precision": "mAP",
    "quadratic_kappa": "quadratic kappa",
}


def by_name(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metrics as a flat dict, those of several tasks as "TASK.METRIC", without objects.

    Args:
      metrics: of `Objective.metrics`.

    Examples:
      >>> by_name({"loss": 0.5, "tasks": {"age": {"mae": 2.0, "count": 3}}})
      {'loss': 0.5, 'age.mae': 2.0, 'age.count': 3}
    """
    flat = {name: value for name, value in metrics.items() if name not in (*_OBJECTS, "tasks")}
    for task, of_one in metrics.get("tasks", {}).items():
        flat |= {f"{task}.{name}": value for name, value in by_name(of_one).items()}
    return flat


def kept(metrics: Mapping[str, Any], best_metric: str) -> dict[str, float]:
    """Returns what is kept of an epoch: the usual metrics and the best one, as far as they exist.

    Args:
      metrics: of `Objective.metrics`, or a record of these by name.
      best_metric: `train.best_metric`.

    Examples:
      >>> kept({"count": 3, "loss": 0.5, "kappa": 0.25, "accuracy": None}, "kappa")
      {'loss': 0.5, 'kappa': 0.25}
    """
    flat = by_name(metrics)
    names = dict.fromkeys((*_KEPT, best_metric))
    return {name: flat[name] for name in names if flat.get(name) is not None}


def sentence(metrics: Mapping[str, Any]) -> str:
    """Returns the metrics that a person follows, in one line.

    Examples:
      >>> sentence({"loss": 0.5, "accuracy": 0.9, "accuracy_interval": [0.8, 1.0],
      ...           "balanced_accuracy": 0.875, "macro_f1": 0.5})
      'loss 0.5000, accuracy 0.9000 (0.800 to 1.000), balanced 0.8750'
      >>> sentence({"loss": 1.5, "tasks": {"age": {"mae": 2.0, "r2": None}}})
      'loss 1.5000; age: mae 2.0000'
    """
    loss = metrics["loss"]
    words = [f"loss {math.nan if loss is None else loss:.4f}"]
    if "tasks" not in metrics:
        return ", ".join([*words, *_words(metrics)])
    of_tasks = [f"{task}: {', '.join(_words(of_one))}" for task, of_one in metrics["tasks"].items()]
    return "; ".join([*words, *of_tasks])


def headlines(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the names of the metrics that a person follows first, those of one task.

    Examples:
      >>> headlines({"accuracy": 0.5, "balanced_accuracy": 0.5, "macro_f1": 0.5})
      ['accuracy', 'balanced_accuracy']
    """
    names = [name for name in _HEADLINES if metrics.get(name) is not None]
    if "accuracy" in names:  # Of one class each the others say little more.
        names = [name for name in names if name not in ("macro_f1", "mean_average_precision")]
    return names


def _words(metrics: Mapping[str, Any]) -> list[str]:
    words = []
    for name in headlines(metrics):
        text = f"{_IN_WORDS.get(name, name)} {metrics[name]:.4f}"
        if name == "accuracy" and "accuracy_interval" in metrics:
            low, high = metrics["accuracy_interval"]
            text += f" ({low:.3f} to {high:.3f})"
        words.append(text)
    return words

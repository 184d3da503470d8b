"""Metrics of multi-label classification on the host: of decisions by class, and of the ranking."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax.objectives import ranking


def decisions(
    statistics: dict[str, np.ndarray], thresholds: float | Sequence[float]
) -> dict[str, np.ndarray]:
    """Returns what is decided at the thresholds, as `MultiLabel.statistics` has it by the batch.

    Args:
      statistics: `label`, int8 [N, C], -1 where it is not known, and `logits`, [N, C].
      thresholds: probability from which on a class is predicted: one, or one of each class.

    Returns:
      `known` and `wrong`, numbers of classes, [N], and `decision_counts`, [1, C, 3].
    """
    labels, logits = statistics["label"], statistics["logits"]
    known, actual = labels >= 0, labels == 1  # What is not known is neither.
    predicted = (sigmoid(logits) >= np.asarray(thresholds, np.float32)) & known
    counts = [values.sum(0) for values in (actual, predicted, actual & predicted)]
    return {
        "known": known.sum(-1),
        "wrong": (actual != predicted).sum(-1),
        "decision_counts": np.stack(counts, -1)[None],
    }


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-logits)) without overflow, in the type of the logits."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def of_counts(counts: np.ndarray) -> dict[str, Any]:
    """Returns precision, recall and F1: by class, their means, and of all decisions together.

    Args:
      counts: int [C, 3]: by class the examples that have it, are predicted to, and both.

    Returns:
      `precision`, `recall` and `f1` by class, None for one without positives; with `macro_` the
      means over the others, with `micro_` those of the summed counts; `positives` by class, and
      `classes_without_positives`, their number. A class that is never predicted has the precision
      0, as in scikit-learn.

    Examples:
      >>> found = of_counts(np.array([[4, 2, 2], [0, 2, 0]]))
      >>> found["recall"], found["macro_recall"], found["micro_precision"]
      ([0.5, None], 0.5, 0.5)
    """
    found: dict[str, Any] = {}
    together = counts.sum(0)
    for name, over in (("precision", _PREDICTED), ("recall", _ACTUAL), ("f1", _EITHER)):
        scores = [_score(row, over) for row in counts]
        found[name] = scores
        found[f"macro_{name}"] = ranking.mean(scores)
        found[f"micro_{name}"] = _score(together, over)
    found["positives"] = counts[:, 0].tolist()
    found["classes_without_positives"] = int((counts[:, 0] == 0).sum())
    return found


# What the hits are divided by: weights of the columns "actual" and "predicted".
_ACTUAL, _PREDICTED, _EITHER = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def _score(counts: np.ndarray, over: tuple[float, float]) -> float | None:
    actual, predicted, hits = (int(value) for value in counts)
    divisor = over[0] * actual + over[1] * predicted
    return (hits / divisor if divisor else 0.0) if actual else None


def of_ranking(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of how the logits rank examples; see `ranking.summarize`.

    Args:
      logits: [N, C].
      labels: [N, C], 1, 0, or -1 where it is not known.

    Returns:
      The metrics of `ranking.summarize`, and `micro_auc` of all decisions together.
    """
    by_class, known = np.ascontiguousarray(logits.T), labels.T >= 0

    def column(index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = known[index]
        return by_class[index][chosen], labels[:, index][chosen] == 1

    rankings = ranking.by_class(column, logits.shape[1])
    together = ranking.rank(by_class[known], labels.T[known] == 1)
    return ranking.summarize(rankings) | {"micro_auc": together.auc}


def ratio(numerator: int, denominator: int) -> float | None:
    """Returns the ratio of two counts; None where the second is 0.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, None)
    """
    return numerator / denominator if denominator else None

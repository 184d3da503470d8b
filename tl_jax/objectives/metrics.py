"""Metrics of classification, computed from counts of predictions and the summed loss."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.objectives.metric_names import METRICS

LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.lower_is_better)
"""Names of the metrics of which lower values are better; `metric_names.metric` knows all."""

# A matrix of more classes is more than a person reads: 32 MB here, 873 MB at 10,450 classes.
MAX_MATRIX_CLASSES = 2000


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Predictions counted by class: what the metrics need of a confusion matrix.

    Attributes:
      hits: examples of each class that were predicted as such, int64 [C].
      actual: examples of each class, int64 [C].
      predicted: examples predicted as each class, int64 [C].
    """

    hits: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of classes, [C]."""
        return self.actual.shape

    def sum(self) -> int:
        """Returns the number of examples."""
        return int(self.actual.sum())


Counts = np.ndarray | ClassCounts


def count(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> Counts:
    """Counts examples by true and predicted class.

    Args:
      labels: class indices, [N]; an example whose label is negative is left out.
      predicted: class indices, [N].
      num_classes: number of classes, C.

    Returns:
      The confusion matrix, int64 [C, C], true by predicted class; `ClassCounts` beyond 2,000
      classes.

    Examples:
      >>> count(np.array([0, 1, 1, -1]), np.array([0, 1, 0, 0]), num_classes=2).tolist()
      [[1, 0], [1, 1]]
    """
    is_counted = labels >= 0
    labels, predicted = labels[is_counted].astype(np.int64), predicted[is_counted]
    if num_classes <= MAX_MATRIX_CLASSES:
        cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
        return cells.reshape(num_classes, num_classes)
    return ClassCounts(
        hits=np.bincount(labels[labels == predicted], minlength=num_classes),
        actual=np.bincount(labels, minlength=num_classes),
        predicted=np.bincount(predicted, minlength=num_classes),
    )


def by_class(counts: Counts) -> ClassCounts:
    """Returns the counts by class of a confusion matrix, or what is so already."""
    if isinstance(counts, ClassCounts):
        return counts
    matrix = np.asarray(counts, np.int64)
    return ClassCounts(matrix.diagonal(), matrix.sum(1), matrix.sum(0))


def confusion_matrix(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts the examples by true class (rows) and predicted class (columns): int32 [C, C].

    Args:
      logits: [B, C].
      labels: class indices, [B].
      mask: bool [B]; False leaves an example out.

    Examples:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
      >>> confusion_matrix(logits, jnp.array([0, 1, 1]), jnp.ones(3, bool)).tolist()
      [[1, 0], [1, 1]]
    """
    num_classes = logits.shape[-1]
    zeros = jnp.zeros((num_classes, num_classes), jnp.int32)
    return zeros.at[labels, jnp.argmax(logits, -1)].add(mask.astype(jnp.int32))


def summarize(confusion: Counts, loss_sum: float) -> dict[str, Any]:
    """Returns the metrics of a split from its confusion matrix and the sum of its losses.

    Args:
      confusion: counts [C, C], true by predicted class; or `ClassCounts`.
      loss_sum: sum of the losses of all examples, in nats.

    Returns:
      A dict of JSON values: `count`, `loss` (mean, nats), `accuracy`, `accuracy_interval`
      (Wilson's, 95%), `balanced_accuracy` (mean recall), `macro_f1` (mean F1), `recall` and
      `precision` by class. Classes without examples are left out of the means.
    """
    counts = by_class(confusion)
    hits, actual, predicted = counts.hits, counts.actual, counts.predicted
    count, present = counts.sum(), actual > 0
    recall, precision = _ratio(hits, actual), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, actual + predicted)
    return {
        "count": count,
        "loss": float(loss_sum) / max(count, 1),
        "accuracy": float(hits.sum() / max(count, 1)),
        "accuracy_interval": wilson_interval(int(hits.sum()), count),
        "balanced_accuracy": float(recall[present].mean()) if count else 0.0,
        "macro_f1": float(f1[present].mean()) if count else 0.0,
        "recall": recall.tolist(),
        "precision": precision.tolist(),
    }


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> list[float]:
    """Returns the 95% confidence interval of a proportion, [low, high] (Wilson, 1927).

    >>> [round(bound, 3) for bound in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    if count == 0:
        return [0.0, 1.0]
    p, z2 = hits / count, z * z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def cohen_kappa(confusion: np.ndarray, *, quadratic: bool = False) -> float | None:
    """Returns Cohen's kappa: how much more two ratings agree than they would by chance.

    Args:
      confusion: counts [C, C], true by predicted class.
      quadratic: whether a disagreement weighs the squared distance of the two classes, for ordered
        ones (Cohen, "Weighted kappa", 1968), rather than 1.

    Returns:
      1 for full agreement, 0 for that of chance; None if chance agrees always (all examples are of
      one class and predicted as it) or there are no examples.

    Examples:
      >>> cohen_kappa(np.array([[20, 5], [10, 15]]))
      0.4
    """
    counts = np.asarray(confusion, np.float64)
    places = np.arange(len(counts))
    distance = np.abs(places[:, None] - places)
    weights = distance**2 if quadratic else distance > 0
    total = counts.sum()
    by_chance = (weights * np.outer(counts.sum(1), counts.sum(0))).sum()
    if not by_chance:
        return None
    return float(1 - (weights * counts).sum() * total / by_chance)


def finite_or_none(value: Any) -> float | None:
    """Returns a number as JSON has it: a float, or None for NaN and infinity.

    >>> finite_or_none(np.float32(0.5)), finite_or_none(np.nan)
    (0.5, None)
    """
    number = float(value)
    return number if math.isfinite(number) else None


def mean_or_none(values: np.ndarray) -> float | None:
    """Returns the mean of numbers, in 64 bits; None if there are none or it is not finite.

    >>> mean_or_none(np.array([0.5, 1.0])), mean_or_none(np.array([]))
    (0.75, None)
    """
    return finite_or_none(np.mean(values, dtype=np.float64)) if len(values) else None


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)

"""Metrics of classification, computed from the confusion matrix and the summed loss."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LOWER_IS_BETTER = frozenset({"loss"})


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


def summarize(confusion: np.ndarray, loss_sum: float) -> dict[str, Any]:
    """Returns the metrics of a split from its confusion matrix and the sum of its losses.

    Args:
      confusion: counts [C, C], true by predicted class.
      loss_sum: sum of the losses of all examples, in nats.

    Returns:
      A dict of JSON values: `count`, `loss` (mean, nats), `accuracy`, `accuracy_interval`
      (Wilson's, 95%), `balanced_accuracy` (mean recall), `macro_f1` (mean F1), `recall` and
      `precision` by class. Classes without examples are left out of the means.
    """
    confusion = np.asarray(confusion, np.int64)
    count = int(confusion.sum())
    hits, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = actual > 0
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


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)

"""What is chosen on validation data after training: a temperature, and thresholds by class."""

import math

import numpy as np

from tl_jax.objectives.multi_label_metrics import sigmoid

HOTTEST = 100.0
_HALVINGS = 8  # Of the logarithm of the range: the last is within 4% of the temperature.
_ITERATIONS = 60


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes the log-loss of logits / temperature the least.

    It changes no prediction, only how sure they are. Guo et al., "On Calibration of Modern Neural
    Networks" (2017). The log-loss is convex in the inverse temperature, so its least is bracketed
    by a few halvings, and reached from there by Newton's method.

    Args:
      logits: [N, C], of a split that was not trained on.
      labels: class indices, [N]; an example with a negative label is left out.

    Returns:
      A number within [1 / 100, 100]; these bounds where the least lies outside, such as 1 / 100 for
      predictions that are all right.

    Raises:
      ValueError: if the shapes do not fit, no label is known, or a logit is not finite.

    Examples:
      >>> logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
      >>> round(temperature(logits, np.array([0, 0, 1, 1])), 3)  # 3 of 4 are right
      1.82
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"got logits {logits.shape} and labels {labels.shape}; expected [N, C] and [N]"
        )
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels) or not np.isfinite(logits).all():
        state = "logits that are not finite" if len(labels) else "no label"
        raise ValueError(f"got {state}; expected labelled examples of a split with finite logits")
    # The slope does not change when a row is shifted.
    logits = logits - logits.max(-1, keepdims=True)
    own = logits[np.arange(len(labels)), labels].mean()
    low, high = 1 / HOTTEST, HOTTEST
    if _derivatives(logits, own, high)[0] <= 0:
        return 1 / high
    inverse = 1.0
    for iteration in range(_ITERATIONS):
        slope, curvature = _derivatives(logits, own, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else math.nan
        is_near = iteration >= _HALVINGS and low < newton < high
        following = newton if is_near else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return 1 / inverse


def _derivatives(logits: np.ndarray, own: float, inverse: float) -> tuple[float, float]:
    """Returns slope and curvature of the mean log-loss in the inverse temperature."""
    weights = np.exp(inverse * logits)
    weights /= weights.sum(-1, keepdims=True)
    mean = (weights * logits).sum(-1)
    variance = (weights * (logits - mean[:, None]) ** 2).sum(-1)
    return float(mean.mean() - own), float(variance.mean())


def f1_thresholds(
    logits: np.ndarray, labels: np.ndarray, *, default: float = 0.5
) -> tuple[float, ...]:
    """Returns the threshold of each class's probability that has the best F1.

    A threshold lies in the middle between the lowest probability that it lets pass and the next
    below. Of several that are equally good the highest is taken.

    Args:
      logits: [N, C], of a split that was not trained on.
      labels: [N, C]: 1, 0, or -1 where it is not known.
      default: threshold of a class without positives.

    Returns:
      C probabilities, for `MultiLabel.thresholds`.

    Raises:
      ValueError: if the labels have another shape than the logits.

    Examples:
      >>> logits = np.log([[0.8 / 0.2], [0.4 / 0.6], [0.2 / 0.8], [0.1 / 0.9]])
      >>> [round(x, 3) for x in f1_thresholds(logits, np.array([[1], [1], [0], [0]]))]
      [0.3]
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"got logits {logits.shape} and labels {labels.shape}; expected both [N, C]"
        )
    probabilities = sigmoid(logits.astype(np.float64))
    return tuple(
        _f1_threshold(column[label >= 0], label[label >= 0] == 1, default)
        for column, label in zip(probabilities.T, labels.T, strict=True)
    )


def _f1_threshold(scores: np.ndarray, is_positive: np.ndarray, default: float) -> float:
    if not is_positive.any():
        return default
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(is_positive[order])
    # Scores that are the same pass together, so a threshold lies behind the last of them.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    f1 = 2 * hits[ends] / (ends + 1 + hits[-1])
    end = ends[np.argmax(f1)]
    below = scores[end + 1] if end + 1 < len(scores) else 0.0
    return float((scores[end] + below) / 2)

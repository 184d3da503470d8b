"""Scores of predicted probabilities: log-loss, Brier's score, and the calibration of confidence."""

import dataclasses
from typing import Any

import numpy as np

BINS = 15


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Confidence compared with accuracy, in bins of equal width: a reliability diagram.

    Attributes:
      edges: of the bins, [bins + 1], from 0 to 1; a bin includes its upper edge.
      counts: examples of each bin, int64 [bins].
      confidence: mean confidence of each bin, [bins]; NaN where it has no examples.
      accuracy: share of right predictions in each bin, [bins]; NaN where it has no examples.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float | None:
        """The mean distance of confidence and accuracy over the examples; None without any.

        Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
        Binning" (2015); Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        if not self.counts.sum():
            return None
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.counts * gaps).sum() / self.counts.sum())

    def as_json(self) -> dict[str, list[Any]]:
        """Returns the four arrays as lists by name; None in the place of NaN."""
        return {
            field.name: [None if value != value else value for value in array.tolist()]
            for field in dataclasses.fields(self)
            for array in [getattr(self, field.name)]
        }


def reliability(confidence: np.ndarray, is_right: np.ndarray, *, bins: int = BINS) -> Reliability:
    """Returns the reliability diagram of predictions.

    Args:
      confidence: probability of the predicted class, [N], in [0, 1].
      is_right: bool [N], whether that is the true class.
      bins: number of bins of equal width.

    Examples:
      >>> found = reliability(np.array([0.6, 0.6, 0.9]), np.array([True, False, True]), bins=5)
      >>> found.counts.tolist(), round(found.expected_error, 3)
      ([0, 0, 2, 0, 1], 0.1)
    """
    edges = np.linspace(0, 1, bins + 1)
    # A confidence on an edge belongs to the bin below it, and 0 to the first.
    places = np.clip(np.searchsorted(edges, confidence, "left") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(places, weights=values, minlength=bins) / counts
            for values in (np.asarray(confidence, np.float64), np.asarray(is_right, np.float64))
        ]
    return Reliability(edges, counts, *means)


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """What the probabilities of an example say of its label, in 64 bits.

    Attributes:
      log_loss: -log of the label's probability, in nats, [N].
      brier: squared distance of the probabilities from the one-hot label, [N], 0 to 2.
      confidence: the largest probability, [N].
      rank: number of classes that are more probable than the label, [N]. A class of the same
        probability is more probable if its index is lower, as for the predicted class.
      log_normalizer: log of the sum of the exponentials of the logits, [N].
    """

    log_loss: np.ndarray
    brier: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    log_normalizer: np.ndarray


_CHUNK = 4096  # Examples at once, so that 1,000 classes take 33 MB in 64 bits and not a split's.


def class_scores(logits: np.ndarray, labels: np.ndarray) -> ClassScores:
    """Returns the scores of each example's softmax.

    Args:
      logits: [N, C].
      labels: class indices, [N].

    Examples:
      >>> found = class_scores(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([1, 1]))
      >>> found.log_loss.round(4).tolist(), found.brier.round(4).tolist(), found.rank.tolist()
      ([0.6931, 0.1269], [0.5, 0.0284], [1, 0])
    """
    parts = [
        _scores(logits[start : start + _CHUNK].astype(np.float64), labels[start : start + _CHUNK])
        for start in range(0, max(len(labels), 1), _CHUNK)
    ]
    return ClassScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _scores(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    rows = np.arange(len(labels))
    highest = logits.max(-1)
    log_normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(-1))
    own = logits[rows, labels]
    probabilities = np.exp(logits - log_normalizer[:, None])
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > own[:, None]) | ((logits == own[:, None]) & is_before)
    brier = (probabilities**2).sum(-1) - 2 * probabilities[rows, labels] + 1
    return log_normalizer - own, brier, probabilities.max(-1), ahead.sum(-1), log_normalizer

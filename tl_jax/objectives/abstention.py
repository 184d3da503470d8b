"""Abstention: predictions only where the network is sure, for a stated share of the examples."""

import dataclasses
import math
from typing import Any

import numpy as np

from tl_jax.objectives.metrics import mean_or_none


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """The share of errors among the predictions that are made, by how many are made.

    Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (2017).

    Attributes:
      coverage: share of the examples with a prediction, rising to 1, [K]: one entry for each
        different confidence.
      risk: mean error of these, [K].
      threshold: the lowest confidence among these, falling, [K].
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray

    @property
    def area(self) -> float | None:
        """The mean risk over the coverages; lower is better. None without examples."""
        if not len(self.risk):
            return None
        return float((self.risk * np.diff(self.coverage, prepend=0.0)).sum())

    def as_json(self, points: int = 101) -> dict[str, Any]:
        """Returns at most `points` entries of the curve, evenly spaced, as lists, and its area."""
        count = len(self.coverage)
        places = np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int))
        lists = {
            field.name: getattr(self, field.name)[places].tolist()
            for field in dataclasses.fields(self)
        }
        return {**lists, "area": self.area}


def risk_coverage(confidence: np.ndarray, errors: np.ndarray) -> RiskCoverage:
    """Returns the risk for each coverage.

    Args:
      confidence: [N], such as the probability of the predicted class; the most confident examples
        are predicted first, those of the same confidence together.
      errors: of each prediction, [N]: whether it is wrong, or its distance from the label.

    Examples:
      >>> curve = risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([0, 1, 0, 0]))
      >>> curve.coverage.tolist(), curve.risk.tolist()
      ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.25])
      >>> curve.area
      0.0625
    """
    order = np.argsort(-confidence, kind="stable")
    ordered = np.asarray(confidence, np.float64)[order]
    sums = np.cumsum(np.asarray(errors, np.float64)[order])
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)[: len(ordered)]
    made = ends + 1
    return RiskCoverage(made / max(len(ordered), 1), sums[ends] / made, ordered[ends])


def threshold(confidence: np.ndarray, *, coverage: float) -> float:
    """Returns the confidence from which on predictions are made for a share of the examples.

    Args:
      confidence: [N], of a split that was not trained on.
      coverage: the least share of these examples that gets a prediction, in (0, 1]. Examples of the
        same confidence may make it more.

    Raises:
      ValueError: if the coverage is out of range, or there are no examples.

    Examples:
      >>> threshold(np.array([0.9, 0.6, 0.8, 0.7]), coverage=0.5)
      0.8
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"got coverage={coverage}; expected a share in (0, 1]")
    if not len(confidence):
        raise ValueError("got no examples; expected the confidence of one or more")
    place = math.ceil(len(confidence) * coverage - 1e-9)
    return float(np.sort(confidence)[::-1][place - 1])


def measure(confidence: np.ndarray, errors: np.ndarray, *, threshold: float) -> dict[str, Any]:
    """Returns the `coverage` and `risk` of predicting from a confidence on.

    They are None without examples, and the risk where nothing is predicted.

    Examples:
      >>> measure(np.array([0.9, 0.6]), np.array([0, 1]), threshold=0.8)
      {'coverage': 0.5, 'risk': 0.0}
    """
    made = confidence >= threshold
    return {"coverage": mean_or_none(made), "risk": mean_or_none(np.asarray(errors)[made])}

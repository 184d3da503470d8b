"""Sets of classes that hold the label with a stated probability: split conformal prediction."""

import dataclasses
import math
from typing import Any, Literal, get_args

import numpy as np

from tl_jax.objectives.objective import one_of

Method = Literal["lac", "aps"]


@dataclasses.dataclass(frozen=True)
class PredictionSets:
    """Makes of probabilities a set of classes for each example.

    If the examples it was fitted on and a new one are drawn alike (exchangeable), the set of the
    new one holds its label with at least the stated probability, on average over such draws:
    whatever the network, and not for each class or kind of image by itself.

    Attributes:
      method: "lac", which gives the smallest sets (Sadinle, Lei and Wasserman, "Least Ambiguous
        Set-Valued Classifiers", 2019), or "aps", whose sets adapt better to how hard an example is
        (Romano, Sesia and Candes, "Classification with Valid and Adaptive Coverage", 2020).
      coverage: the stated probability.
      threshold: largest score of a class that is in the set; infinite if the examples were too few
        to say anything, so that the sets hold all classes.
    """

    method: Method
    coverage: float
    threshold: float

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns which classes are in each example's set, bool [N, C].

        The likeliest class always is, so that no set is empty; that only adds to the coverage.

        Args:
          probabilities: [N, C].
        """
        probabilities = np.asarray(probabilities, np.float64)
        chosen = _scores(probabilities, self.method) <= self.threshold
        chosen[np.arange(len(chosen)), probabilities.argmax(-1)] = True
        return chosen


def fit(
    probabilities: np.ndarray, labels: np.ndarray, *, coverage: float = 0.9, method: Method = "lac"
) -> PredictionSets:
    """Returns prediction sets of a coverage, from a split that was not trained on.

    Args:
      probabilities: [N, C].
      labels: class indices, [N]; an example with a negative label is left out.
      coverage: probability with which a set is to hold the label, in (0, 1).
      method: see `PredictionSets`.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> p = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
      >>> sets = fit(p, np.array([0, 0, 2, 2]), coverage=0.75)
      >>> sets(np.array([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]])).tolist()
      [[True, True, False], [True, False, False]]
    """
    one_of("method", method, get_args(Method))
    if not 0 < coverage < 1:
        raise ValueError(f"got coverage={coverage}; expected a probability in (0, 1)")
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"got probabilities {probabilities.shape} and labels {labels.shape}; expected [N, C] "
            "and [N]"
        )
    probabilities, labels = probabilities[labels >= 0], labels[labels >= 0]
    scores = np.sort(_scores(probabilities, method)[np.arange(len(labels)), labels])
    # The quantile of N + 1 scores of which the largest is not known. The product of a coverage such
    # as 0.9 with a whole number may lie a bit above the whole number that is meant.
    place = math.ceil((len(scores) + 1) * coverage - 1e-9)
    threshold = float(scores[place - 1]) if place <= len(scores) else math.inf
    return PredictionSets(method, coverage, threshold)


def measure(sets: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns how often sets hold the label, and how large they are.

    Args:
      sets: bool [N, C].
      labels: class indices, [N]; an example with a negative label is left out.

    Returns:
      `coverage`, `mean_size`, and `sizes`: the number of sets with 0, 1, ..., C classes. The first
      two are None without examples.

    Examples:
      >>> measure(np.array([[True, False], [True, True]]), np.array([1, 1]))
      {'coverage': 0.5, 'mean_size': 1.5, 'sizes': [0, 1, 1]}
    """
    known = labels >= 0
    sets, labels = sets[known], labels[known]
    sizes = sets.sum(-1)
    return {
        "coverage": float(sets[np.arange(len(sets)), labels].mean()) if len(sets) else None,
        "mean_size": float(sizes.mean()) if len(sets) else None,
        "sizes": np.bincount(sizes, minlength=sets.shape[1] + 1).tolist(),
    }


def _scores(probabilities: np.ndarray, method: Method) -> np.ndarray:
    """Returns how odd each class would be as the label, [N, C]."""
    if method == "lac":
        return 1 - probabilities
    # The sum of all probabilities down to the class's own.
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(probabilities, order, -1), -1)
    scores = np.empty_like(sums)
    np.put_along_axis(scores, order, sums, -1)
    return scores

"""Scores of a ranking: the area under the ROC curve and average precision, by class."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tl_jax.objectives.metrics import mean_or_none

MEANS = ("macro_auc", "mean_average_precision")
"""The metrics of `summarize` with one number."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well the scores of one class put its positives before its negatives.

    Attributes:
      auc: the probability that a positive scores higher than a negative; a tie is a half. None
        without positives or without negatives.
      average_precision: mean over the positives of the precision among all that score at least as
        high; None without positives.
      positives: the number of positives.
      negatives: the number of negatives.
    """

    auc: float | None
    average_precision: float | None
    positives: int
    negatives: int


def rank(scores: np.ndarray, is_positive: np.ndarray) -> Ranking:
    """Returns how well scores separate positives from negatives, ties counted rightly.

    It needs one sort of the scores and a search for each positive. The numbers are those of
    scikit-learn's `roc_auc_score` and `average_precision_score`.

    Args:
      scores: [N], higher for what looks more like a positive.
      is_positive: bool [N].

    Examples:
      >>> rank(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])).auc
      0.875
    """
    ordered, positives = np.sort(scores), np.sort(scores[is_positive])
    count, total = len(positives), len(ordered)
    if not count:
        return Ranking(None, None, 0, total)
    lower = np.searchsorted(ordered, positives, "left")
    at_least = total - lower
    hits = count - np.searchsorted(positives, positives, "left")
    average_precision = float((hits / at_least).mean())
    if count == total:
        return Ranking(None, average_precision, count, 0)
    # Mann and Whitney's statistic from the mean ranks of the positives, counted from 1.
    ranks = (lower + np.searchsorted(ordered, positives, "right") + 1) / 2
    below = ranks.sum() - count * (count + 1) / 2
    auc = float(below / (count * (total - count)))
    return Ranking(auc, average_precision, count, total - count)


def by_class(
    column: Callable[[int], tuple[np.ndarray, np.ndarray]], num_classes: int
) -> list[Ranking]:
    """Returns the ranking of each class; `column(c)` gives its scores and positives, both [N]."""
    return [rank(*column(index)) for index in range(num_classes)]


def summarize(rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Returns the means over the classes that have the score, and the scores by class.

    Returns:
      `macro_auc`, `mean_average_precision`, their lists by class, `auc` and `average_precision`,
      and `classes_without_positives`, the number of classes that are left out of the means.

    Examples:
      >>> found = summarize([Ranking(0.75, 0.5, 2, 2), Ranking(None, None, 0, 4)])
      >>> found["macro_auc"], found["auc"], found["classes_without_positives"]
      (0.75, [0.75, None], 1)
    """
    aucs = [ranking.auc for ranking in rankings]
    precisions = [ranking.average_precision for ranking in rankings]
    return {
        "macro_auc": mean(aucs),
        "mean_average_precision": mean(precisions),
        "auc": aucs,
        "average_precision": precisions,
        "classes_without_positives": sum(not ranking.positives for ranking in rankings),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that exist; None if none does.

    >>> mean([0.5, None, 1.0]), mean([None])
    (0.75, None)
    """
    return mean_or_none(np.array([value for value in values if value is not None]))

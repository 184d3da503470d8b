"""Errors by class: the most confused pairs, and the metrics of each class with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax.analysis.measured import TaskRows
from tl_jax.objectives import bootstrap
from tl_jax.objectives.metrics import wilson_interval

_BINS = 4  # Of the labels of a regression: quartiles.


def confused_pairs(rows: TaskRows, *, most: int = 10) -> list[dict[str, Any]] | None:
    """Returns the pairs of classes that are most often taken for one another.

    Args:
      rows: of a task of classes or levels.
      most: how many pairs.

    Returns:
      By count: `true`, `predicted`, `count`, `share` of the examples of the true class and its 95%
      `interval` (Wilson). None of numbers, and of several classes each, where a missed class is
      not taken for another one.
    """
    task = rows.task
    if task.kind not in ("multi_class", "ordinal"):
        return None
    known = rows.is_labelled
    labels, predicted = rows.rows["label"][known], rows.predicted[known]
    cells = labels.astype(np.int64) * len(task.class_names) + predicted
    found, counts = np.unique(cells[labels != predicted], return_counts=True)
    totals = np.bincount(labels, minlength=len(task.class_names))
    return _pairs(found, counts, totals, task.class_names, most)


def pairs_of_matrix(
    confusion: np.ndarray, class_names: Sequence[str], *, most: int = 10
) -> list[dict[str, Any]]:
    """Returns the pairs as `confused_pairs`, of a confusion matrix.

    Args:
      confusion: counts [C, C], true by predicted class.
      class_names: of the C classes.
      most: how many pairs.

    Examples:
      >>> [pair] = pairs_of_matrix(np.array([[4, 1], [0, 5]]), ["cat", "dog"])
      >>> pair["true"], pair["predicted"], pair["count"], pair["share"]
      ('cat', 'dog', 1, 0.2)
    """
    counts = (confusion - np.diag(np.diag(confusion))).ravel()
    found = np.flatnonzero(counts)
    return _pairs(found, counts[found], confusion.sum(1), class_names, most)


def _pairs(
    found: np.ndarray, counts: np.ndarray, totals: np.ndarray, names: Sequence[str], most: int
) -> list[dict[str, Any]]:
    """Returns the pairs of the cells `found`, row by row, of a confusion matrix."""
    pairs = []
    for place in np.argsort(-counts, kind="stable")[:most]:
        true, guess = divmod(int(found[place]), len(names))
        count, total = int(counts[place]), int(totals[true])
        pairs.append(
            {
                "true": names[true],
                "predicted": names[guess],
                "count": count,
                "share": count / total,
                "interval": wilson_interval(count, total),
            }
        )
    return pairs


def by_class(rows: TaskRows) -> list[dict[str, Any]]:
    """Returns the metrics of each class with 95% intervals, or of a regression of each quartile.

    Returns:
      Of classes and levels, one or several each: `name`, `count`, `predicted` (how often it was),
      `recall`, `precision` and their `..._interval` (Wilson); None where nothing is counted. Of
      numbers, by quartile of the label: `name` (its range), `count`, `mae`, `bias` (the mean of
      predicted minus true) and their intervals (bootstrap).
    """
    if rows.task.kind == "regression":
        return _by_quartile(rows)
    known = rows.is_labelled
    labels, predicted = rows.rows["label"][known], rows.predicted[known]
    found = []
    for index, name in enumerate(rows.task.class_names):
        if rows.task.multi_label:
            there = labels[:, index] >= 0
            actual, guessed = labels[there, index] == 1, predicted[there, index]
        else:
            actual, guessed = labels == index, predicted == index
        hits, count, guesses = (int(x.sum()) for x in (actual & guessed, actual, guessed))
        found.append(
            {
                "name": name,
                "count": count,
                "predicted": guesses,
                **_share("recall", hits, count),
                **_share("precision", hits, guesses),
            }
        )
    return found


def _share(name: str, hits: int, count: int) -> dict[str, Any]:
    if not count:
        return {name: None, f"{name}_interval": None}
    return {name: hits / count, f"{name}_interval": wilson_interval(hits, count)}


def _by_quartile(rows: TaskRows) -> list[dict[str, Any]]:
    known = rows.is_labelled
    labels = rows.rows["label"][known].astype(np.float64)
    errors = rows.predicted[known] - labels
    found = []
    for name, chosen in quartiles(labels).items():
        found.append(
            {
                "name": name,
                "count": int(chosen.sum()),
                "mae": float(np.abs(errors[chosen]).mean()),
                "mae_interval": bootstrap.mean_interval(np.abs(errors[chosen])),
                "bias": float(errors[chosen].mean()),
                "bias_interval": bootstrap.mean_interval(errors[chosen]),
            }
        )
    return found


def quartiles(values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns which of some numbers lie in each quartile, bool [N], by its range as text.

    Numbers that are equal stay together, so that there may be fewer than four.

    >>> {name: int(chosen.sum()) for name, chosen in quartiles(np.arange(8.0)).items()}
    {'0 to 1': 2, '2 to 3': 2, '4 to 5': 2, '6 to 7': 2}
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    limits = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]))
    # NaN lies above all numbers, in a place of its own that is not returned.
    places = np.where(np.isnan(values), -1, np.searchsorted(limits, values, "left"))
    found = {}
    for place in range(len(limits) + 1):
        chosen = places == place
        if chosen.any():
            found[f"{values[chosen].min():.4g} to {values[chosen].max():.4g}"] = chosen
    return found

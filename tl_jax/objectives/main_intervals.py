"""Bootstrap intervals of the main metrics of each kind of task, from sums that all draws share."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tl_jax.objectives import bootstrap, multi_label_metrics
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import Objective, Rows, example_rows
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel

DRAWS = 1000
_CELLS = 2**22  # Of the counts of examples that are drawn at once, and of their sums: 32 MB.

Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Metrics that depend on the examples by sums alone.

    Attributes:
      places: what is counted: for each example one of `width` places, or -1 for none, int [N].
      width: number of places in each of these.
      columns: what is summed, [N, M].
      metrics: takes the counts of D draws, [D, places, width], and the sums, [D, M], and returns
        each metric, [D], NaN where there is none.
    """

    places: tuple[np.ndarray, ...]
    width: int
    columns: np.ndarray
    metrics: Callable[[np.ndarray, np.ndarray], Values]

    def of_draws(self, draws: int, seed: int) -> Iterator[Values]:
        """Yields the metrics of examples drawn with replacement, of some draws at a time."""
        count, places = len(self.columns), [each + 1 for each in self.places]
        widest = max(count, len(places) * self.width, self.columns.shape[1])
        generator, step = np.random.default_rng(seed), max(1, _CELLS // widest)
        for start in range(0, draws, step):
            drawn = min(step, draws - start)
            times = np.empty((drawn, count))
            counts = np.empty((drawn, len(places), self.width))
            for draw in range(drawn):
                times[draw] = np.bincount(generator.integers(0, count, count), minlength=count)
                for index, each in enumerate(places):
                    found = np.bincount(each, weights=times[draw], minlength=self.width + 1)
                    counts[draw, index] = found[1:]
            yield self.metrics(counts, times @ self.columns)


def main_intervals(
    objective: Objective,
    statistics: Rows,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Returns percentile bootstrap intervals of the main metrics, [low, high] by name.

    They are those of `bootstrap.intervals`, but the metrics of all draws are computed together: a
    second for 50,000 examples of 1,000 classes. Classes: accuracy, balanced accuracy and macro F1.
    Several classes each: macro and micro F1, and exact match. Levels: accuracy, MAE and quadratic
    kappa. Numbers: MAE, RMSE and R2. Metrics of a ranking have none here.

    Args:
      objective: what was measured.
      statistics: of `Objective.statistics`, of all batches of a split.
      level: share of the draws within the interval.
      draws: number of draws.
      seed: of the draws.

    Returns:
      The intervals by "METRIC", or "TASK.METRIC" of several tasks; without a metric that exists in
      no draw.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> rows = {"mask": np.ones(100, bool), "label": np.arange(100) % 2}
      >>> rows["predicted"] = np.zeros(100, int)
      >>> main_intervals(SingleLabel(2), rows)["accuracy"]
      [0.4, 0.6]
    """
    bootstrap.check(level, draws)
    return _percentiles(_drawn(objective, statistics, draws, seed), level)


def main_differences(
    one: tuple[Objective, Rows],
    other: tuple[Objective, Rows],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Returns intervals of the main metrics of one network minus those of another.

    Both are measured on the same examples, and each draw takes the same of these for both: what the
    two find hard alike cancels.

    Args:
      one, other: objective and statistics of each, as in `main_intervals`.
      level, draws, seed: as in `main_intervals`.

    Returns:
      The intervals of the metrics that both have, by name.

    Raises:
      ValueError: if an argument is out of range, or the examples have other labels.

    Examples:
      >>> rows = {"mask": np.ones(100, bool), "label": np.arange(100) % 2}
      >>> right, half = ({**rows, "predicted": p} for p in (rows["label"], np.zeros(100, int)))
      >>> main_differences((SingleLabel(2), right), (SingleLabel(2), half))["accuracy"]
      [0.4, 0.6]
    """
    bootstrap.check(level, draws)
    _check_same(one[1], other[1])
    first, second = (_drawn(*each, draws, seed) for each in (one, other))
    both = {name: first[name] - second[name] for name in first if name in second}
    return _percentiles(both, level)


def _check_same(one: Rows, other: Rows) -> None:
    for name in one.keys() & other.keys():
        if name.rpartition(".")[2] != "label":
            continue
        if one[name].shape != other[name].shape or not np.allclose(
            one[name], other[name], equal_nan=True
        ):
            raise ValueError(
                f"got statistics of {len(one[name])} and {len(other[name])} examples with other "
                "labels; expected the same examples in the same order"
            )


def _drawn(objective: Objective, statistics: Rows, draws: int, seed: int) -> Values:
    """Returns the main metrics of each draw, [draws] by name."""
    if isinstance(objective, MultiTask):
        return {
            f"{task}.{name}": values
            for task, of_one in objective.tasks.items()
            for name, values in _drawn(
                of_one, objective.task_statistics(statistics, task), draws, seed
            ).items()
        }
    sums = _sums(objective, example_rows(statistics))
    if sums is None or not len(sums.columns):
        return {}
    parts = list(sums.of_draws(draws, seed))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _percentiles(values: Values, level: float) -> dict[str, list[float]]:
    """Returns the intervals of metrics; none of one that exists in no draw."""
    finite = {name: found[np.isfinite(found)] for name, found in values.items()}
    return {
        name: bootstrap.percentiles(found, level) for name, found in finite.items() if len(found)
    }


def _sums(objective: Any, rows: Mapping[str, np.ndarray]) -> _Sums | None:
    """Returns the sums of an objective's main metrics; None if it has none."""
    if isinstance(objective, SingleLabel):
        labels, predicted = _labelled(rows)
        return _of_classes(labels, predicted, objective.num_classes)
    if isinstance(objective, Ordinal):
        labels, predicted = _labelled(rows)
        return _of_levels(labels, predicted, objective.num_levels)
    if isinstance(objective, Regression):
        is_known = ~np.isnan(rows["label"])
        return _of_numbers(rows["label"][is_known], rows["predicted"][is_known])
    if isinstance(objective, MultiLabel) and "logits" in rows:
        return _of_sets(rows["label"], rows["logits"], objective.thresholds)
    return None


def _labelled(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels and predictions of the examples with a label."""
    is_known = rows["label"] >= 0
    return rows["label"][is_known].astype(np.int64), rows["predicted"][is_known].astype(np.int64)


def _of_classes(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> _Sums:
    hits = np.where(labels == predicted, labels, -1)

    def metrics(counts: np.ndarray, _: np.ndarray) -> Values:
        hit, actual, guessed = counts[:, 0], counts[:, 1], counts[:, 2]
        return {
            "accuracy": hit.sum(1) / actual.sum(1),
            "balanced_accuracy": _mean_where(hit, actual, actual > 0),
            "macro_f1": _mean_where(2 * hit, actual + guessed, actual > 0),
        }

    return _Sums((hits, labels, predicted), num_classes, np.zeros((len(labels), 0)), metrics)


def _of_levels(labels: np.ndarray, predicted: np.ndarray, levels: int) -> _Sums:
    distance = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels))).astype(np.float64)

    def metrics(cells: np.ndarray, _: np.ndarray) -> Values:
        counts = cells.reshape(-1, levels, levels)
        total = counts.sum((1, 2))
        by_chance = np.einsum("di,dj,ij->d", counts.sum(2), counts.sum(1), distance**2)
        found = np.einsum("dij,ij->d", counts, distance**2)
        return {
            "accuracy": np.einsum("dii->d", counts) / total,
            "mae": np.einsum("dij,ij->d", counts, distance) / total,
            "quadratic_kappa": 1 - _ratio(found * total, by_chance),
        }

    cells = labels * levels + predicted
    return _Sums((cells,), levels**2, np.zeros((len(labels), 0)), metrics)


def _of_numbers(labels: np.ndarray, predicted: np.ndarray) -> _Sums:
    labels = labels.astype(np.float64)
    errors = predicted.astype(np.float64) - labels
    centred = labels - labels.mean() if len(labels) else labels
    columns = np.stack([np.abs(errors), errors**2, centred, centred**2], 1)

    def metrics(_: np.ndarray, sums: np.ndarray) -> Values:
        absolute, square, first, second = (sums / len(labels)).T
        variance = second - first**2
        return {
            "mae": absolute,
            "rmse": np.sqrt(square),
            "r2": 1 - _ratio(square, np.where(variance > 1e-12 * second, variance, 0)),
        }

    return _Sums((), 0, columns, metrics)


def _of_sets(labels: np.ndarray, logits: np.ndarray, thresholds: Any) -> _Sums:
    is_known = (labels >= 0).any(1)
    labels, logits = labels[is_known], logits[is_known]
    actual, known = labels == 1, labels >= 0
    limits = np.asarray(thresholds, np.float32)
    predicted = (multi_label_metrics.sigmoid(logits) >= limits) & known
    is_exact = (actual == predicted).all(1, keepdims=True)
    parts = [actual & predicted, actual, predicted, is_exact]
    columns = np.concatenate(parts, axis=1).astype(np.float64)

    def metrics(_: np.ndarray, sums: np.ndarray) -> Values:
        hit, true, guessed = np.split(sums[:, :-1], 3, axis=1)
        return {
            "macro_f1": _mean_where(2 * hit, true + guessed, true > 0),
            "micro_f1": _mean_where(
                2 * hit.sum(1, keepdims=True),
                (true + guessed).sum(1, keepdims=True),
                true.sum(1, keepdims=True) > 0,
            ),
            "exact_match": sums[:, -1] / len(labels),
        }

    return _Sums((), 0, columns, metrics)


def _mean_where(numerator: np.ndarray, denominator: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns the mean of ratios over the classes that are there, [D]; NaN where none is."""
    ratios = np.where(there, _ratio(numerator, np.where(there, denominator, 1)), 0)
    return _ratio(ratios.sum(1), there.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the ratios; NaN where the denominator is 0."""
    return np.where(
        denominator == 0, np.nan, numerator / np.where(denominator == 0, 1, denominator)
    )

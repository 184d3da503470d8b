"""Bootstrap intervals: how much a metric would vary over other draws of the same examples."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_CELLS = 2**22  # Of the matrix of counts that is drawn at once: 32 MB.


def interval(
    metric: Callable[[dict[str, np.ndarray]], float | None],
    rows: Mapping[str, np.ndarray],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> list[float] | None:
    """Returns the percentile bootstrap interval of a metric, [low, high].

    The examples are drawn with replacement as often as there are, and the metric is taken of each
    such draw. Efron, "Bootstrap Methods" (1979). It says how far chance in the choice of the
    examples goes, not how far another training run would differ.

    Args:
      metric: takes rows as these and returns a number, or None where there is none; such draws are
        left out.
      rows: arrays of the same length N, such as `labelled_rows` of an objective's statistics.
      level: share of the draws within the interval.
      samples: number of draws.
      seed: of the draws.

    Returns:
      The interval; None if there are no examples or the metric exists for none of the draws.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> rows = {"label": np.arange(100) % 2, "predicted": np.zeros(100, int)}
      >>> interval(lambda rows: float((rows["label"] == rows["predicted"]).mean()), rows)
      [0.4, 0.6]
    """
    found = intervals(
        lambda drawn: {"metric": metric(drawn)}, rows, level=level, samples=samples, seed=seed
    )
    return found.get("metric")


def intervals(
    metrics: Callable[[dict[str, np.ndarray]], Mapping[str, Any]],
    rows: Mapping[str, np.ndarray],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Returns the interval of each metric of a dict, as `interval`, from the same draws.

    Args:
      metrics: takes rows as these and returns a dict, such as `Objective.metrics`, of which all
        entries that are numbers are used.
      rows, level, samples, seed: see `interval`.

    Returns:
      The intervals by name; a metric that is None in all draws has none.

    Raises:
      ValueError: if an argument is out of range.
    """
    count = _check(rows, level, samples)
    values: dict[str, list[float]] = {}
    draws = np.random.default_rng(seed)
    for _ in range(samples if count else 0):
        chosen = draws.integers(0, count, count)
        for name, value in metrics({key: row[chosen] for key, row in rows.items()}).items():
            if isinstance(value, int | float | np.number) and np.isfinite(value):
                values.setdefault(name, []).append(float(value))
    return {name: percentiles(np.array(found), level) for name, found in values.items()}


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> list[float] | None:
    """Returns the percentile bootstrap interval of a mean, [low, high], without a loop over draws.

    Args:
      values: [N], such as whether each prediction is right, for the accuracy.
      level, samples, seed: see `interval`.

    Returns:
      The interval; None without values.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> mean_interval(np.arange(100) % 2)
      [0.4, 0.6]
    """
    values = np.asarray(values, np.float64)
    count = _check({"values": values}, level, samples)
    if not count:
        return None
    return percentiles(_drawn_means(values, samples, np.random.default_rng(seed)), level)


def difference_interval(
    values: np.ndarray,
    others: np.ndarray,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> list[float] | None:
    """Returns the percentile bootstrap interval of a difference of two means, [low, high].

    Args:
      values: [N].
      others: [M], of other examples: both are drawn by themselves.
      level, samples, seed: see `interval`.

    Returns:
      The interval; None if one of the two is empty.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> low, high = difference_interval(np.ones(50), np.arange(50) % 2)
      >>> 0.3 < low < 0.5 < high < 0.7
      True
    """
    check(level, samples)
    if not len(values) or not len(others):
        return None
    draws = np.random.default_rng(seed)
    first, second = (
        _drawn_means(np.asarray(part, np.float64), samples, draws) for part in (values, others)
    )
    return percentiles(first - second, level)


def _drawn_means(values: np.ndarray, samples: int, draws: np.random.Generator) -> np.ndarray:
    """Returns the means of draws with replacement, [samples], some draws at a time."""
    count, means = len(values), np.empty(samples)
    step = max(1, _CELLS // count)
    for start in range(0, samples, step):
        chosen = draws.integers(0, count, (min(step, samples - start), count))
        means[start : start + step] = values[chosen].mean(-1)
    return means


def check(level: float, samples: int) -> None:
    """Raises a ValueError unless the level and the number of draws are in range."""
    if not 0 < level < 1:
        raise ValueError(f"got level={level}; expected a share in (0, 1), such as 0.95")
    if samples < 1:
        raise ValueError(f"got samples={samples}; expected 1 or more")


def percentiles(values: np.ndarray, level: float) -> list[float]:
    """Returns the bounds of the middle share of values, [low, high].

    >>> percentiles(np.arange(101), 0.5)
    [25.0, 75.0]
    """
    outside = (1 - level) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return [float(low), float(high)]


def _check(rows: Mapping[str, np.ndarray], level: float, samples: int) -> int:
    """Returns the number of examples."""
    check(level, samples)
    counts = {name: len(row) for name, row in rows.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"got rows of {counts or 'nothing'}; expected arrays of the same length")
    return next(iter(counts.values()))

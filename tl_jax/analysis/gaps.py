"""How much worse a run is on corrupted images: gaps and mean corruption errors, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.objectives import bootstrap

_DRAWS = 1000
_CELLS = 2**22  # Of the counts of examples that are drawn at once: 32 MB.

MEANING = {
    "multi_class": "share of wrong predictions",
    "multi_label": "share of wrong decisions on a class (Hamming loss)",
    "ordinal": "share of wrong levels",
    "regression": "mean absolute error",
}
"""What the error of a prediction is (`TaskRows.errors`), by kind of task."""

ByCorruption = Mapping[str, Sequence[np.ndarray]]


def measure(
    clean: np.ndarray, corrupted: ByCorruption, severities: Sequence[int]
) -> dict[str, Any]:
    """Returns errors on clean and corrupted images and their gaps, with 95% intervals.

    All draws of the bootstrap take the same examples of both, so a gap has an interval of its own.

    Args:
      clean: the error of each example, [N]; NaN without a label.
      corrupted: the errors of the same examples at each severity, by name of the corruption.
      severities: what these are.

    Returns:
      `clean`: `error`, `interval`; `corruptions`: for each by name a list of `severity`, `error`,
      `interval`, `gap` (minus that of clean images), `gap_interval`; and the means over all
      corruptions and severities, `mean_error`, `mean_gap`, with their intervals.
    """
    columns, draws = _drawn(clean, corrupted)
    means = columns.mean(0)
    found: dict[str, Any] = {
        "clean": {"error": float(means[0]), "interval": bootstrap.percentiles(draws[:, 0], 0.95)},
        "corruptions": {},
    }
    place = 1
    for name in corrupted:
        found["corruptions"][name] = []
        for severity in severities:
            found["corruptions"][name].append(
                {
                    "severity": severity,
                    "error": float(means[place]),
                    "interval": bootstrap.percentiles(draws[:, place], 0.95),
                    "gap": float(means[place] - means[0]),
                    "gap_interval": bootstrap.percentiles(draws[:, place] - draws[:, 0], 0.95),
                }
            )
            place += 1
    of_draws = draws[:, 1:].mean(1)
    return found | {
        "mean_error": float(means[1:].mean()),
        "mean_error_interval": bootstrap.percentiles(of_draws, 0.95),
        "mean_gap": float(means[1:].mean() - means[0]),
        "mean_gap_interval": bootstrap.percentiles(of_draws - draws[:, 0], 0.95),
    }


def relative(
    clean: np.ndarray, corrupted: ByCorruption, other_clean: np.ndarray, other: ByCorruption
) -> dict[str, Any]:
    """Returns the mean corruption error relative to a baseline, and the relative one of the gaps.

    Of each corruption the error summed over the severities is divided by that of the baseline; the
    mean over the corruptions is mCE. The relative mCE divides the gaps instead. 1 is as good as the
    baseline, less is better. A corruption at which the baseline has none is left out.

    Args:
      clean, corrupted: as in `measure`.
      other_clean, other: the same of the baseline, of the same examples.

    Returns:
      `mce` and `relative_mce`, each with its 95% interval (paired bootstrap), and `by_corruption`;
      None where nothing can be divided.
    """
    columns, draws = _drawn(clean, corrupted)
    other_columns, other_draws = _drawn(other_clean, other)
    count = len(corrupted)
    sums = [_sums(each, count) for each in (columns.mean(0)[None], other_columns.mean(0)[None])]
    of_draws = [_sums(each, count) for each in (draws, other_draws)]
    found: dict[str, Any] = {}
    for place, name in enumerate(("mce", "relative_mce")):
        value = _mean_ratio(sums[0][place], sums[1][place])
        drawn = _mean_ratio(of_draws[0][place], of_draws[1][place])
        drawn = drawn[np.isfinite(drawn)]
        found[name] = float(value[0]) if np.isfinite(value[0]) else None
        found[f"{name}_interval"] = bootstrap.percentiles(drawn, 0.95) if len(drawn) else None
    errors = _ratio(sums[0][0][0], sums[1][0][0])
    found["by_corruption"] = {
        name: float(value) if np.isfinite(value) else None
        for name, value in zip(corrupted, errors, strict=True)
    }
    return found


def _drawn(clean: np.ndarray, corrupted: ByCorruption) -> tuple[np.ndarray, np.ndarray]:
    """Returns the errors of examples with a label [N, K], and their means in each draw [D, K]."""
    columns = np.stack([clean, *(each for of_one in corrupted.values() for each in of_one)], 1)
    columns = columns[~np.isnan(clean)].astype(np.float64)
    count, rng = len(columns), np.random.default_rng(0)
    if not count:
        raise ValueError("no example has a label, so no error can be measured")
    step, parts = max(1, _CELLS // count), []
    for start in range(0, _DRAWS, step):
        drawn = min(step, _DRAWS - start)
        times = rng.multinomial(count, np.full(count, 1 / count), drawn)
        parts.append(times @ columns / count)
    return columns, np.concatenate(parts)


def _sums(means: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns errors and gaps summed over the severities, each [D, corruptions]."""
    errors = means[:, 1:].reshape(len(means), count, -1)
    return errors.sum(2), (errors - means[:, :1, None]).sum(2)


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.where(theirs > 0, ours / np.where(theirs > 0, theirs, 1), np.nan)


def _mean_ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns the mean over the corruptions of ratios [D, corruptions] that exist; NaN if none."""
    ratios = _ratio(ours, theirs)
    known = np.isfinite(ratios)
    total = np.where(known, ratios, 0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)

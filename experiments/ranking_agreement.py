"""How far the order by a score agrees with the order by accuracy: correlations and their intervals.

All functions take values of candidates in the last axis; NaN marks a candidate without the score.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.objectives import bootstrap

DRAWS = 2000
_FEWEST = 3  # Candidates; an order of two agrees or does not.


def correlations(values: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns Spearman's rho and Kendall's tau-b of the last axis; NaN where either is constant.

    Both are made of the signs of all differences, so that thousands of draws take one product;
    `scipy.stats` has a loop over them.

    Args:
      values, others: [..., N], finite.

    Examples:
      >>> rho, tau = correlations(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]))
      >>> float(rho.round(3)), float(tau.round(3))
      (0.8, 0.667)
    """
    signs = [np.sign(x[..., :, None] - x[..., None, :]) for x in (values, others)]
    ranks = [each.sum(-1) for each in signs]  # Twice the ranks, ties at their mean; the mean is 0.
    return _cosine(*ranks, axes=(-1,)), _cosine(*signs, axes=(-2, -1))


def _cosine(x: np.ndarray, y: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
    norms = np.sqrt((x * x).sum(axes) * (y * y).sum(axes))
    return np.where(norms > 0, (x * y).sum(axes) / np.where(norms > 0, norms, 1), np.nan)


def regret(values: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Returns the best accuracy minus that of the candidate with the largest value.

    Of several with the largest value the mean of their accuracies counts.

    Args:
      values: [..., N]; a candidate that is NaN is never chosen, but may be the best.
      accuracies: [..., N].

    Examples:
      >>> float(regret(np.array([3.0, 3.0, np.nan]), np.array([0.5, 0.7, 0.9])).round(2))
      0.3
    """
    first = values == np.nanmax(values, -1, keepdims=True)
    chosen = np.where(first, accuracies, 0).sum(-1) / first.sum(-1)
    return np.asarray(accuracies.max(-1) - chosen)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The candidates on one set.

    Attributes:
      correct: whether each candidate is right on each test example, bool [N, M].
      scores: of each score by its name, [N], NaN where it is undefined.
    """

    correct: np.ndarray
    scores: Mapping[str, np.ndarray]

    @property
    def accuracies(self) -> np.ndarray:
        """Accuracy of each candidate on the test examples, [N]."""
        return self.correct.mean(1)

    def part(self, chosen: np.ndarray) -> "Measured":
        """Returns some of the candidates; `chosen` is bool [N]."""
        return Measured(self.correct[chosen], {k: v[chosen] for k, v in self.scores.items()})


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the bootstrap draws: test examples of each set, and candidates.

    Attributes:
      accuracies: of each set, with its test examples drawn anew, [D, N].
      candidates: indices of candidates, the same for all sets, [D, N].
    """

    accuracies: Sequence[np.ndarray]
    candidates: np.ndarray


def draw(sets: Sequence[Measured], *, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draws test examples (of each set by themselves) and candidates, with replacement."""
    rng = np.random.default_rng(seed)
    accuracies = []
    for each in sets:
        count = each.correct.shape[1]
        times = rng.multinomial(count, np.full(count, 1 / count), draws)
        accuracies.append(times @ each.correct.T / count)
    count = len(sets[0].correct)
    return Draws(accuracies, rng.integers(0, count, (draws, count)))


def agreement(sets: Sequence[Measured], score: str, drawn: Draws) -> dict[str, Any]:
    """Returns the agreement of a score with the accuracy, on each set and in the mean of the sets.

    Args:
      sets: of the same candidates.
      score: its name.
      drawn: of `draw` for these sets.

    Returns:
      "sets": for each set "count" (candidates with the score), "spearman", "kendall" and "regret";
      and "mean", the same of the means over the sets that have them. Each number stands with
      "..._by_examples", its 95% interval if test examples are drawn anew, and the correlations
      also with "..._interval", if candidates are drawn too. Sets where fewer than three
      candidates have the score, or all have the same or the same accuracy, have None.
    """
    found = [
        _of_set(each, score, accuracies, drawn.candidates)
        for each, accuracies in zip(sets, drawn.accuracies, strict=True)
    ]
    known = [each for each in found if each is not None]
    return {
        "sets": [each and {"count": each["count"], **_summary([each])} for each in found],
        "mean": {"sets": len(known), **_summary(known)} if known else None,
    }


def _of_set(
    measured: Measured, score: str, accuracies: np.ndarray, candidates: np.ndarray
) -> dict[str, Any] | None:
    """Returns the point, the draws of examples, and the draws of both, of each number."""
    values, has = measured.scores[score], np.isfinite(measured.scores[score])
    if has.sum() < _FEWEST or min(np.ptp(values[has]), np.ptp(measured.accuracies[has])) == 0:
        return None
    found: dict[str, Any] = {"count": int(has.sum())}
    point = correlations(values[has], measured.accuracies[has])
    by_examples = correlations(
        np.broadcast_to(values, accuracies.shape)[:, has], accuracies[:, has]
    )
    both = _drawn_candidates(values, accuracies, candidates)
    for name, *parts in zip(("spearman", "kendall"), point, by_examples, both, strict=True):
        found[name] = parts
    alike = np.broadcast_to(values, accuracies.shape)
    found["regret"] = [regret(values, measured.accuracies), regret(alike, accuracies), None]
    return found


def _drawn_candidates(
    values: np.ndarray, accuracies: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both correlations of each draw of candidates, [D]; NaN where too few differ."""
    found = np.full((2, len(candidates)), np.nan)
    rows = np.arange(len(candidates))[:, None]
    drawn, others = values[candidates], accuracies[rows, candidates]
    # Draws differ in how many candidates lack the score, so each number of them is done by itself.
    counts = np.isfinite(drawn).sum(1)
    for count in np.unique(counts[counts >= _FEWEST]):
        chosen = counts == count
        kept = np.isfinite(drawn[chosen])
        x, y = (each[chosen][kept].reshape(-1, count) for each in (drawn, others))
        found[:, chosen] = correlations(x, y)
    return found[0], found[1]


def _summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns means over sets of each number, with their intervals."""
    summary: dict[str, Any] = {}
    for name in ("spearman", "kendall", "regret"):
        point, by_examples, both = zip(*(each[name] for each in parts), strict=True)
        summary[name] = float(np.mean(point))
        summary[f"{name}_by_examples"] = _percentiles(np.mean(by_examples, 0))
        if both[0] is not None:
            summary[f"{name}_interval"] = _percentiles(np.mean(both, 0))
    return summary


def _percentiles(values: np.ndarray) -> list[float] | None:
    known = values[np.isfinite(values)]
    return bootstrap.percentiles(known, 0.95) if len(known) else None

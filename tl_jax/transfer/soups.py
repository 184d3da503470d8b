"""Averages of the weights of several networks: WiSE-FT interpolation, uniform and greedy soups."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tl_jax import arguments, trees

Variables = Mapping[str, Any]
ScoreFn = Callable[[Variables], float]


def interpolate(start: Variables, tuned: Variables, alpha: float) -> dict[str, Any]:
    """Returns variables on the straight line between two networks: WiSE-FT (arXiv:2109.01903).

    Each leaf is `(1 - alpha) * start + alpha * tuned`, running statistics included. Averaged
    statistics are only an approximation of those of the averaged network; estimating them again on
    training images is safer where the two networks are far apart.

    Args:
      start: variables before fine-tuning, with a classifier for the same classes.
      tuned: variables after fine-tuning.
      alpha: 0 gives `start` and 1 gives `tuned`, bit for bit.

    Raises:
      ValueError: if `alpha` is outside [0, 1], or the two differ in names, shapes or dtypes.

    Examples:
      >>> start, tuned = {"params": {"w": jnp.zeros(2)}}, {"params": {"w": jnp.ones(2)}}
      >>> interpolate(start, tuned, 0.25)["params"]["w"].tolist()
      [0.25, 0.25]
    """
    arguments.number("alpha", alpha, "a number in [0, 1]")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    _check_same_structure([start, tuned])
    if alpha in (0, 1):  # The weighted sum would turn -0 into 0, and an infinity into NaN.
        return jax.tree.map(jnp.asarray, dict(tuned if alpha else start))
    return _weighted_mean([start, tuned], [1 - alpha, alpha])


def wise_ft_curve(
    start: Variables, tuned: Variables, alphas: Sequence[float], score: ScoreFn
) -> list[tuple[float, float]]:
    """Scores the interpolated variables at several values of alpha.

    Args:
      start: variables before fine-tuning; see `interpolate`.
      tuned: variables after fine-tuning.
      alphas: values from 0 (`start`) to 1 (`tuned`).
      score: returns the score of variables on held-out data.

    Returns:
      Pairs (alpha, score), in the order of `alphas`.

    Examples:
      >>> start, tuned = {"params": {"w": jnp.zeros(1)}}, {"params": {"w": jnp.ones(1)}}
      >>> wise_ft_curve(start, tuned, [0.0, 0.5, 1.0], lambda v: v["params"]["w"][0])
      [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    """
    if not isinstance(alphas, Iterable):
        raise TypeError(f"alphas is {alphas!r}; expected a list of numbers, such as [0, 0.5, 1]")
    arguments.function("score", score, "returns the score of variables")
    return [(float(a), float(score(interpolate(start, tuned, a)))) for a in alphas]


def uniform_soup(ingredients: Sequence[Variables]) -> dict[str, Any]:
    """Returns the mean of the variables of several runs, in float32 (arXiv:2203.05482).

    The runs must have started from the same pretrained weights. Running statistics are averaged
    too, with the caveat of `interpolate`.

    Raises:
      ValueError: if there are no ingredients, or they differ in names, shapes or dtypes.

    Examples:
      >>> runs = [{"params": {"w": jnp.full(2, value)}} for value in (1.0, 2.0, 6.0)]
      >>> uniform_soup(runs)["params"]["w"].tolist()
      [3.0, 3.0]
    """
    _check_list(ingredients)
    if not ingredients:
        raise ValueError("a soup needs at least one set of variables, but got none")
    _check_same_structure(ingredients)
    if len(ingredients) == 1:
        return jax.tree.map(jnp.asarray, dict(ingredients[0]))
    return _weighted_mean(ingredients, [1 / len(ingredients)] * len(ingredients))


class Soup(NamedTuple):
    """The result of `greedy_soup`.

    Attributes:
      variables: the mean of the ingredients that were kept.
      kept: their indices, in the order in which they were added.
      score: the score of the soup.
    """

    variables: dict[str, Any]
    kept: tuple[int, ...]
    score: float


def greedy_soup(ingredients: Sequence[Variables], score: ScoreFn) -> Soup:
    """Averages the runs that do not lower the score: the greedy soup of arXiv:2203.05482.

    Starting with the best run, each next best one joins the soup if the new mean scores at least
    as well. The soup therefore scores at least as well as the best run.

    Args:
      ingredients: variables of runs that started from the same pretrained weights.
      score: returns the score of variables, higher is better, on held-out data other than those
        on which the result is reported. It is called at most twice per ingredient.

    Raises:
      ValueError: if there are no ingredients, they differ in names, shapes or dtypes, or a score
        is NaN.

    Examples:
      >>> runs = [{"params": {"w": jnp.full(1, value)}} for value in (0.0, 2.0, 9.0)]
      >>> greedy_soup(runs, lambda v: -abs(float(v["params"]["w"][0]) - 1)).kept
      (0, 1)
    """
    arguments.function("score", score, "returns the score of variables")
    _check_list(ingredients)
    uniform_soup(ingredients[:1])  # Raises before the scores cost any time.
    _check_same_structure(ingredients)
    scores = [_checked_score(score(one), index) for index, one in enumerate(ingredients)]
    best, *others = sorted(range(len(scores)), key=lambda index: -scores[index])
    soup = Soup(uniform_soup([ingredients[best]]), (best,), scores[best])
    for index in others:
        kept = (*soup.kept, index)
        mean = uniform_soup([ingredients[i] for i in kept])
        mean_score = _checked_score(score(mean), index)
        if mean_score >= soup.score:
            soup = Soup(mean, kept, mean_score)
    return soup


def _check_list(ingredients: Sequence[Variables]) -> None:
    if not isinstance(ingredients, Sequence) or isinstance(ingredients, str):
        raise TypeError(
            "a soup takes a list of variables, one for each run, but got "
            f"{arguments.kind(ingredients)}; tl_jax.soup takes folders of runs"
        )


def _checked_score(score: float, index: int) -> float:
    arguments.number(f"the score with ingredient {index}", score)
    if score != score:
        raise ValueError(f"the score with ingredient {index} is NaN; leave out runs that diverged")
    return float(score)


def _weighted_mean(ingredients: Sequence[Variables], weights: Sequence[float]) -> dict[str, Any]:
    def mean(*leaves: Any) -> jax.Array:
        terms = [
            weight * jnp.asarray(leaf, jnp.float32)
            for weight, leaf in zip(weights, leaves, strict=True)
        ]
        return sum(terms, start=jnp.zeros((), jnp.float32)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *map(dict, ingredients))


def _check_same_structure(ingredients: Sequence[Variables]) -> None:
    """Raises a ValueError unless all have the same names, shapes and dtypes."""

    def leaf_types(variables: Variables) -> dict[str, str]:
        return {
            trees.dotted(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in trees.flatten(variables).items()
        }

    first = leaf_types(ingredients[0])
    for index, other in enumerate(map(leaf_types, ingredients[1:]), start=1):
        differing = [name for name in first | other if first.get(name) != other.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"variables 0 and {index} differ in {len(differing)} leaves, first {name!r}: "
                f"{first.get(name, 'absent')} and {other.get(name, 'absent')}; only networks of "
                "one architecture with the same classes can be averaged"
            )

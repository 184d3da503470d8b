"""Averages of weights: over a run's steps, between start and end, and over several runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tl_jax import trees

Variables = Mapping[str, Any]
Score = Callable[[Variables], float]


class EmaState(NamedTuple):
    """State of `ema`.

    Attributes:
      inner: state of the wrapped optimizer.
      steps: number of steps done, int32 scalar.
      average: the average, in the form of the parameters that are optimized.
    """

    inner: Any
    steps: jax.Array
    average: Any


def ema(
    tx: optax.GradientTransformation, decay: float, *, warmup: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its state keeps a moving average of the parameters.

    After each step `average = d * average + (1 - d) * params`, with the parameters that the step
    ends with. The average starts at the parameters themselves, so it needs no correction of a
    bias toward zero. Training itself is unchanged. The wrapper must be the outermost one: it sees
    the parameters that its own updates lead to.

    The state is that of the parameters that are optimized, as everything of the optimizer: frozen
    ones do not move and need no average. Running statistics of BatchNorm are not parameters; an
    averaged network takes the run's, or statistics that are estimated again.

    Args:
      tx: the optimizer.
      decay: weight d of the past, in [0, 1); 0.999 averages over about 1,000 steps.
      warmup: let d be at most (1 + n) / (10 + n) after n steps, so that the start is forgotten
        sooner (as TensorFlow's `ExponentialMovingAverage` does with `num_updates`).

    Raises:
      ValueError: if `decay` is outside of [0, 1).

    Example:
      >>> tx = ema(optax.sgd(0.1), 0.999)                                    # doctest: +SKIP
      >>> params = averaged(opt_state)                                       # doctest: +SKIP
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must lie in [0, 1), such as 0.999")
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> EmaState:
        # A copy: a step that uses its state up may not be given the same array twice.
        average = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
        return EmaState(inner.init(params), jnp.zeros((), jnp.int32), average)

    def update(
        updates: Any, state: EmaState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, EmaState]:
        if params is None:
            raise ValueError("ema averages parameters: call update(grads, state, params)")
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        steps = state.steps.astype(jnp.float32)
        now = jnp.minimum(decay, (1 + steps) / (10 + steps)) if warmup else decay
        average = jax.tree.map(
            lambda past, new: (now * past + (1 - now) * new).astype(past.dtype),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, EmaState(inner_state, state.steps + 1, average)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged(opt_state: Any) -> Any:
    """Returns the averaged parameters that `ema` keeps in an optimizer's state.

    They have the form of the trained parameters: `trees.merge(averaged(state.opt_state), frozen)`
    are all.

    Raises:
      ValueError: if the optimizer was not wrapped by `ema`, or more than once.
    """
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, EmaState))
    found = [part for part in parts if isinstance(part, EmaState)]
    if len(found) != 1:
        raise ValueError(
            f"the optimizer's state holds {len(found)} moving averages, not one; make it with "
            "ema(tx, decay)"
        )
    return found[0].average


def interpolate(start: Variables, tuned: Variables, alpha: float) -> dict[str, Any]:
    """Returns variables on the straight line between two: WiSE-FT (arXiv:2109.01903).

    Each leaf is `(1 - alpha) * start + alpha * tuned`, running statistics too. For the latter this
    is a guess, as good as the two networks are alike; re-estimating them is safer.

    Args:
      start: such as pretrained variables, with a classifier for the same classes.
      tuned: what training made of them.
      alpha: 0 gives `start` and 1 gives `tuned`, bit for bit.

    Raises:
      ValueError: if `alpha` is outside of [0, 1], or the two differ in names, shapes or types.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    _check_alike([start, tuned])
    if alpha in (0, 1):  # The sum would turn -0 into 0, and an infinity into NaN.
        return jax.tree.map(jnp.asarray, dict(tuned if alpha else start))
    return _mean([start, tuned], [1 - alpha, alpha])


def wise_ft_curve(
    start: Variables, tuned: Variables, alphas: Sequence[float], score: Score
) -> list[tuple[float, float]]:
    """Scores the variables at several places between two.

    Args:
      start: see `interpolate`.
      tuned: see `interpolate`.
      alphas: the places, from 0 (`start`) to 1 (`tuned`).
      score: measures variables, on held-out data.

    Returns:
      Pairs (alpha, score), in the order of `alphas`.
    """
    return [(float(a), float(score(interpolate(start, tuned, a)))) for a in alphas]


def uniform_soup(ingredients: Sequence[Variables]) -> dict[str, Any]:
    """Returns the mean of the variables of several runs, in float32 (arXiv:2203.05482).

    The runs must have begun with the same pretrained weights. Running statistics are averaged as
    in `interpolate`.

    Raises:
      ValueError: if there is none, or they differ in names, shapes or types.
    """
    if not ingredients:
        raise ValueError("a soup needs at least one set of variables, but got none")
    _check_alike(ingredients)
    if len(ingredients) == 1:
        return jax.tree.map(jnp.asarray, dict(ingredients[0]))
    return _mean(ingredients, [1 / len(ingredients)] * len(ingredients))


class Soup(NamedTuple):
    """What `greedy_soup` found.

    Attributes:
      variables: the mean of the ingredients that were kept.
      kept: their places in the list, in the order in which they were added.
      score: of the soup.
    """

    variables: dict[str, Any]
    kept: tuple[int, ...]
    score: float


def greedy_soup(ingredients: Sequence[Variables], score: Score) -> Soup:
    """Averages those runs that do no harm: the greedy soup of arXiv:2203.05482.

    From the best run down, each joins the soup if the mean then scores at least as well. The soup
    scores at least as well as the best run.

    Args:
      ingredients: variables of runs that began with the same pretrained weights.
      score: measures variables on held-out data that the result is not reported on; higher is
        better. It is called at most twice for each ingredient.

    Raises:
      ValueError: if there is none, they differ in names, shapes or types, or a score is not a
        number.
    """
    uniform_soup(ingredients[:1])  # Its errors before any time is spent.
    _check_alike(ingredients)
    scores = [_number(score(ingredient), place) for place, ingredient in enumerate(ingredients)]
    first, *rest = sorted(range(len(scores)), key=lambda place: -scores[place])
    soup = Soup(uniform_soup([ingredients[first]]), (first,), scores[first])
    for place in rest:
        kept = (*soup.kept, place)
        mixed = uniform_soup([ingredients[each] for each in kept])
        found = _number(score(mixed), place)
        if found >= soup.score:
            soup = Soup(mixed, kept, found)
    return soup


def _number(score: float, place: int) -> float:
    if score != score:
        raise ValueError(
            f"the score with ingredient {place} is not a number; leave out runs that diverged"
        )
    return float(score)


def _mean(ingredients: Sequence[Variables], weights: Sequence[float]) -> dict[str, Any]:
    def mean(*leaves: Any) -> jax.Array:
        total = sum(
            weight * jnp.asarray(leaf, jnp.float32)
            for weight, leaf in zip(weights, leaves, strict=True)
        )
        return total.astype(leaves[0].dtype)

    return jax.tree.map(mean, *map(dict, ingredients))


def _check_alike(ingredients: Sequence[Variables]) -> None:
    """Raises a ValueError unless all have the same names, shapes and types."""
    first = _forms(ingredients[0])
    for place, other in enumerate(ingredients[1:], start=1):
        forms = _forms(other)
        differing = [name for name in first | forms if first.get(name) != forms.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"variables 0 and {place} differ in {len(differing)} leaves, first {name!r}: "
                f"{first.get(name, 'absent')} and {forms.get(name, 'absent')}; only networks of "
                "one architecture with the same classes can be averaged"
            )


def _forms(variables: Variables) -> dict[str, str]:
    return {
        trees.dotted(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in trees.flatten(variables).items()
    }

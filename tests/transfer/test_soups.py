"""Interpolation between networks and soups, beside NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tiny import TinyNet, assert_equal_trees, randomised
from tl_jax import trees
from tl_jax.transfer import soups


def runs(count: int) -> list[dict]:
    return [randomised(TinyNet(), seed=seed) for seed in range(count)]


def numpy_mean(weights, ingredients) -> dict:
    """Returns the weighted sum of all leaves by dotted name, in float64."""
    flats = [trees.flatten(variables) for variables in ingredients]
    return {
        path: sum(w * np.asarray(f[path], np.float64) for w, f in zip(weights, flats, strict=True))
        for path in flats[0]
    }


def assert_close(found: dict, expected: dict) -> None:
    flat = trees.flatten(found)
    assert flat.keys() == expected.keys()
    for path, value in expected.items():
        assert flat[path].dtype == jnp.float32
        np.testing.assert_allclose(flat[path], value, rtol=1e-5, atol=1e-6)


def test_interpolation_is_numpys_for_parameters_and_statistics():
    start, tuned = runs(2)
    found = soups.interpolate(start, tuned, 0.3)
    assert set(found) == {"params", "batch_stats"}
    assert_close(found, numpy_mean([0.7, 0.3], [start, tuned]))


def test_the_ends_keep_their_bits():
    start, tuned = runs(2)
    start["params"]["fc"]["bias"] = jnp.asarray([-0.0, jnp.inf, 1e-45])
    tuned["params"]["fc"]["bias"] = jnp.asarray([-0.0, 1.0, jnp.nan])
    for alpha, expected in ((0.0, start), (1, tuned)):
        found = soups.interpolate(start, tuned, alpha)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_the_curve_scores_every_place():
    start, tuned = runs(2)

    def score(variables) -> float:
        return variables["params"]["fc"]["bias"][0]

    curve = soups.wise_ft_curve(start, tuned, [0.0, 0.25, 1.0], score)
    first, last = score(start), score(tuned)
    assert [alpha for alpha, _ in curve] == [0.0, 0.25, 1.0]
    np.testing.assert_allclose(
        [found for _, found in curve], [first, 0.75 * first + 0.25 * last, last], rtol=1e-5
    )
    assert all(type(value) is float for pair in curve for value in pair)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_places_beyond_the_ends_are_errors(alpha):
    with pytest.raises(ValueError, match=re.escape(f"alpha is {alpha}; it must lie in [0, 1]")):
        soups.interpolate(*runs(2), alpha)


# ---- soups


def test_the_uniform_soup_is_numpys_mean():
    ingredients = runs(3)
    assert_close(soups.uniform_soup(ingredients), numpy_mean([1 / 3] * 3, ingredients))
    assert_equal_trees(soups.uniform_soup(ingredients[:1]), ingredients[0])


class Judge:
    """Scores by how near the mean of all values is to a goal; counts what it was asked."""

    def __init__(self, goal: float):
        self.goal, self.calls = goal, 0

    def __call__(self, variables) -> float:
        self.calls += 1
        return -abs(float(variables["params"]["w"][0]) - self.goal)


def values(*numbers: float) -> list[dict]:
    return [{"params": {"w": jnp.asarray([number])}} for number in numbers]


def test_the_greedy_soup_keeps_what_does_no_harm():
    # Best alone: 2. With 7 the mean is 4.5, worse; with -1 it is 0.5, worse; with 5 it is 3.5,
    # nearer; then with 1, 8/3, nearer still, and so on, by hand.
    judge = Judge(goal=3.0)
    soup = soups.greedy_soup(values(7.0, 5.0, 2.0, 1.0, -1.0), judge)
    # Order by score: 2 (1 off), 5 (2), 1 (2), 7 (4), -1 (4). 2 & 5: 0.5 off, kept. & 1: 2.667,
    # 0.333 off, kept. & 7: 3.75, 0.75 off. & -1: 1.75, 1.25 off.
    assert soup.kept == (2, 1, 3)
    np.testing.assert_allclose(soup.variables["params"]["w"], [8 / 3], rtol=1e-6)
    np.testing.assert_allclose(soup.score, -1 / 3, rtol=1e-5)
    assert judge.calls == 9


def test_the_greedy_soup_takes_what_is_as_good():
    soup = soups.greedy_soup(values(1.0, 1.0), Judge(goal=0.0))
    assert soup.kept == (0, 1)


def test_the_greedy_soup_of_one_is_that_one():
    soup = soups.greedy_soup(values(1.0, 9.0), Judge(goal=1.0))
    assert (soup.kept, soup.score) == ((0,), 0.0)
    assert_equal_trees(soup.variables, values(1.0)[0])


def test_errors_of_soups():
    with pytest.raises(ValueError, match="at least one set of variables, but got none"):
        soups.uniform_soup([])
    with pytest.raises(ValueError, match="at least one set of variables, but got none"):
        soups.greedy_soup([], Judge(0.0))
    with pytest.raises(ValueError, match="the score with ingredient 1 is NaN"):
        soups.greedy_soup(values(1.0, float("nan")), Judge(0.0))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"params": {"w": jnp.zeros(2)}}, r"first 'params\.w': float32\[1\] and float32\[2\]"),
        ({"params": {"w": jnp.zeros(1, jnp.bfloat16)}}, r"float32\[1\] and bfloat16\[1\]"),
        ({"params": {"v": jnp.zeros(1)}}, r"differ in 2 leaves, first 'params\.\w': "),
    ],
)
def test_networks_that_differ_are_errors(other, message):
    (one,) = values(1.0)
    with pytest.raises(ValueError, match=message):
        soups.interpolate(one, other, 0.0)
    with pytest.raises(ValueError, match=f"variables 0 and 2 .*{message}"):
        soups.uniform_soup([one, one, other])
    with pytest.raises(ValueError, match=message):
        soups.greedy_soup([one, one, other], Judge(0.0))

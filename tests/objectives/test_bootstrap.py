"""Tests of bootstrap intervals: the known spread of a mean, seeds, metrics that do not exist."""

import numpy as np
import pytest

from tl_jax.objectives import bootstrap

VALUES = np.random.default_rng(0).normal(3, 2, 400)
HALF = 1.96 * VALUES.std() / 20


def mean(rows):
    return float(rows["value"].mean())


def test_the_interval_of_a_mean_is_nearly_that_of_the_normal_distribution():
    low, high = bootstrap.interval(mean, {"value": VALUES}, samples=2000)
    np.testing.assert_allclose([low, high], VALUES.mean() + np.array([-HALF, HALF]), atol=0.03)
    found = bootstrap.mean_interval(VALUES, samples=2000)
    np.testing.assert_allclose(found, [low, high], atol=0.03)


def test_a_mean_is_drawn_in_parts_that_change_nothing(monkeypatch):
    whole = bootstrap.mean_interval(VALUES, samples=50)
    monkeypatch.setattr(bootstrap, "_CELLS", 1000)
    assert bootstrap.mean_interval(VALUES, samples=50) == whole


def test_a_lower_level_is_narrower_and_a_seed_gives_the_same_draws():
    rows = {"value": VALUES}
    wide, narrow = (
        bootstrap.interval(mean, rows, level=level, samples=300) for level in (0.95, 0.5)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert bootstrap.interval(mean, rows, samples=300) == wide
    assert bootstrap.interval(mean, rows, samples=300, seed=1) != wide


def test_rows_are_drawn_together():
    rows = {"a": np.arange(30), "b": 2 * np.arange(30)}
    found = bootstrap.interval(lambda rows: float((rows["b"] - 2 * rows["a"]).sum()), rows)
    assert found == [0.0, 0.0]


def test_intervals_are_of_all_numbers_and_leave_out_what_does_not_exist():
    def metrics(rows):
        share = float(rows["hit"].mean())
        return {"share": share, "odds": share / (1 - share) if share < 1 else None,
                "never": None, "list": [1.0]}  # fmt: skip

    rows = {"hit": np.array([1, 1, 0])}
    found = bootstrap.intervals(metrics, rows, samples=200)
    assert set(found) == {"share", "odds"}
    assert found["share"][1] == 1.0 and np.isfinite(found["odds"]).all()
    assert bootstrap.interval(lambda rows: None, rows, samples=20) is None


def test_no_examples_have_no_interval():
    assert bootstrap.interval(mean, {"value": VALUES[:0]}) is None
    assert bootstrap.mean_interval(VALUES[:0]) is None


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, {}, "same length"),
        ({}, {}, "got rows of nothing"),
        ({"a": np.zeros(2)}, {"level": 95}, r"in \(0, 1\)"),
        ({"a": np.zeros(2)}, {"samples": 0}, "expected 1 or more"),
    ],
)
def test_an_argument_out_of_range_is_an_error(rows, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap.interval(mean, rows, **options)


def test_the_interval_of_a_difference_covers_it():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        first, second = rng.random(80) < 0.3, rng.random(120) < 0.2
        low, high = bootstrap.difference_interval(first, second, seed=trial)
        hits += low <= 0.1 <= high
    assert hits >= 52  # 95% of 60 are 57.

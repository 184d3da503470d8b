"""Tests of prediction sets: coverage over many draws, the papers' scores, and small splits."""

import numpy as np
import pytest

from tl_jax.objectives import prediction_sets


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities that are too sure of themselves, and labels."""
    labels = rng.integers(0, 6, count)
    logits = 3 * (rng.normal(size=(count, 6)) + np.eye(6)[labels])
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True), labels


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_sets_hold_the_label_as_often_as_stated(method, coverage):
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        sets = prediction_sets.fit(*draw(rng, 49), coverage=coverage, method=method)
        probabilities, labels = draw(rng, 200)
        found.append(prediction_sets.measure(sets(probabilities), labels)["coverage"])
    # The likeliest class is always in the set, so the coverage may be more, by no more than 1/50
    # where sets are seldom empty without it.
    standard_error = np.std(found) / np.sqrt(200)
    assert np.mean(found) > coverage - 3 * standard_error
    if coverage == 0.9:
        assert np.mean(found) < coverage + 0.02 + 3 * standard_error


def test_lac_keeps_the_classes_of_a_least_probability():
    probabilities, labels = draw(np.random.default_rng(1), 99)
    sets = prediction_sets.fit(probabilities, labels, coverage=0.9)
    scores = np.sort(1 - probabilities[np.arange(99), labels])
    assert sets.threshold == scores[89]  # The 90th of 100 scores, the last of which is not known.
    held = sets(probabilities)[np.arange(99), labels].mean()
    assert 0.9 <= held < 0.95


def test_aps_adds_classes_until_their_sum_is_reached():
    sets = prediction_sets.PredictionSets("aps", 0.9, 0.8)
    found = sets(np.array([[0.5, 0.2, 0.3], [0.1, 0.85, 0.05], [0.4, 0.4, 0.2]]))
    assert found.tolist() == [[True, False, True], [False, True, False], [True, True, False]]


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_too_few_examples_give_sets_of_all_classes(method):
    probabilities, labels = draw(np.random.default_rng(2), 8)
    sets = prediction_sets.fit(probabilities, labels, coverage=0.9, method=method)
    assert sets.threshold == np.inf and sets(probabilities).all()
    sets = prediction_sets.fit(*draw(np.random.default_rng(2), 9), coverage=0.9, method=method)
    assert sets.threshold < np.inf


def test_missing_labels_are_left_out():
    probabilities, labels = draw(np.random.default_rng(3), 60)
    partly = np.where(np.arange(60) < 20, -1, labels)
    found = prediction_sets.fit(probabilities, partly)
    assert found == prediction_sets.fit(probabilities[20:], labels[20:])
    sets = found(probabilities)
    expected = prediction_sets.measure(sets[20:], labels[20:])
    assert prediction_sets.measure(sets, partly) == expected
    assert sum(expected["sizes"]) == 40
    assert prediction_sets.measure(sets, np.full(60, -1))["coverage"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.0}, r"in \(0, 1\)"),
        ({"method": "raps"}, "did you mean 'aps'"),
    ],
)
def test_an_argument_out_of_range_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        prediction_sets.fit(*draw(np.random.default_rng(0), 9), **options)
    with pytest.raises(ValueError, match="expected"):
        prediction_sets.fit(np.zeros((3, 2)), np.zeros(2, int))

"""Tests of the scores of probabilities: scikit-learn's numbers, and the bins of a diagram."""

import json

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from tl_jax.objectives import reliability

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 5000)
LOGITS = (RNG.normal(0, 2, (5000, 4)) + 3 * np.eye(4)[LABELS]).astype(np.float32)
P = np.exp(LOGITS.astype(np.float64))
P /= P.sum(-1, keepdims=True)


def test_log_loss_and_brier_are_those_of_scikit_learn():
    found = reliability.class_scores(LOGITS, LABELS)
    expected = sklearn.metrics.log_loss(LABELS, P)
    assert found.log_loss.mean() == pytest.approx(expected, rel=1e-9)
    brier = sklearn.metrics.brier_score_loss(LABELS, P, scale_by_half=False)
    assert found.brier.mean() == pytest.approx(brier, rel=1e-9)
    np.testing.assert_allclose(found.confidence, P.max(-1))


def test_a_rank_below_k_is_among_scikit_learns_top_k():
    found = reliability.class_scores(LOGITS, LABELS)
    for k in (1, 2, 3):
        expected = sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=k)
        assert (found.rank < k).mean() == pytest.approx(expected)


def test_of_equal_logits_the_first_is_the_likeliest():
    found = reliability.class_scores(np.zeros((3, 3)), np.arange(3))
    assert found.rank.tolist() == [0, 1, 2]


def test_extreme_logits_have_finite_scores():
    found = reliability.class_scores(np.array([[1e4, -1e4], [1e4, -1e4]]), np.array([0, 1]))
    assert found.log_loss.tolist() == [0.0, 2e4]
    assert found.brier.tolist() == [0.0, 2.0]


def test_the_diagram_is_that_of_scikit_learn():
    confidence, is_right = P.max(-1), P.argmax(-1) == LABELS
    found = reliability.reliability(confidence, is_right)
    share, mean = sklearn.calibration.calibration_curve(is_right, confidence, n_bins=15)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], share)
    np.testing.assert_allclose(found.confidence[filled], mean)
    assert found.counts.sum() == 5000
    gaps = np.abs(found.accuracy - found.confidence)[filled]
    assert found.expected_error == pytest.approx(gaps @ found.counts[filled] / 5000)


def test_an_edge_belongs_to_the_bin_below_it():
    found = reliability.reliability(np.array([0.0, 0.5, 0.51, 1.0]), np.ones(4, bool), bins=2)
    assert found.counts.tolist() == [2, 2]


def test_confidence_that_is_always_right_has_no_error_and_without_examples_there_is_none():
    assert reliability.reliability(np.ones(3), np.ones(3, bool)).expected_error == 0
    empty = reliability.reliability(np.zeros(0), np.zeros(0, bool))
    assert empty.expected_error is None
    assert json.loads(json.dumps(empty.as_json()))["accuracy"] == [None] * 15

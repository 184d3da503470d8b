"""Tests of what is chosen on validation data: temperature and thresholds."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from tl_jax.objectives import calibration

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 800)
LOGITS = RNG.normal(0, 1, (800, 4)) + 1.5 * np.eye(4)[LABELS]


def nll(temperature: float) -> float:
    tensor = torch.tensor(LOGITS / temperature)
    return float(torch.nn.functional.cross_entropy(tensor, torch.tensor(LABELS)))


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_the_temperature_makes_torchs_log_loss_the_least(scale):
    found = calibration.temperature(scale * LOGITS, LABELS) / scale
    least = nll(found)
    assert all(nll(found * factor) > least for factor in (0.98, 1.02))


def test_the_temperature_follows_the_scale_of_the_logits_and_leaves_out_missing_labels():
    one = calibration.temperature(LOGITS, LABELS)
    padded = np.concatenate([LOGITS, np.full((3, 4), 1e4)])
    found = calibration.temperature(7 * padded, np.append(LABELS, [-1] * 3))
    assert found == pytest.approx(7 * one, rel=1e-6)


def test_the_temperature_ends_at_its_bounds():
    right, same = 5 * np.eye(3), np.zeros((3, 3))
    assert calibration.temperature(right, np.arange(3)) == pytest.approx(0.01)
    assert calibration.temperature(right, np.array([1, 2, 0])) == pytest.approx(100)
    assert 0.01 <= calibration.temperature(same, np.arange(3)) <= 100
    assert calibration.temperature(1e4 * right[:1], np.array([1])) == pytest.approx(100)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS, LABELS[:5], "expected \\[N, C\\] and \\[N\\]"),
        (LOGITS, np.full(800, -1), "got no label"),
        (np.full((2, 2), np.nan), np.zeros(2, int), "not finite"),
    ],
)
def test_no_temperature_of_nothing(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.temperature(logits, labels)


@pytest.mark.parametrize("decimals", [6, 0])
def test_thresholds_have_the_best_f1_of_all(decimals):
    rng = np.random.default_rng(decimals)
    labels = (rng.uniform(size=(120, 3)) < [0.5, 0.1, 0.9]).astype(int)
    logits = (rng.normal(size=(120, 3)) + labels).round(decimals)
    labels[:20, 0] = -1
    found = calibration.f1_thresholds(logits, labels)
    p = 1 / (1 + np.exp(-logits))
    for c in range(3):
        known = labels[:, c] >= 0
        y, scores = labels[known, c], p[known, c]
        best = max(sklearn.metrics.f1_score(y, scores >= t) for t in np.unique(scores))
        assert sklearn.metrics.f1_score(y, scores >= found[c]) == pytest.approx(best)


def test_a_threshold_of_a_class_without_positives_is_the_default():
    labels = np.array([[0, 1, -1], [0, 1, -1]])
    found = calibration.f1_thresholds(np.zeros((2, 3)), labels, default=0.4)
    assert found == (0.4, 0.25, 0.4)


def test_thresholds_need_a_label_for_each_class():
    with pytest.raises(ValueError, match=r"expected both \[N, C\]"):
        calibration.f1_thresholds(np.zeros((2, 3)), np.zeros(2))

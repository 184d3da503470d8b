"""Confident learning: its counts as the paper's formula has them, and the labels that it finds."""

import numpy as np
import pytest

from tl_jax.analysis import confident, cross_validation


def noisy(seed: int, *, classes: int = 5, count: int = 400, wrong: float = 0.06):
    """Returns given labels, out-of-sample probabilities, and the places of the wrong labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, count)
    given = true.copy()
    planted = rng.choice(count, round(wrong * count), replace=False)
    given[planted] = (true[planted] + rng.integers(1, classes, len(planted))) % classes
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), true] += 4
    p = np.exp(logits)
    return given, p / p.sum(1, keepdims=True), set(planted.tolist())


def joint_of_the_paper(labels, p):
    """Equation 1 of arXiv:1911.00068, example by example."""
    classes = p.shape[1]
    thresholds = [p[labels == j, j].mean() for j in range(classes)]
    counts = np.zeros((classes, classes), int)
    for label, row in zip(labels, p, strict=True):
        above = [j for j in range(classes) if row[j] >= thresholds[j] - 1e-6]
        if above:
            counts[label, max(above, key=lambda j: row[j])] += 1
    return counts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_joint_is_that_of_the_formula(seed):
    labels, p, _ = noisy(seed)
    assert (confident.confident_joint(labels, p) == joint_of_the_paper(labels, p)).all()


def test_a_likely_class_below_its_own_threshold_is_passed_over():
    """Where a class is always told with much confidence, only more than that counts."""
    labels, p, _ = noisy(4)
    p = p**0.3 * [3, 1, 1, 1, 1]
    p /= p.sum(1, keepdims=True)
    thresholds = np.array([p[labels == j, j].mean() for j in range(5)])
    passed_over = p[np.arange(len(p)), p.argmax(1)] < thresholds[p.argmax(1)] - 1e-6
    assert (passed_over & (p >= thresholds).any(1)).sum() > 5
    assert (confident.confident_joint(labels, p) == joint_of_the_paper(labels, p)).all()


def test_a_pair_is_pruned_by_the_margin_between_its_classes():
    rows = [
        *[[0.9, 0.05, 0.05]] * 5,
        *[[0.2, 0.6, 0.2]] * 2,
        [0.45, 0.46, 0.09],  # As likely to be right as wrong.
        [0.05, 0.40, 0.55],  # A smaller probability of class 1, and by far a larger margin.
        *[[0.2, 0.6, 0.2]] * 4,
        *[[0.05, 0.05, 0.9]] * 4,
    ]
    labels = np.repeat([0, 1, 2], [9, 4, 4])
    # Of nine labels 2 of the 7 that are counted lie at class 1: 2.57, and thus three.
    assert set(confident.find_issues(labels, np.array(rows)).indices) == {5, 6, 8}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_most_planted_labels_are_found_and_few_others(seed):
    labels, p, planted = noisy(seed)
    issues = confident.find_issues(labels, p)
    found = set(issues.indices.tolist())
    assert len(found & planted) >= 0.7 * len(planted)
    assert len(found & planted) >= 0.9 * len(found)
    assert issues.estimated == pytest.approx(len(planted), abs=8)
    assert (np.diff(issues.self_confidence[issues.indices]) >= 0).all()
    assert (issues.guessed[issues.indices] != labels[issues.indices]).all()


def test_the_joint_keeps_the_numbers_of_labels():
    labels, p, _ = noisy(3)
    counts = np.bincount(labels)
    joint = confident.calibrated_joint(confident.confident_joint(labels, p), counts)
    assert joint.sum(1) == pytest.approx(counts)


def test_a_class_that_nobody_has_is_no_issue():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    assert confident.find_issues(labels, p).indices.tolist() == []


@pytest.mark.parametrize(
    ("labels", "p", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"expected \[N\] and \[N, C\]"),
        ([-1], [[0.5, 0.5]], "leave out examples whose label is missing"),
        ([0], [[np.nan, 0.5]], "not finite"),
    ],
)
def test_what_is_no_label_or_probability_is_refused(labels, p, message):
    with pytest.raises(ValueError, match=message):
        confident.find_issues(np.array(labels), np.array(p))


def test_a_probe_tells_of_each_example_without_having_seen_it():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2], 20)
    features = rng.normal(size=(40, 3)) + 3 * (labels[:, None] == 2)
    labels[[4, 33]] = [2, 0]  # Out of sample, wrong labels are contradicted.
    found = cross_validation.probabilities(features, labels, num_classes=3, folds=4)
    assert found.sum(1) == pytest.approx(1)
    assert (found[:, 1] == 0).all()
    assert set(np.flatnonzero(found.argmax(1) != labels)) == {4, 33}
    assert set(confident.find_issues(labels, found).indices) == {4, 33}


def test_a_probe_cannot_learn_labels_by_heart():
    """More features than examples fit any labels, so only examples left out tell it is chance."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 80)), np.arange(60) % 2
    found = cross_validation.probabilities(features, labels, num_classes=2, l2=1e-3)
    assert (found.argmax(1) == labels).mean() < 0.75


def test_a_class_of_one_example_has_no_fold():
    with pytest.raises(ValueError, match="the smallest of 1 examples"):
        cross_validation.probabilities(np.eye(3), np.array([0, 0, 1]), num_classes=2)

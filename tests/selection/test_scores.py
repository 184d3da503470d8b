"""Scores of features: equal to their published formulas, also where features are degenerate."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from tl_jax.selection.scores import h_score, leep, logme, nleep


def published_logme(features, target):
    """You et al. 2021, algorithm 1: alpha and beta to their fixed point, then equation 2."""
    f, y = np.asarray(features, float), np.asarray(target, float)
    n, d = f.shape
    alpha = beta = 1.0
    gram = f.T @ f
    for _ in range(3000):
        a = alpha * np.eye(d) + beta * gram
        mean = beta * np.linalg.solve(a, f.T @ y)
        gamma = d - alpha * np.trace(np.linalg.inv(a))
        alpha, beta = gamma / (mean @ mean), (n - gamma) / ((f @ mean - y) ** 2).sum()
    a = alpha * np.eye(d) + beta * gram
    mean = beta * np.linalg.solve(a, f.T @ y)
    evidence = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
    evidence -= beta / 2 * ((f @ mean - y) ** 2).sum() + alpha / 2 * mean @ mean
    return (evidence - np.linalg.slogdet(a)[1] / 2) / n


def published_h_score(features, labels):
    """Ibrahim et al. 2021: tr(S_a^-1 (1 - a) B), with all covariances divided by N."""
    f = features - features.mean(0)
    shrunk, a = ledoit_wolf(f, assume_centered=True)
    g = np.stack([f[labels == label].mean(0) for label in labels])
    return np.trace(np.linalg.pinv(shrunk, hermitian=True) @ ((1 - a) * g.T @ g / len(f)))


def published_leep(probabilities, labels):
    """Nguyen et al. 2020, equations 1 and 2, one example after the other."""
    n, z = probabilities.shape
    joint = np.zeros((labels.max() + 1, z))
    for theta, label in zip(probabilities, labels, strict=True):
        joint[label] += theta / n
    conditional = joint / joint.sum(0)
    return np.mean(
        [
            np.log(sum(conditional[label, k] * theta[k] for k in range(z)))
            for theta, label in zip(probabilities, labels, strict=True)
        ]
    )


def clusters(n, d, classes, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    centres = spread * rng.normal(size=(classes, d))
    return (centres[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


def probabilities_of(n, z, seed=1):
    logits = 3 * np.random.default_rng(seed).normal(size=(n, z))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def degenerate():
    """Features and labels by the name of what is odd with them."""
    x, y = clusters(60, 12, 3)
    single = y.copy()
    single[single == 2] = 1
    single[7] = 2
    rng = np.random.default_rng(5)
    same_classes = rng.normal(size=(40, 4))
    return {
        "constant": (np.full((60, 5), 3.0), y),
        "zero": (np.zeros((60, 5)), y),
        "wide": clusters(30, 80, 3),
        "duplicated columns": (np.hstack([x, x[:, :6], x[:, :1]]), y),
        "one example of a class": (x, single),
        "identical classes": (np.vstack([same_classes] * 2), np.repeat([0, 1], 40)),
        "one constant column": (np.hstack([x, np.ones((60, 1))]), y),
        "tiny scale": (1e-6 * x, y),
        "large scale": (1e6 * x, y),
        "single feature": (x[:, :1], y),
    }


@pytest.mark.parametrize("shape", [(200, 10, 4), (60, 40, 3), (400, 5, 2), (50, 50, 5)])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_logme_equals_the_published_iteration(shape, spread):
    x, y = clusters(*shape, spread=spread)
    expected = np.mean([published_logme(x, y == label) for label in range(shape[2])])
    assert_allclose(logme(x, y), expected, rtol=1e-6)


def test_logme_of_numbers_and_of_several_targets():
    x, _ = clusters(80, 6, 2)
    rng = np.random.default_rng(2)
    y = np.stack([x @ rng.normal(size=6) + rng.normal(size=80), rng.normal(size=80) + 1], 1)
    each = [published_logme(x, column) for column in y.T]
    assert_allclose([logme(x, y[:, 0]), logme(x, y)], [each[0], np.mean(each)], rtol=1e-6)


@pytest.mark.parametrize("name", ["wide", "duplicated columns", "one example of a class"])
def test_logme_of_degenerate_features_is_the_largest_evidence_anywhere(name):
    x, y = degenerate()[name]
    x = np.asarray(x, float)
    largest = []
    for target in np.eye(y.max() + 1)[y].T:
        values = [
            -0.5 * (target @ np.linalg.solve(c, target) + np.linalg.slogdet(2 * np.pi * c)[1])
            for a in np.logspace(-4, 6, 41)
            for b in np.logspace(-1, 6, 57)
            for c in [x @ x.T / a + np.eye(len(x)) / b]
        ]
        largest.append(max(values) / len(x))
    assert np.mean(largest) - 1e-9 <= logme(x, y) <= np.mean(largest) + 0.03


def test_logme_of_features_that_explain_nothing_is_that_of_noise():
    x, y = degenerate()["zero"]
    variances = np.array([(y == label).mean() for label in range(3)])  # About 0, not the mean.
    assert_allclose(logme(x, y), np.mean(-(np.log(2 * np.pi * variances) + 1) / 2), rtol=1e-9)
    assert logme(np.full((60, 5), 3.0), y) > logme(x, y)  # A constant explains the mean.


def test_logme_is_infinite_where_labels_are_exactly_linear():
    y = np.array([0, 1, 2] * 10)
    assert logme(np.eye(3)[y], y) == math.inf
    assert logme(np.eye(30)[:, :30], y) < math.inf  # The features span all examples.


@pytest.mark.parametrize("shape", [(200, 10, 4), (60, 40, 3), (30, 80, 3)])
def test_h_score_equals_the_published_formula(shape):
    x, y = clusters(*shape)
    assert_allclose(h_score(x, y), published_h_score(x.astype(float), y), rtol=1e-8)


@pytest.mark.parametrize("name", [n for n in degenerate() if n not in ("constant", "zero")])
def test_h_score_of_degenerate_features_equals_the_published_formula(name):
    x, y = degenerate()[name]
    expected = published_h_score(np.asarray(x, float), y)
    assert_allclose(h_score(x, y), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", degenerate())
def test_no_score_is_nan(name):
    x, y = degenerate()[name]
    values = [logme(x, y), h_score(x, y), nleep(x, y)]
    assert np.isfinite(values).all()
    assert -1e-12 <= values[1] <= y.max()
    assert values[2] <= 0


def test_features_without_information():
    _, y = clusters(60, 12, 3)
    shares = np.bincount(y) / 60
    least = (shares * np.log(shares)).sum()
    constant = np.full((60, 5), 3.3, np.float32)
    assert h_score(constant, y) == pytest.approx(0, abs=1e-9)
    assert_allclose(nleep(constant, y), least)
    assert_allclose(leep(np.full((60, 7), 1 / 7), y), least)
    x, labels = degenerate()["identical classes"]
    assert h_score(x, labels) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "z"), [(50, 4), (20, 100)])
def test_leep_equals_the_published_formula(n, z):
    _, y = clusters(n, 3, 3)
    p = probabilities_of(n, z)
    assert_allclose(leep(p, y), published_leep(p, y), rtol=1e-10)


def test_leep_with_a_class_that_is_never_predicted():
    _, y = clusters(50, 3, 3)
    p = np.hstack([np.zeros((50, 2)), probabilities_of(50, 4)])
    assert_allclose(leep(p, y), published_leep(p[:, 2:], y), rtol=1e-10)


def test_nleep_equals_the_published_procedure():
    x, y = clusters(120, 10, 3)
    reduced = PCA(0.8, svd_solver="full").fit_transform(x.astype(float))
    reduced /= np.sqrt((reduced[:, 0] ** 2).mean())
    mixture = GaussianMixture(15, random_state=0).fit(reduced)
    expected = published_leep(mixture.predict_proba(reduced), y)
    assert_allclose(nleep(x, y), expected, rtol=1e-5)


def test_scores_prefer_features_that_suit_the_labels():
    good, y = clusters(150, 8, 3, spread=3)
    bad = np.random.default_rng(3).normal(size=good.shape)
    for score in (logme, h_score, nleep):
        assert score(good, y) > score(bad, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logme(np.zeros((3, 2)), [0, 1]), "3 rows of features for 2 labels"),
        (lambda: h_score([[0.0], [np.nan]], [0, 1]), "finite values"),
        (lambda: h_score(np.zeros((2, 2)), [1, 1]), "single class"),
        (lambda: leep([[0.5, 0.2], [0.5, 0.5]], [0, 1]), "no probabilities"),
        (lambda: nleep(np.zeros((2, 2)), [0.0, 1.0]), "class indices"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The solvers against scikit-learn and NumPy, on the same features."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tl_jax.probes import solvers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    """Features of 600 digits, positive and zero as a network's are, and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    mix = np.random.default_rng(0).normal(size=(64, 96)) / 64
    features = np.maximum(pixels[:600] @ mix, 0).astype(np.float32)
    return features, labels[:600].astype(np.int32)


def sklearn_fit(model, features, labels):
    with threadpool_limits(1):  # Threads that wait for each other take minutes on a busy machine.
        return model.fit(features.astype(np.float64), labels)


def centred(logits):
    """Logits up to what all classes share, which no probability depends on."""
    logits = np.asarray(logits, np.float64)
    return logits - logits.mean(-1, keepdims=True)


# ---- logistic regression


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_logistic_regression_is_scikit_learn_s(digits, c):
    x, y = digits
    l2 = solvers.l2_of_sklearn(c, examples=400, num_classes=10)
    head, info = solvers.logistic_regression(
        x[:400], y[:400], num_classes=10, l2=l2, tolerance=1e-6
    )
    peer = LogisticRegression(C=c, tol=1e-7, max_iter=2000)
    sklearn_fit(peer, x[:400], y[:400])
    assert info.converged
    np.testing.assert_allclose(centred(head.kernel), peer.coef_.T, atol=2e-3)
    np.testing.assert_allclose(
        centred(head(x[400:])), centred(peer.decision_function(x[400:])), atol=5e-3
    )
    ours = np.mean(np.argmax(head(x[400:]), 1) == y[400:])
    assert abs(ours - peer.score(x[400:], y[400:])) <= 0.005
    assert 0.5 < ours < 1


def test_two_classes_are_scikit_learn_s_one_logit(digits):
    x, y = digits[0][:400], (digits[1][:400] > 4).astype(np.int32)
    l2 = solvers.l2_of_sklearn(0.5, examples=400, num_classes=2)
    head, _ = solvers.logistic_regression(x, y, num_classes=2, l2=l2, tolerance=1e-6)
    peer = sklearn_fit(LogisticRegression(C=0.5, tol=1e-7, max_iter=2000), x, y)
    ours = np.asarray(head(x)) @ [-1.0, 1.0]
    np.testing.assert_allclose(ours, peer.decision_function(x), atol=2e-3)


def test_standardised_features_are_scikit_learn_s_pipeline(digits):
    x, y = digits[0][:400], digits[1][:400]
    x = x * np.linspace(0.1, 10, x.shape[1], dtype=np.float32) + 3
    l2 = solvers.l2_of_sklearn(0.1, examples=400, num_classes=10)
    head, info = solvers.logistic_regression(
        x, y, num_classes=10, l2=l2, standardize=True, tolerance=1e-6
    )
    model = LogisticRegression(C=0.1, tol=1e-7, max_iter=2000)
    peer = sklearn_fit(make_pipeline(StandardScaler(), model), x, y)
    assert info.converged
    np.testing.assert_allclose(centred(head(x)), centred(peer.decision_function(x)), atol=5e-3)


def test_a_constant_feature_has_no_influence(digits):
    heads = []
    for value in (0.0, 7.0):
        x, y = digits[0][:400].copy(), digits[1][:400]
        x[:, 0] = value
        head, _ = solvers.logistic_regression(x, y, num_classes=10, l2=0.1, standardize=True)
        np.testing.assert_allclose(head.kernel[0], 0, atol=1e-6)
        heads.append(head(x))
    np.testing.assert_allclose(*heads, atol=1e-3)


def test_convergence_is_reported(digits):
    x, y = digits[0][:400], digits[1][:400]
    _, short = solvers.logistic_regression(x, y, num_classes=10, l2=1e-3, max_iterations=3)
    _, long = solvers.logistic_regression(x, y, num_classes=10, l2=1e-3)
    assert (short.converged, short.iterations) == (False, 3)
    assert long.converged
    assert long.gradient_norm <= 1e-5 < short.gradient_norm
    assert long.objective < short.objective
    assert 3 < long.iterations < 1000


def test_values_that_are_not_finite_are_an_error(digits):
    x, y = digits[0][:400], digits[1][:400]
    broken = x.copy()
    broken[3, 4] = np.nan
    with pytest.raises(FloatingPointError, match="logistic regression"):
        solvers.logistic_regression(broken, y, num_classes=10, l2=1e-3)
    with pytest.raises(FloatingPointError, match="ridge"):
        solvers.ridge(broken, np.eye(10)[y], 1.0)
    with pytest.raises(FloatingPointError, match="class means"):
        solvers.class_means(broken, y, num_classes=10)


# ---- ridge


@pytest.mark.parametrize("count", [600, 40])  # More examples than features, and fewer.
@pytest.mark.parametrize("l2", [1e-4, 1.0])
def test_ridge_is_numpy_s_closed_form_and_scikit_learn_s(digits, count, l2):
    x, targets = digits[0][:count], np.eye(10, dtype=np.float32)[digits[1][:count]]
    head = solvers.ridge(x, targets, l2)
    wide = x.astype(np.float64)
    inputs, outputs = wide - wide.mean(0), targets - targets.mean(0)
    gram = inputs.T @ inputs + count * l2 * np.eye(x.shape[1])
    kernel = np.linalg.solve(gram, inputs.T @ outputs)
    bias = targets.mean(0) - wide.mean(0) @ kernel
    scale = np.abs(kernel).max()
    np.testing.assert_allclose(head.kernel, kernel, atol=1e-5 * scale)
    np.testing.assert_allclose(head.bias, bias, atol=1e-5)
    peer = sklearn_fit(Ridge(alpha=count * l2), x, targets)
    np.testing.assert_allclose(head.kernel, peer.coef_.T, atol=1e-5 * scale)


def test_a_singular_system_is_an_error(digits):
    x = np.repeat(digits[0][:, :1], 3, axis=1)
    with pytest.raises(FloatingPointError, match="singular at l2=0"):
        solvers.ridge(x, np.ones((600, 1)), 0)


# ---- k-NN


@pytest.mark.parametrize("at_once", [2**24, 1000, 1])
def test_knn_is_scikit_learn_s(digits, at_once):
    x, y = digits
    votes = solvers.knn(
        x[:400], y[:400], x[400:], k=7, num_classes=10, similarities_at_once=at_once
    )
    peer = sklearn_fit(KNeighborsClassifier(7, metric="cosine"), x[:400], y[:400])
    np.testing.assert_allclose(votes, peer.predict_proba(x[400:]), atol=1e-6)
    np.testing.assert_array_equal(np.argmax(votes, 1), peer.predict(x[400:]))


def test_votes_weigh_by_similarity_over_temperature(digits):
    x, y = digits

    def weights(distances):
        return np.exp((1 - distances) / 0.07)

    votes = solvers.knn(x[:400], y[:400], x[400:], k=7, num_classes=10, temperature=0.07)
    model = KNeighborsClassifier(7, metric="cosine", weights=weights)
    peer = sklearn_fit(model, x[:400], y[:400])
    np.testing.assert_allclose(votes, peer.predict_proba(x[400:]), atol=1e-4)
    # So small a temperature leaves the nearest alone, and no infinities.
    nearest = solvers.knn(x[:400], y[:400], x[400:], k=7, num_classes=10, temperature=1e-6)
    alone = solvers.knn(x[:400], y[:400], x[400:], k=1, num_classes=10)
    np.testing.assert_allclose(nearest, alone, atol=1e-3)


# ---- class means


def test_class_means_find_the_nearest_mean(digits):
    x, y = digits
    head = solvers.class_means(x[:400], y[:400], num_classes=10)
    peer = sklearn_fit(NearestCentroid(), x[:400], y[:400])
    np.testing.assert_array_equal(np.argmax(head(x[400:]), 1), peer.predict(x[400:]))


def test_class_means_by_angle_do_not_see_lengths(digits):
    x, y = digits
    lengths = np.random.default_rng(1).uniform(0.1, 10, (len(x), 1)).astype(np.float32)
    plain, scaled = (
        solvers.class_means(v, y, num_classes=10, metric="cosine") for v in (x, x * lengths)
    )
    np.testing.assert_allclose(plain.kernel, scaled.kernel, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(plain.kernel, axis=0), 1, atol=1e-6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[y == label].mean(0) for label in range(10)])
    cosines = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(np.argmax(plain(x), 1), np.argmax(cosines, 1))


# ---- refusals


def test_a_class_without_examples_is_an_error(digits):
    x, y = digits
    some = y != 3
    for solve in (
        lambda: solvers.logistic_regression(x[some], y[some], num_classes=11, l2=1e-3),
        lambda: solvers.class_means(x[some], y[some], num_classes=11),
    ):
        with pytest.raises(ValueError, match="2 of 11 classes have no example: '3', '10'"):
            solve()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: solvers.class_means(x, y[1:], num_classes=10), "expected .N, C. and .N."),
        (lambda x, y: solvers.class_means(x, y, num_classes=9), "labels from 0 to 9"),
        (lambda x, y: solvers.class_means(x, y + 0.0, num_classes=10), "float64"),
        (lambda x, y: solvers.class_means(x, y, num_classes=10, metric="l1"), "metric='l1'"),
        (lambda x, y: solvers.logistic_regression(x, y, num_classes=10, l2=-1), "l2=-1"),
        (lambda x, y: solvers.ridge(x, y, 1.0), "targets"),
        (lambda x, y: solvers.knn(x, y, x, k=601, num_classes=10), "1 to 600"),
        (lambda x, y: solvers.knn(x, y, x[:, 1:], k=3, num_classes=10), "M, D"),
        (lambda x, y: solvers.knn(x, y, x, k=3, num_classes=10, temperature=0.0), "temperature"),
    ],
)
def test_invalid_arguments_are_refused(digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(*digits)


def test_a_head_is_a_linear_map():
    head = solvers.LinearHead(jnp.arange(6.0).reshape(2, 3), jnp.ones(3))
    np.testing.assert_array_equal(head(jnp.asarray([[1.0, 2.0]])), [[7.0, 10.0, 13.0]])


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_a_yes_or_no_for_each_class_equals_one_regression_each(c):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    targets = (x[:, :3] + rng.normal(size=(60, 3)) > 0).astype(int)
    head, info = solvers.logistic_regression_each(x, targets, l2=1 / (c * len(x)))
    assert info.converged
    for column, kernel, bias in zip(targets.T, head.kernel.T, head.bias, strict=True):
        expected = sklearn_fit(LogisticRegression(C=c, tol=1e-8, max_iter=5000), x, column)
        np.testing.assert_allclose(kernel, expected.coef_[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(bias, expected.intercept_[0], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"expected \[N, D\] and \[N, C\] of 0 and 1"):
        solvers.logistic_regression_each(x, targets - 1, l2=1.0)

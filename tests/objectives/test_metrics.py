"""Tests of the metrics: by hand, against scikit-learn, and at the edges."""

import json

import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import metrics


def test_confusion_counts_true_by_predicted():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    labels, mask = np.array([0, 1, 2, 0]), np.ones(4, bool)
    found = metrics.confusion_matrix(logits, labels, mask)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0], [0, 1, 0]])


def test_confusion_leaves_masked_examples_out():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    found = metrics.confusion_matrix(logits, np.array([0, 1, 0]), np.array([True, False, False]))
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    predicted[:120] = labels[:120]
    found = metrics.summarize(sklearn.metrics.confusion_matrix(labels, predicted), 50.0)
    assert found["count"] == 200
    assert found["loss"] == 0.25
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    balanced = sklearn.metrics.balanced_accuracy_score(labels, predicted)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    f1 = sklearn.metrics.f1_score(labels, predicted, average="macro")
    assert found["macro_f1"] == pytest.approx(f1)
    for name, score in (
        ("recall", sklearn.metrics.recall_score),
        ("precision", sklearn.metrics.precision_score),
    ):
        np.testing.assert_allclose(found[name], score(labels, predicted, average=None))


def test_predictions_are_counted_as_scikit_learn_counts_them():
    rng = np.random.default_rng(1)
    labels, predicted = (rng.integers(0, 7, 300).astype(np.int32) for _ in range(2))
    found = metrics.count(labels, predicted, num_classes=7)
    np.testing.assert_array_equal(found, sklearn.metrics.confusion_matrix(labels, predicted))
    masked = np.where(np.arange(300) < 100, -1, labels)
    found = metrics.count(masked, predicted, num_classes=7)
    expected = sklearn.metrics.confusion_matrix(labels[100:], predicted[100:])
    np.testing.assert_array_equal(found, expected)


def test_of_many_classes_the_metrics_are_the_same_without_a_matrix(monkeypatch):
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(-1, 9, 400), rng.integers(0, 9, 400)
    predicted[:200] = np.maximum(labels[:200], 0)
    labels[labels == 4] = -1  # A class without examples.
    matrix = metrics.count(labels, predicted, num_classes=10)
    monkeypatch.setattr(metrics, "MAX_MATRIX_CLASSES", 9)
    by_class = metrics.count(labels, predicted, num_classes=10)
    assert isinstance(by_class, metrics.ClassCounts)
    assert by_class.sum() == matrix.sum() == (labels >= 0).sum()
    assert metrics.summarize(by_class, 3.0) == metrics.summarize(matrix, 3.0)


def test_ten_thousand_classes_need_no_matrix():
    labels = np.arange(10_450, dtype=np.int32)
    found = metrics.count(labels, np.roll(labels, 1), num_classes=10_450)
    assert found.shape == (10_450,) and found.sum() == 10_450
    assert metrics.summarize(found, 0.0)["accuracy"] == 0


def test_a_class_without_examples_counts_in_no_mean():
    confusion = np.array([[8, 2, 0], [0, 0, 0], [0, 0, 10]])
    found = metrics.summarize(confusion, 0.0)
    assert found["balanced_accuracy"] == pytest.approx((0.8 + 1.0) / 2)
    assert found["macro_f1"] == pytest.approx((16 / 18 + 1.0) / 2)
    assert found["recall"] == [0.8, 0.0, 1.0]
    assert found["precision"] == [1.0, 0.0, 1.0]


def test_no_examples_give_numbers_all_the_same():
    found = metrics.summarize(np.zeros((2, 2), np.int64), 0.0)
    assert found["count"] == 0
    assert found["accuracy"] == found["loss"] == found["balanced_accuracy"] == 0.0
    assert found["accuracy_interval"] == [0.0, 1.0]


def test_metrics_can_be_written_as_json():
    found = metrics.summarize(np.array([[3, 1], [0, 2]], np.int32), np.float32(1.5))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(hits, count, low, high):
    found = metrics.wilson_interval(hits, count)
    assert found == pytest.approx([low, high], abs=5e-5)
    assert found[0] <= hits / count <= found[1]


def test_wilsons_interval_is_symmetric():
    low, high = metrics.wilson_interval(3, 10)
    assert metrics.wilson_interval(7, 10) == pytest.approx([1 - high, 1 - low])


@pytest.mark.parametrize("quadratic", [False, True])
def test_cohens_kappa_is_that_of_scikit_learn(quadratic):
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    predicted[:90] = labels[:90]
    weights = "quadratic" if quadratic else None
    expected = sklearn.metrics.cohen_kappa_score(labels, predicted, weights=weights)
    found = metrics.cohen_kappa(
        sklearn.metrics.confusion_matrix(labels, predicted), quadratic=quadratic
    )
    assert found == pytest.approx(expected)


def test_there_is_no_kappa_where_chance_always_agrees():
    for confusion in ([[7, 0], [0, 0]], [[0, 0], [0, 0]]):
        assert metrics.cohen_kappa(np.array(confusion)) is None
    assert metrics.cohen_kappa(np.array([[0, 7], [0, 0]])) == 0.0

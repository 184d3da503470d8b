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

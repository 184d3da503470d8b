"""Tests of the objective of any number of classes: scikit-learn's metrics, unknown classes."""

import dataclasses

import jax
import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import metrics, multi_label_losses
from tl_jax.objectives.multi_label import MultiLabel

RNG = np.random.default_rng(0)
COUNT, CLASSES = 200, 5
LABELS = (RNG.uniform(size=(COUNT, CLASSES)) < [0.5, 0.2, 0.1, 0.4, 0.3]).astype(np.int8)
LOGITS = (RNG.normal(-1, 2, (COUNT, CLASSES)) + 2 * LABELS).astype(np.float32)
P = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
THRESHOLDS = (0.5, 0.3, 0.2, 0.6, 0.5)
BATCH = {"label": LABELS}


def measured(objective, logits=LOGITS, labels=LABELS):
    batch = {"label": labels}
    return objective.metrics(jax.device_get(jax.jit(objective.statistics)(logits, batch)))


def test_the_metrics_are_those_of_scikit_learn():
    found, predicted = measured(MultiLabel(CLASSES, thresholds=THRESHOLDS)), THRESHOLDS <= P
    expected = {
        "exact_match": sklearn.metrics.accuracy_score(LABELS, predicted),
        "hamming_loss": sklearn.metrics.hamming_loss(LABELS, predicted),
        "macro_auc": sklearn.metrics.roc_auc_score(LABELS, P, average="macro"),
        "micro_auc": sklearn.metrics.roc_auc_score(LABELS, P, average="micro"),
        "mean_average_precision": sklearn.metrics.average_precision_score(LABELS, P),
    }
    for name, score in (
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        np.testing.assert_allclose(found[name], score(LABELS, predicted, average=None))
        for average in ("macro", "micro"):
            expected[f"{average}_{name}"] = score(LABELS, predicted, average=average)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["thresholds"] == list(THRESHOLDS)
    assert found["positives"] == LABELS.sum(0).tolist()


def test_unknown_classes_count_in_no_metric():
    known = RNG.uniform(size=LABELS.shape) < 0.6
    known[:5] = False
    found = measured(MultiLabel(CLASSES), labels=np.where(known, LABELS, -1).astype(np.int8))
    predicted = P >= 0.5
    assert found["count"] == known.any(-1).sum() <= COUNT - 5
    for c in range(CLASSES):
        labels, scores = LABELS[known[:, c], c], P[known[:, c], c]
        assert found["auc"][c] == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
        assert found["f1"][c] == pytest.approx(sklearn.metrics.f1_score(labels, scores >= 0.5))
    assert found["micro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(LABELS[known], predicted[known])
    )
    assert found["micro_auc"] == pytest.approx(
        sklearn.metrics.roc_auc_score(LABELS[known], P[known])
    )
    wrong = (predicted != LABELS) & known
    assert found["hamming_loss"] == pytest.approx(wrong.sum() / known.sum())
    assert found["exact_match"] == pytest.approx((~wrong.any(-1))[known.any(-1)].mean())


def test_a_class_without_positives_is_left_out_of_the_means():
    labels = LABELS.copy()
    labels[:, 2] = 0
    found, kept = measured(MultiLabel(CLASSES), labels=labels), [0, 1, 3, 4]
    assert found["classes_without_positives"] == 1
    for name in ("precision", "recall", "f1", "auc", "average_precision"):
        assert found[name][2] is None
    expected = sklearn.metrics.f1_score(LABELS[:, kept], P[:, kept] >= 0.5, average="macro")
    assert found["macro_f1"] == pytest.approx(expected)


def test_a_class_that_is_never_predicted_has_a_precision_of_zero():
    found = measured(MultiLabel(CLASSES, thresholds=(0.5, 1.0, 0.5, 0.5, 0.5)))
    assert (found["precision"][1], found["recall"][1], found["f1"][1]) == (0.0, 0.0, 0.0)


def test_many_classes_keep_compact_rows_with_the_same_metrics(monkeypatch):
    objective = MultiLabel(CLASSES, thresholds=THRESHOLDS)
    expected = measured(objective)
    monkeypatch.setattr(metrics, "MAX_MATRIX_CLASSES", CLASSES - 1)
    found = measured(objective)
    assert "macro_auc" not in objective.metric_names
    assert found == {name: expected[name] for name in found}


def test_positive_weights_and_smoothing_are_of_training_alone():
    weighted = MultiLabel(CLASSES, positive_weights=(2.0,) * CLASSES, label_smoothing=0.1)
    expected = multi_label_losses.binary_cross_entropy(
        LOGITS, LABELS, positive_weights=(2.0,) * CLASSES, label_smoothing=0.1
    )
    np.testing.assert_allclose(weighted.loss(LOGITS, BATCH)[0], expected.mean(), rtol=1e-5)
    plain = float(MultiLabel(CLASSES).loss(LOGITS, BATCH)[0])
    assert measured(weighted)["loss"] == pytest.approx(plain, rel=1e-5)


def test_predictions_are_made_from_the_thresholds_on():
    found = MultiLabel(3, thresholds=(0.5, 0.6, 0.5)).predictions(np.zeros((1, 3), np.float32))
    assert found["predicted"].tolist() == [[True, False, True]]
    assert found["probabilities"].tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_name": "asymetric"}, "did you mean 'asymmetric'"),
        ({"thresholds": (0.5,)}, "got 1 numbers as thresholds; expected 5"),
        ({"positive_weights": (-1.0,) * 5}, "expected finite numbers, 0 or more"),
        ({"gamma_negative": -1.0}, "got gamma_negative=-1.0"),
        ({"margin": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_a_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MultiLabel(CLASSES), **fields)

"""Tests of the objective of one class: today's bits, scikit-learn's metrics, many classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import losses, metrics
from tl_jax.objectives.single_label import SingleLabel

RNG = np.random.default_rng(0)
COUNT, CLASSES = 240, 7
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
LOGITS = (RNG.normal(0, 2, (COUNT, CLASSES)) + 2 * np.eye(CLASSES)[LABELS]).astype(np.float32)
P = np.exp(LOGITS.astype(np.float64))
P /= P.sum(-1, keepdims=True)
BATCH = {"label": LABELS}


def measured(objective, logits=LOGITS, batch=BATCH):
    return objective.metrics(jax.device_get(jax.jit(objective.statistics)(logits, batch)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "mixed"])
def test_the_plainest_case_computes_the_cross_entropy_and_nothing_else(smoothing, mixed):
    objective = SingleLabel(CLASSES, label_smoothing=smoothing)
    labels = jnp.asarray(LABELS)
    if mixed:
        labels = 0.3 * jax.nn.one_hot(labels, CLASSES) + 0.7 * jax.nn.one_hot(labels[::-1], CLASSES)

    def today(logits, labels):
        return losses.cross_entropy(logits, labels, label_smoothing=smoothing)

    def found(logits, labels):
        return objective.loss(logits, {"label": labels})[0]

    # The same program, so the same bits.
    programs = [str(jax.make_jaxpr(jax.value_and_grad(f))(LOGITS, labels)) for f in (today, found)]
    assert programs[0] == programs[1]
    expected, result = (jax.jit(jax.value_and_grad(f))(LOGITS, labels) for f in (today, found))
    assert expected[0] == result[0]
    np.testing.assert_array_equal(expected[1], result[1])


def test_a_batch_without_missing_labels_has_the_same_loss_either_way():
    plain, partly = SingleLabel(CLASSES), SingleLabel(CLASSES, partly_labelled=True)
    np.testing.assert_allclose(
        plain.loss(LOGITS, BATCH)[0], partly.loss(LOGITS, BATCH)[0], rtol=1e-6
    )


def test_todays_metrics_are_those_of_the_confusion_matrix_and_the_summed_loss():
    objective = SingleLabel(CLASSES)
    statistics = jax.device_get(objective.statistics(LOGITS, BATCH))
    loss_sum = float(losses.example_cross_entropy(LOGITS, LABELS).sum())
    confusion = metrics.count(LABELS, LOGITS.argmax(-1), num_classes=CLASSES)
    expected = metrics.summarize(confusion, loss_sum)
    found = objective.metrics(statistics)
    assert {name: found[name] for name in expected} == expected
    np.testing.assert_array_equal(objective.confusion(statistics), confusion)


@pytest.mark.parametrize(("count", "classes"), [(8, 3), (32, 2)])
def test_the_summed_loss_has_the_bits_of_a_program_that_returns_no_rows(count, classes):
    def evaluated(summed):
        return jax.jit(lambda x, head, batch: summed(x @ head, batch))

    @evaluated
    def alone(logits, batch):
        values = losses.example_cross_entropy(logits, batch["label"])
        return jnp.where(batch["mask"], values, 0.0).sum()

    with_rows = evaluated(SingleLabel(classes).statistics)
    for _ in range(30):  # Another order of the sum shows in some draws only.
        batch = {"label": RNG.integers(0, classes, count), "mask": np.arange(count) < count - 3}
        drawn = RNG.normal(size=(count, 16)).astype(np.float32)
        head = RNG.normal(size=(16, classes)).astype(np.float32)
        found = with_rows(drawn, head, batch)
        assert found["loss_sum"].tolist() == [float(alone(drawn, head, batch))]
    np.testing.assert_allclose(found["loss"].sum(), found["loss_sum"][0], rtol=1e-6)


def test_the_new_metrics_are_those_of_scikit_learn():
    found, predicted = measured(SingleLabel(CLASSES)), LOGITS.argmax(-1)
    one_hot = np.eye(CLASSES)[LABELS]
    expected = {
        "micro_f1": sklearn.metrics.f1_score(LABELS, predicted, average="micro"),
        "macro_f1": sklearn.metrics.f1_score(LABELS, predicted, average="macro"),
        "log_loss": sklearn.metrics.log_loss(LABELS, P),
        "brier": sklearn.metrics.brier_score_loss(LABELS, P, scale_by_half=False),
        "top5_accuracy": sklearn.metrics.top_k_accuracy_score(LABELS, P, k=5),
        "kappa": sklearn.metrics.cohen_kappa_score(LABELS, predicted),
        "macro_auc": sklearn.metrics.roc_auc_score(LABELS, P, multi_class="ovr"),
        "mean_average_precision": sklearn.metrics.average_precision_score(one_hot, P),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    np.testing.assert_allclose(
        found["f1"], sklearn.metrics.f1_score(LABELS, predicted, average=None)
    )
    assert found["classes_without_positives"] == 0
    bins = found["reliability"]
    gaps = [
        count * abs(a - c)
        for count, a, c in zip(bins["counts"], bins["accuracy"], bins["confidence"], strict=True)
        if count
    ]
    assert found["calibration_error"] == pytest.approx(sum(gaps) / COUNT)


def test_a_class_without_examples_is_left_out_of_the_means_and_counted():
    batch = {"label": np.where(LABELS == 2, -1, LABELS)}
    found, kept = measured(SingleLabel(CLASSES), batch=batch), LABELS != 2
    assert found["count"] == kept.sum()
    assert found["classes_without_positives"] == 1
    assert found["auc"][2] is None
    areas = [
        sklearn.metrics.roc_auc_score(LABELS[kept] == c, P[kept, c])
        for c in range(CLASSES)
        if c != 2
    ]
    assert found["macro_auc"] == pytest.approx(np.mean(areas))


def test_examples_of_one_class_alone_have_no_area_and_no_kappa_of_chance():
    logits = np.eye(CLASSES, dtype=np.float32)[[3, 3, 3]]
    found = measured(SingleLabel(CLASSES), logits, {"label": np.array([3, 3, 3])})
    assert (found["accuracy"], found["balanced_accuracy"]) == (1.0, 1.0)
    assert found["macro_auc"] is None and found["kappa"] is None
    assert found["mean_average_precision"] == 1.0


def test_few_classes_have_no_top_five():
    assert "top5_accuracy" not in SingleLabel(5).metric_names
    assert "top5_accuracy" not in measured(SingleLabel(5), LOGITS[:, :5], {"label": LABELS % 5})


def test_many_classes_keep_compact_rows_with_the_same_metrics(monkeypatch):
    expected = measured(SingleLabel(CLASSES))
    monkeypatch.setattr(metrics, "MAX_MATRIX_CLASSES", CLASSES - 1)
    objective = SingleLabel(CLASSES)
    statistics = jax.device_get(objective.statistics(LOGITS, BATCH))
    assert all(row.ndim == 1 for row in statistics.values())
    found = objective.metrics(statistics)
    missing = {"kappa", "macro_auc", "mean_average_precision"}
    assert missing & set(objective.metric_names) == missing & set(found) == set()
    for name in objective.metric_names:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert found["reliability"]["counts"] == expected["reliability"]["counts"]


def test_the_temperature_changes_probabilities_and_neither_loss_nor_classes():
    plain, cooled = SingleLabel(CLASSES), SingleLabel(CLASSES, temperature=0.5)
    before, after = plain.predictions(LOGITS), cooled.predictions(LOGITS)
    np.testing.assert_array_equal(before["predicted"], after["predicted"])
    np.testing.assert_allclose(after["probabilities"], P**2 / (P**2).sum(-1, keepdims=True), 1e-4)
    assert measured(cooled)["loss"] == measured(plain)["loss"]
    expected = sklearn.metrics.log_loss(LABELS, P**2 / (P**2).sum(-1, keepdims=True))
    assert measured(cooled)["log_loss"] == pytest.approx(expected)


def test_the_logit_adjustment_is_of_training_alone():
    plain = SingleLabel(CLASSES)
    counts = tuple(range(1, CLASSES + 1))
    adjusted = SingleLabel(CLASSES, logit_adjustment=1.0, class_counts=counts)
    shifted = LOGITS + np.log(np.array(counts) / sum(counts)).astype(np.float32)
    np.testing.assert_allclose(
        adjusted.loss(LOGITS, BATCH)[0], plain.loss(shifted, BATCH)[0], rtol=1e-5
    )
    assert measured(adjusted) == measured(plain)


def test_a_loss_that_is_not_finite_is_none():
    logits = np.where(np.arange(COUNT)[:, None] == 3, np.nan, LOGITS)
    found = measured(SingleLabel(CLASSES), logits)
    assert found["loss"] is None and found["log_loss"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_name": "crossentropy"}, "did you mean 'cross_entropy'"),
        ({"class_weights": (1.0,)}, "got 1 numbers as class_weights; expected 7"),
        ({"class_weights": (np.nan,) * 7}, "expected finite numbers"),
        ({"logit_adjustment": 1.0}, "without class_counts"),
        ({"temperature": 0.0}, "above 0"),
        ({"focal_gamma": -1.0}, "expected 0 or more"),
    ],
)
def test_a_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SingleLabel(CLASSES), **fields)

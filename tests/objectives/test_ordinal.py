"""Tests of the objective of ordered levels: scikit-learn's metrics, predictions, and mixing."""

import jax
import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import ordinal_losses
from tl_jax.objectives.ordinal import Ordinal

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 4, 150).astype(np.int32)
LOGITS = (2 * (LEVELS[:, None] - np.arange(3) - 0.5) + RNG.normal(0, 2, (150, 3))).astype(
    np.float32
)
BATCH = {"label": LEVELS}


def measured(objective, logits=LOGITS, batch=BATCH):
    return objective.metrics(jax.device_get(jax.jit(objective.statistics)(logits, batch)))


@pytest.mark.parametrize("form", ["coral", "corn"])
def test_the_metrics_are_those_of_scikit_learn(form):
    found = measured(Ordinal(4, loss_name=form))
    predicted = np.asarray(ordinal_losses.predicted_levels(LOGITS, form))
    p = np.asarray(ordinal_losses.level_probabilities(LOGITS, form), np.float64)
    quadratic = sklearn.metrics.cohen_kappa_score(LEVELS, predicted, weights="quadratic")
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(LEVELS, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(LEVELS, predicted),
        "macro_f1": sklearn.metrics.f1_score(LEVELS, predicted, average="macro"),
        "mae": sklearn.metrics.mean_absolute_error(LEVELS, predicted),
        "quadratic_kappa": quadratic,
        "kappa": sklearn.metrics.cohen_kappa_score(LEVELS, predicted),
        "log_loss": -np.log(np.maximum(p[np.arange(150), LEVELS], np.finfo(np.float32).eps)).mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    matrix = sklearn.metrics.confusion_matrix(LEVELS, predicted)
    np.testing.assert_array_equal(found["confusion"], matrix)


def test_the_log_loss_of_corn_is_its_loss():
    found = measured(Ordinal(4, loss_name="corn"))
    assert found["loss"] == pytest.approx(found["log_loss"], rel=1e-5)


def test_importance_is_of_training_alone():
    weighted, importance = Ordinal(4, importance=(1.0, 0.0, 3.0)), (1.0, 0.0, 3.0)
    expected = ordinal_losses.coral(LOGITS, LEVELS, importance=importance).mean()
    np.testing.assert_allclose(weighted.loss(LOGITS, BATCH)[0], expected, rtol=1e-5)
    assert measured(weighted) == measured(Ordinal(4))


def test_levels_that_are_all_the_same_and_known_have_no_kappa():
    logits = np.full((3, 3), -9.0, np.float32)
    found = measured(Ordinal(4), logits, {"label": np.zeros(3, np.int32)})
    assert found["quadratic_kappa"] is None
    assert (found["accuracy"], found["mae"]) == (1.0, 0.0)


def test_predictions_are_probabilities_the_median_and_the_mean_level():
    found = Ordinal(3, loss_name="corn").predictions(np.zeros((1, 2), np.float32))
    assert found["probabilities"].tolist() == [[0.5, 0.25, 0.25]]
    assert found["predicted"].tolist() == [0]
    assert found["expected"].tolist() == [0.75]


def test_mixed_levels_are_an_error():
    assert Ordinal(4).mixes == frozenset()
    with pytest.raises(ValueError, match="a mixture of two levels is no level between them"):
        Ordinal(4).targets(BATCH)
    for labels in (np.eye(4, dtype=np.float32)[LEVELS], LEVELS.astype(np.float32)):
        with pytest.raises(ValueError, match="a mixture of two levels is no level between them"):
            Ordinal(4).loss(LOGITS, {"label": labels})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_levels": 1}, "expected 2 or more"),
        ({"num_levels": 4, "loss_name": "corl"}, "did you mean"),
        ({"num_levels": 4, "importance": (1.0,) * 4}, "got 4 numbers as importance; expected 3"),
    ],
)
def test_a_field_out_of_range_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ordinal(**arguments)

"""Tests of the objective of one number: scikit-learn's metrics, units, and mixing."""

import jax
import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import value_losses
from tl_jax.objectives.regression import Regression

RNG = np.random.default_rng(0)
VALUES = RNG.normal(50, 10, 80).astype(np.float32)
OUTPUTS = ((VALUES[:, None] - 50) / 10 + RNG.normal(0, 0.3, (80, 1))).astype(np.float32)
OBJECTIVE = Regression(mean=50.0, std=10.0)


def measured(objective, outputs=OUTPUTS, values=VALUES):
    batch = {"label": values}
    return objective.metrics(jax.device_get(jax.jit(objective.statistics)(outputs, batch)))


def test_the_metrics_are_those_of_scikit_learn_in_the_labels_unit():
    found, predicted = measured(OBJECTIVE), 50 + 10 * OUTPUTS[:, 0]
    expected = {
        "count": 80,
        "mae": sklearn.metrics.mean_absolute_error(VALUES, predicted),
        "rmse": sklearn.metrics.root_mean_squared_error(VALUES, predicted),
        "r2": sklearn.metrics.r2_score(VALUES, predicted),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(OBJECTIVE.predictions(OUTPUTS)["predicted"], predicted, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("mse", value_losses.squared),
        ("mae", value_losses.absolute),
        ("huber", lambda x, y: value_losses.huber(x, y, delta=0.2)),
    ],
)
def test_the_loss_is_of_standardised_labels(name, loss):
    objective = Regression(loss_name=name, mean=50.0, std=10.0, delta=0.2)
    expected = float(loss(OUTPUTS[:, 0], (VALUES - 50) / 10).mean())
    batch = {"label": VALUES}
    assert float(objective.loss(OUTPUTS, batch)[0]) == pytest.approx(expected, rel=1e-5)
    assert measured(objective)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [1, 5])
def test_labels_that_are_all_the_same_have_no_r2(count):
    found = measured(OBJECTIVE, OUTPUTS[:count], np.full(count, 0.1, np.float32))
    assert found["r2"] is None and found["mae"] > 0


def test_a_prediction_that_is_not_finite_has_no_metrics():
    found = measured(OBJECTIVE, np.where(np.arange(80)[:, None] == 1, np.inf, OUTPUTS))
    assert [found[name] for name in OBJECTIVE.metric_names] == [None] * 4


def test_numbers_are_mixed_by_mixup_alone_and_negative_ones_are_numbers():
    assert OBJECTIVE.mixes == {"mixup"}
    values = VALUES - 60
    targets = OBJECTIVE.targets({"label": values})["label"]
    mixed = 0.3 * targets + 0.7 * targets[::-1]
    expected = OBJECTIVE.loss(OUTPUTS, {"label": 0.3 * values + 0.7 * values[::-1]})[0]
    np.testing.assert_allclose(OBJECTIVE.loss(OUTPUTS, {"label": mixed})[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_name": "l2"}, "expected one of mse, mae, huber"),
        ({"std": 0.0}, "got std=0.0"),
        ({"delta": -1.0}, "got delta=-1.0"),
        ({"mean": np.nan}, "got mean=nan"),
    ],
)
def test_a_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Regression(**fields)

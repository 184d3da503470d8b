"""Tests of the list of metrics: directions, names by task, and what is said of a wrong name."""

import math

import pytest

from tl_jax.objectives import metric_names, metrics


def test_errors_are_lower_and_scores_higher():
    lower = {name for name, metric in metric_names.METRICS.items() if metric.lower_is_better}
    errors = "loss log_loss brier calibration_error mae rmse hamming_loss"
    assert lower == set(errors.split()) == metrics.LOWER_IS_BETTER


def test_a_metric_of_a_task_has_the_metrics_direction():
    assert metric_names.metric("cell type.mae").lower_is_better
    assert not metric_names.metric("a.accuracy", ["loss", "a.accuracy"]).lower_is_better


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("mae", "did you mean 'age.mae' or 'defect.mae'"),
        ("age.accuracy", "did you mean 'accuracy'"),
        ("zzz", "expected one of accuracy, age.mae, defect.mae"),
    ],
)
def test_a_wrong_name_is_an_error_that_names_the_nearest(name, hint):
    with pytest.raises(ValueError, match=hint):
        metric_names.metric(name, ["accuracy", "age.mae", "defect.mae"])


def test_a_value_is_found_by_task_and_none_is_nan():
    found = {"loss": 1.0, "recall": [1.0], "tasks": {"age": {"mae": 0.5, "r2": None}}}
    assert metric_names.value(found, "age.mae") == 0.5
    assert math.isnan(metric_names.value(found, "age.r2"))
    for name in ("mae", "recall"):  # Of no task; not one number.
        with pytest.raises(ValueError, match="expected one of"):
            metric_names.value(found, name)

"""Tests of the objective of several tasks: weights, learned variances, missing tasks, names."""

import jax
import numpy as np
import pytest

from tl_jax.objectives import metric_names
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel

RNG = np.random.default_rng(0)
TASKS = {
    "cell": SingleLabel(3),
    "age": Regression(label_key="age"),
    "grade": Ordinal(4, label_key="grade"),
}
OUTPUTS = {
    "cell": RNG.normal(size=(8, 3)).astype(np.float32),
    "age": RNG.normal(size=(8, 1)).astype(np.float32),
    "grade": RNG.normal(size=(8, 3)).astype(np.float32),
}
BATCH = {
    "label": RNG.integers(0, 3, 8).astype(np.int32),
    "age": RNG.normal(size=8).astype(np.float32),
    "grade": RNG.integers(0, 4, 8).astype(np.int32),
}
LOG_VARIANCES = np.float32([0.5, -1.0, 0.2])
SINGLE = {name: float(jax.jit(task.loss)(OUTPUTS[name], BATCH)[0]) for name, task in TASKS.items()}


def test_the_loss_is_the_weighted_sum_and_its_parts_are_the_tasks():
    objective = MultiTask(TASKS, {"age": 0.5, "grade": 0.0})
    loss, parts = jax.jit(objective.loss)(OUTPUTS, BATCH)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(SINGLE)
    assert float(loss) == pytest.approx(SINGLE["cell"] + 0.5 * SINGLE["age"])


def test_learned_weights_are_kendalls():
    objective = MultiTask(TASKS, {"grade": 2.0}, learned_weights=True)

    def loss(log_variances):
        return objective.loss(OUTPUTS | {"log_variances": log_variances}, BATCH)[0]

    found, gradient = jax.jit(jax.value_and_grad(loss))(LOG_VARIANCES)
    # Equation 10 of the paper for a squared error and cross-entropies, with s = log sigma^2.
    cell, age, grade = np.exp(-LOG_VARIANCES) * [SINGLE["cell"], SINGLE["age"] / 2, SINGLE["grade"]]
    log_sigmas = LOG_VARIANCES / 2
    expected = cell + log_sigmas[0] + age + log_sigmas[1] + 2 * (grade + log_sigmas[2])
    assert float(found) == pytest.approx(expected, rel=1e-5)
    slopes = np.array([1.0, 1.0, 2.0]) * (0.5 - np.array([cell, age, grade]))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5)


def test_a_task_without_labels_in_a_batch_adds_nothing_and_teaches_nothing():
    objective = MultiTask(TASKS, learned_weights=True)
    batch = BATCH | {"age": np.full(8, np.nan, np.float32)}
    outputs = OUTPUTS | {"log_variances": LOG_VARIANCES}
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: objective.loss(x, batch)[0]))(outputs)
    rest = MultiTask({"cell": TASKS["cell"], "grade": TASKS["grade"]}, learned_weights=True)
    expected, _ = jax.jit(rest.loss)(outputs | {"log_variances": LOG_VARIANCES[[0, 2]]}, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert (np.asarray(gradient["age"]) == 0).all()
    assert gradient["log_variances"][1] == 0
    assert (np.asarray(gradient["log_variances"])[[0, 2]] != 0).all()


def test_metrics_are_those_of_each_task_and_a_sum_of_losses():
    objective = MultiTask(TASKS, {"grade": 3.0}, learned_weights=True)
    batch = BATCH | {"age": np.where(np.arange(8) < 3, np.nan, BATCH["age"])}
    outputs = OUTPUTS | {"log_variances": LOG_VARIANCES}
    rows = jax.jit(objective.statistics)(outputs, batch)
    found = objective.metrics(jax.device_get(rows))
    assert found["count"] == 8
    for name, task in TASKS.items():
        alone = task.metrics(jax.device_get(jax.jit(task.statistics)(OUTPUTS[name], batch)))
        expected = {metric: alone[metric] for metric in ("count", *task.metric_names)}
        assert {metric: found["tasks"][name][metric] for metric in expected} == pytest.approx(
            expected
        )
    assert found["tasks"]["age"]["count"] == 5
    parts = {name: each["loss"] for name, each in found["tasks"].items()}
    assert found["loss"] == pytest.approx(parts["cell"] + parts["age"] + 3 * parts["grade"])


def test_names_of_metrics_and_of_a_batchs_metrics_begin_with_the_task():
    objective = MultiTask(TASKS)
    assert objective.metric_names[0] == "loss"
    assert {"cell.accuracy", "age.mae", "grade.quadratic_kappa"} < set(objective.metric_names)
    found = objective.batch_metrics(OUTPUTS, BATCH)
    assert set(found) == {"cell.accuracy", "age.mae", "grade.accuracy"}


def test_what_mixes_is_what_all_tasks_allow():
    assert MultiTask({"cell": TASKS["cell"]}).mixes == {"mixup", "cutmix"}
    assert MultiTask({"cell": TASKS["cell"], "age": TASKS["age"]}).mixes == {"mixup"}
    assert MultiTask(TASKS).mixes == frozenset()


def test_a_task_whose_name_begins_with_anothers_keeps_its_rows():
    tasks = {"a": SingleLabel(3), "a.b": Ordinal(4, label_key="grade"), "": TASKS["age"]}
    outputs = {"a": OUTPUTS["cell"], "a.b": OUTPUTS["grade"], "": OUTPUTS["age"]}
    objective = MultiTask(tasks)
    rows = jax.device_get(jax.jit(objective.statistics)(outputs, BATCH))
    for name, task in tasks.items():
        found = objective.task_statistics(rows, name)
        assert set(found) == set(jax.eval_shape(task.statistics, outputs[name], BATCH))
    found = metric_names.value(objective.metrics(rows), "a.b.accuracy")
    assert found == objective.metrics(rows)["tasks"]["a.b"]["accuracy"]


def test_predictions_are_by_task():
    found = MultiTask(TASKS).predictions(OUTPUTS)
    np.testing.assert_array_equal(found["cell"]["predicted"], OUTPUTS["cell"].argmax(-1))
    np.testing.assert_array_equal(found["age"]["predicted"], OUTPUTS["age"][:, 0])
    assert found["grade"]["probabilities"].shape == (8, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": {}}, "got no tasks"),
        ({"tasks": {"a": SingleLabel(2), "b": SingleLabel(3)}}, "a key of its own"),
        ({"tasks": {"log_variances": SingleLabel(2)}}, "expected another name"),
        ({"tasks": TASKS, "weights": {"cells": 1.0}}, "did you mean 'cell'"),
        ({"tasks": TASKS, "weights": {"cell": -1.0}}, "0 or more"),
    ],
)
def test_a_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        MultiTask(**fields)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (OUTPUTS["cell"], "expected a dict of arrays with the keys cell, age, grade, log_var"),
        (OUTPUTS, "'log_variances' is missing"),
        ({"cell": OUTPUTS["cell"]}, "'age', 'grade', 'log_variances' is missing"),
    ],
)
def test_outputs_without_a_task_are_an_error(outputs, message):
    with pytest.raises(ValueError, match=message):
        MultiTask(TASKS, learned_weights=True).loss(outputs, BATCH)

"""Tests of what all objectives have in common: masks, missing labels, batches, JSON, gradients."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.data.augment.mixing import mix
from tl_jax.objectives import metric_names
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import SUMS, example_rows
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel

RNG = np.random.default_rng(0)
COUNT, CLASSES = 12, 6
OUTPUTS = RNG.normal(0, 2, (COUNT, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
MANY = RNG.integers(-1, 2, (COUNT, CLASSES)).astype(np.int8)
MANY[:, 0] = 1
LEVELS = RNG.integers(0, CLASSES + 1, COUNT).astype(np.int32)
VALUES = RNG.normal(5, 2, COUNT).astype(np.float32)

WEIGHTS = tuple(np.linspace(0.5, 2, CLASSES).tolist())
SINGLE = SingleLabel(CLASSES, partly_labelled=True)
TASKS = {
    "kind": SingleLabel(CLASSES),
    "tags": MultiLabel(CLASSES, label_key="tags"),
    "grade": Ordinal(CLASSES + 1, label_key="grade"),
    "age": Regression(label_key="age", mean=5.0, std=2.0),
}
TASK_OUTPUTS = dict.fromkeys(TASKS, OUTPUTS) | {"age": OUTPUTS[:, :1]}
TASK_LABELS = {"label": LABELS, "tags": MANY, "grade": LEVELS, "age": VALUES}
LEARNED = TASK_OUTPUTS | {"log_variances": np.float32([0.3, -0.2, 0.0, 1.0])}
# name: objective, outputs, labels
CASES = {
    "single": (SINGLE, OUTPUTS, {"label": LABELS}),
    "weighted": (
        dataclasses.replace(
            SINGLE,
            loss_name="focal",
            label_smoothing=0.1,
            class_weights=WEIGHTS,
            logit_adjustment=1.0,
            class_counts=(5, 1, 1, 9, 2, 0),
        ),
        OUTPUTS,
        {"label": LABELS},
    ),
    "multi_label": (MultiLabel(CLASSES), OUTPUTS, {"label": MANY}),
    "coral": (Ordinal(CLASSES + 1), OUTPUTS, {"label": LEVELS}),
    "corn": (Ordinal(CLASSES + 1, loss_name="corn"), OUTPUTS, {"label": LEVELS}),
    "regression": (Regression(mean=5.0, std=2.0), OUTPUTS[:, :1], {"label": VALUES}),
    "tasks": (MultiTask(TASKS, {"tags": 0.5}, learned_weights=True), LEARNED, TASK_LABELS),
}
cases = pytest.mark.parametrize("name", CASES)


def missing(label: np.ndarray, where) -> np.ndarray:
    """Returns labels that are missing at some places."""
    label = label.copy()
    label[where] = np.nan if label.dtype == np.float32 else -1
    return label


def rows_of(outputs, chosen):
    """Returns some rows of each output; log variances are of all."""
    return jax.tree.map(lambda x: x if x.ndim == 1 else x[chosen], outputs)


@functools.cache
def compiled_loss(name: str):
    """Returns the compiled loss of a case, and its gradient to the outputs."""
    objective = CASES[name][0]
    return jax.jit(jax.value_and_grad(lambda outputs, batch: objective.loss(outputs, batch)[0]))


@functools.cache
def compiled_statistics(name: str):
    return jax.jit(CASES[name][0].statistics)


def statistics(name: str, outputs, batch):
    mask = {"mask": np.ones(len(jax.tree.leaves(batch)[0]), bool)}
    return jax.device_get(compiled_statistics(name)(outputs, mask | batch))


def assert_same_metrics(found, expected):
    """Compares two trees of metrics, whose numbers may differ in the last bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-7)


@cases
def test_missing_labels_leave_examples_out_of_the_loss(name):
    _, outputs, labels = CASES[name]
    hidden, kept = np.arange(COUNT) % 3 == 1, np.arange(COUNT) % 3 != 1
    batch = {key: missing(label, hidden) for key, label in labels.items()}
    spoilt = jax.tree.map(
        lambda x: x if x.ndim == 1 else np.where(hidden[:, None], np.float32(np.nan), x), outputs
    )
    found, gradient = compiled_loss(name)(spoilt, batch)
    rest = {key: label[kept] for key, label in labels.items()}
    expected, _ = compiled_loss(name)(rows_of(outputs, kept), rest)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert leaf.ndim == 1 or (np.asarray(leaf)[hidden] == 0).all()


@cases
def test_a_batch_without_labels_has_a_loss_of_zero_and_no_gradient(name):
    objective, outputs, labels = CASES[name]
    batch = {key: missing(label, slice(None)) for key, label in labels.items()}
    loss, gradient = compiled_loss(name)(outputs, batch)
    assert loss == 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))
    found = objective.metrics(statistics(name, outputs, batch))
    assert json.dumps(found, allow_nan=False)
    for task, of_task in found.get("tasks", {"": found}).items():
        assert of_task["count"] == 0
        single = objective.tasks[task] if task else objective
        assert all(of_task[metric] is None for metric in single.metric_names)


@cases
def test_outputs_that_are_extreme_have_finite_losses_and_gradients(name):
    objective, outputs, labels = CASES[name]
    for factor in (1e4, -1e4):
        extreme = jax.tree.map(
            lambda x, f=factor: x if x.ndim == 1 else np.float32(f) * np.sign(x), outputs
        )
        loss, gradient = compiled_loss(name)(extreme, labels)
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        found = objective.metrics(statistics(name, extreme, labels))
        assert json.dumps(found, allow_nan=False)


@cases
def test_padded_batches_add_up_to_the_whole_split(name):
    objective, outputs, labels = CASES[name]
    expected = objective.metrics(statistics(name, outputs, labels))
    parts = []
    for start in (0, 8):  # 8 examples, and 4 with as much filling, which repeats others.
        chosen = np.arange(start, start + 8) % COUNT
        batch = {key: label[chosen] for key, label in labels.items()}
        mask = np.arange(start, start + 8) < COUNT
        parts.append(statistics(name, rows_of(outputs, chosen), batch | {"mask": mask}))
    joined = {row: np.concatenate([part[row] for part in parts]) for row in parts[0]}
    assert joined["mask"].sum() == COUNT
    assert_same_metrics(objective.metrics(joined), expected)
    rows = example_rows(joined)
    assert {len(values) for values in rows.values()} == {COUNT}
    assert_same_metrics(objective.metrics(rows), expected)


@cases
def test_metrics_are_json_and_have_all_names(name):
    objective, outputs, labels = CASES[name]
    found = objective.metrics(statistics(name, outputs, labels))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for metric in objective.metric_names:
        metric_names.metric(metric, objective.metric_names)
        assert np.isfinite(metric_names.value(found, metric)), metric


@cases
def test_statistics_are_rows_or_sums(name):
    _, outputs, labels = CASES[name]
    for row, values in statistics(name, outputs, labels).items():
        assert len(values) == (1 if row.rpartition(".")[2] in SUMS else COUNT), row


@cases
def test_metrics_of_a_batch_are_those_of_its_labels(name):
    objective, outputs, labels = CASES[name]
    whole = objective.metrics(statistics(name, outputs, labels))
    for path, value in jax.jit(objective.batch_metrics)(outputs, labels).items():
        task, _, metric = path.rpartition(".")
        of_task = whole["tasks"][task] if task else whole
        if metric == "class_accuracy":
            assert value == pytest.approx(1 - of_task["hamming_loss"])
        else:
            assert value == pytest.approx(of_task[metric], rel=1e-6)


MIXABLE = {name: TASKS[name] for name in ("kind", "tags", "age")}


def test_targets_in_the_place_of_labels_have_the_same_loss():
    objective = MultiTask(MIXABLE)
    hidden = np.arange(COUNT) % 4 == 0
    batch = {key: missing(label, hidden) for key, label in TASK_LABELS.items()}
    batch["age"] -= 5  # Some are negative.
    targets = jax.jit(objective.targets)(batch)
    assert all(target.dtype == jnp.float32 and target.ndim == 2 for target in targets.values())
    loss = jax.jit(objective.loss)
    (found, parts), (expected, expected_parts) = (
        jax.device_get(loss(TASK_OUTPUTS, labels)) for labels in (batch | targets, batch)
    )
    assert found == pytest.approx(expected)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(
        {name: float(part) for name, part in expected_parts.items()}
    )


def test_targets_are_mixed_as_labels_are():
    objective = MultiTask(MIXABLE)
    batch = {key: missing(label, 3) for key, label in TASK_LABELS.items()}
    images = np.zeros((COUNT, 2, 2, 1), np.float32)

    @jax.jit
    def mixed_losses(batch):
        _, mixed = mix(jax.random.key(1), images, objective.targets(batch), mixup=1.0)
        parts = {
            name: task.example_losses(TASK_OUTPUTS[name], batch | mixed)
            for name, task in MIXABLE.items()
        }
        return mixed, parts

    mixed, parts = jax.device_get(mixed_losses(batch))
    losses, known = parts["age"]
    # Examples 4 and 5 are partners, and of different classes.
    share = mixed["label"][4, LABELS[4]]
    assert 0 < share < 1
    # Neither example 3 nor its partner has a target.
    assert np.flatnonzero(~known).tolist() == [2, 3]
    value = share * VALUES[4] + (1 - share) * VALUES[5]
    expected = (OUTPUTS[4, 0] - (value - 5) / 2) ** 2
    assert losses[4] == pytest.approx(float(expected), rel=1e-5)
    for _, known in parts.values():
        assert not known[3] and known.sum() == COUNT - 2


@pytest.mark.parametrize("wrong", [OUTPUTS[:, :4], OUTPUTS[0], {"label": OUTPUTS}])
@pytest.mark.parametrize("name", ["single", "multi_label", "coral", "regression"])
def test_outputs_of_another_shape_are_an_error(name, wrong):
    objective, _, labels = CASES[name]
    for use in (objective.loss, objective.statistics):
        with pytest.raises(ValueError, match=r"expected an array \[B, .* MultiTask"):
            use(wrong, labels)
    with pytest.raises(ValueError, match=r"expected an array \[B, .* MultiTask"):
        objective.predictions(wrong)


@pytest.mark.parametrize("name", ["single", "multi_label", "coral", "regression"])
def test_costly_metrics_are_computed_where_they_are_needed(name):
    objective, outputs, labels = CASES[name]
    rows = statistics(name, outputs, labels)
    whole = objective.metrics(rows)
    costly = [each for each in objective.metric_names if metric_names.METRICS[each].is_costly]
    assert bool(costly) == (name in ("single", "multi_label"))
    cheap = objective.metrics(rows, costly=("loss", "accuracy"))
    assert cheap.keys() >= set(objective.metric_names) - set(costly)
    assert cheap == {key: whole[key] for key in cheap} and cheap.keys().isdisjoint(costly)
    for each in costly:
        assert objective.metrics(rows, costly=(each,)) == whole


def test_costly_metrics_of_one_task_are_not_those_of_another():
    objective, outputs, labels = CASES["tasks"]
    rows = statistics("tasks", outputs, labels)
    found = objective.metrics(rows, costly=("tags.macro_auc",))["tasks"]
    assert "macro_auc" in found["tags"] and "macro_auc" not in found["kind"]
    assert found["tags"] == objective.metrics(rows)["tasks"]["tags"]


# ---- weights of examples


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_mean_of_weight_times_loss(name):
    objective, outputs, labels = CASES[name]
    weights = np.linspace(0, 2, COUNT).astype(np.float32)
    loss, _ = jax.jit(objective.loss)(outputs, labels | {"example_weight": weights})
    tasks = objective.tasks if name == "tasks" else {"": objective}
    total = 0.0
    for index, (task, of_one) in enumerate(tasks.items()):
        own = outputs[task] if task else outputs
        values, mask = jax.device_get(of_one.example_losses(own, labels))
        part = (weights * values)[mask].sum() / mask.sum()  # Not divided by the weights.
        if task:
            log_variance = float(LEARNED["log_variances"][index])
            part = of_one.likelihood_scale * np.exp(-log_variance) * part + log_variance / 2
            part *= objective.weights.get(task, 1.0)
        total += part
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_plain_classes_are_weighted_without_a_mask_too():
    weights = np.float32([0, 2] * 6)
    batch = {"label": LABELS, "example_weight": weights}
    loss, _ = SingleLabel(CLASSES).loss(OUTPUTS, batch)
    values, _ = SINGLE.example_losses(OUTPUTS, {"label": LABELS})
    assert float(loss) == pytest.approx(float((values * weights).mean()), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_knows_no_weights(name):
    objective, outputs, labels = CASES[name]
    plain = jax.device_get(objective.statistics(outputs, labels))
    batch = labels | {"example_weight": np.zeros(COUNT, np.float32)}
    for row, values in jax.device_get(objective.statistics(outputs, batch)).items():
        np.testing.assert_array_equal(values, plain[row])

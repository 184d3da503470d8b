"""What is chosen on the evaluation split: it fits the kind of the task, and changes no loss."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.data.source import Task
from tl_jax.objectives import calibration
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run import calibrate

RNG = np.random.default_rng(0)
LOGITS = {name: RNG.normal(size=(20, 3)).astype(np.float32) * 4 for name in ("kind", "tags")}
OUTPUTS = {**LOGITS, "age": np.zeros((20, 1), np.float32)}
BATCH = {
    "label": np.append(RNG.integers(0, 3, 18), [-1, 0]).astype(np.int32),
    "tags": RNG.integers(0, 2, (20, 3)).astype(np.int8),
    "age": np.zeros(20, np.float32),
    "mask": np.arange(20) < 19,
}
TASKS = (
    Task("kind", ("a", "b", "c")),
    Task("tags", ("d", "e", "f"), multi_label=True),
    Task("age", ()),
)
OBJECTIVE = MultiTask({
    "kind": SingleLabel(3),
    "tags": MultiLabel(3, label_key="tags"),
    "age": Regression(label_key="age"),
})  # fmt: skip


def rows(objective, outputs):
    found = objective.statistics(outputs, {name: jnp.asarray(x) for name, x in BATCH.items()})
    return {name: np.asarray(values) for name, values in found.items()}


def test_each_task_has_what_its_kind_needs():
    statistics = rows(OBJECTIVE, OUTPUTS)
    chosen = calibrate.choose(OBJECTIVE, statistics, TASKS)
    assert chosen == {
        "kind": {"temperature": calibration.temperature(LOGITS["kind"][:18], BATCH["label"][:18])},
        "tags": {
            "thresholds": list(calibration.f1_thresholds(LOGITS["tags"][:19], BATCH["tags"][:19]))
        },
    }
    applied = calibrate.apply(OBJECTIVE, json.loads(json.dumps(chosen)))
    before, after = (each.metrics(statistics)["tasks"] for each in (OBJECTIVE, applied))
    assert after["kind"]["log_loss"] < before["kind"]["log_loss"]
    assert after["tags"]["macro_f1"] > before["tags"]["macro_f1"]
    assert all(after[name]["loss"] == before[name]["loss"] for name in before)
    assert after["age"] == before["age"]


@pytest.mark.parametrize("index", [0, 2])
def test_of_one_task_nothing_is_nested(index):
    objective = (SingleLabel(3), None, Regression(label_key="age"))[index]
    outputs = (LOGITS["kind"], None, OUTPUTS["age"])[index]
    chosen = calibrate.choose(objective, rows(objective, outputs), TASKS[index:])
    assert list(chosen) == ["kind"][: index == 0]
    applied = calibrate.apply(objective, chosen)
    assert applied == objective if index else applied.temperature == chosen["kind"]["temperature"]

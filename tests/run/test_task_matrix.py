"""Every kind of task from every input by every fusion: it learns, resumes, measures, predicts.

One program for training and two for evaluation a case, on a network of three convolutions.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.support import objects, task_networks
from tests.support.devices import measure_tasks, run_on_devices
from tests.support.runs import change
from tests.support.tiny import assert_equal_trees
from tl_jax import trees
from tl_jax.data.loading.host_batches import host_eval_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import evaluation_input
from tl_jax.objectives import metric_names
from tl_jax.run.experiment import Experiment
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.state import TrainState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone")]

KINDS = tuple(objects.TASKS)
TASKS = (*((kind,) for kind in KINDS), ("ordinal", "multi_class"), KINDS)
POOLINGS = ("average", "max", "average_max", "gem", "attention", "gru")
FUSIONS: dict[str, tuple[dict[str, str], ...]] = {
    "image": ({},),
    "stages": tuple({"pooling": name} for name in POOLINGS),
    "columns": tuple({"join": name} for name in ("concatenate", "gated_sum")),
    "views": tuple({"view_fusion": name} for name in (*POOLINGS, "concatenate")),
    "scales": tuple({"scale_fusion": name} for name in (*POOLINGS, "concatenate")),
    "all": (
        {"view_fusion": "attention", "scale_fusion": "concatenate"},
        {"view_fusion": "gru", "scale_fusion": "gem"},
        {"view_fusion": "max", "scale_fusion": "attention", "join": "concatenate"},
    ),
}
ORDERED = ("gru", "concatenate")
# One case for each kind of task, and for each kind of input, that run by default.
FIRST = (
    (("multi_class",), "views", {"view_fusion": "attention"}),
    (("multi_label",), "columns", {"join": "gated_sum"}),
    (("ordinal",), "scales", {"scale_fusion": "gru"}),
    (("regression",), "stages", {"pooling": "gem"}),
    (KINDS, "all", FUSIONS["all"][2]),
)
# What stands for a missing value of each further input.
MISSING = {"numeric": np.nan, "categorical": -1, "tokens": 0, "vector": np.nan}
# In epochs of three steps.
EPOCHS, STEPS, SAVED = 4, 12, 6


class Case(NamedTuple):
    """Which kinds of tasks are learned, from which inputs, fused how."""

    kinds: tuple[str, ...]
    inputs: str
    fusion: dict[str, str]

    def __str__(self) -> str:
        return "-".join(("+".join(self.kinds), self.inputs, *self.fusion.values()))


def cases() -> list:
    every = [
        Case(kinds, inputs, fusion)
        for kinds, inputs in itertools.product(TASKS, FUSIONS)
        for fusion in FUSIONS[inputs]
    ]
    assert set(map(str, every)) >= {str(Case(*first)) for first in FIRST}
    return [
        pytest.param(case, id=str(case), marks=[] if case in FIRST else [pytest.mark.full])
        for case in every
    ]


class Trained(NamedTuple):
    """A trained case, its first state and its last, and the loss of each step."""

    experiment: Experiment
    first: TrainState
    last: TrainState
    losses: list[float]


def trained(config, folder: Path) -> Trained:
    """Trains some steps, saves, restores what was saved and takes the other steps from there."""
    experiment = Experiment.from_config(config)
    experiment.check()
    (phase,) = experiment.phases
    step_fn = experiment.compile_step(phase)

    def run(state: TrainState, batches: Iterator[Any], count: int) -> tuple[TrainState, list]:
        losses = []
        for batch in itertools.islice(batches, count):
            state, metrics = step_fn(state, batch)
            losses.append(float(metrics["loss"]))
        return state, losses

    state = experiment.begin(phase, None)
    first, batches = jax.device_get(state), experiment.train_batches(0)
    state, losses = run(state, batches, SAVED)
    saved = jax.device_get(state)
    metric, epoch = config.train.best_metric, SAVED // experiment.steps_per_epoch
    with Checkpoints(folder, best_metric=metric) as checkpoints:
        checkpoints.save(state, {metric: 0.5}, epoch=epoch)
        state, later = run(state, batches, STEPS - SAVED)
        last = jax.device_get(state)
        restored = experiment.restore(checkpoints, SAVED)
    assert_equal_trees(jax.device_get(restored), saved)
    state, again = run(restored, experiment.train_batches(SAVED), STEPS - SAVED)
    assert_equal_trees(jax.device_get(state), last)
    assert again == later
    return Trained(experiment, first, last, losses + later)


@pytest.mark.parametrize("case", cases())
def test_it_learns_resumes_measures_and_predicts(case, table, weights, tmp_path):
    options = {**objects.INPUTS[case.inputs], **case.fusion}
    if "stages" in options:
        options["stages"] = task_networks.STAGES
    if case.inputs == "all":
        options["modality_dropout"] = 0.2
    config = objects.make_config(
        table, weights, case.kinds, network=task_networks.NAME, epochs=EPOCHS, **options
    )
    config = change(config, "augment", scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
    found = trained(config, tmp_path)
    check_learned(found)
    check_measured(found, case)
    evaluate, given = evaluation(found)
    outputs = evaluate(found.last.variables, given)
    check_predicted(found.experiment.objective.predictions(outputs), case)
    if isinstance(given, dict):
        check_missing(evaluate, found.last.variables, given)
    if isinstance(given, dict) and "view_mask" in given:
        check_views(evaluate, found.last.variables, given, case.fusion)
        check_pixels_behind_the_mask(evaluate, found.last.variables, given)


def check_learned(found: Trained) -> None:
    """Asserts that the loss fell and that every parameter moved."""
    assert np.isfinite(found.losses).all()
    assert np.mean(found.losses[-3:]) < np.mean(found.losses[:3])
    before = trees.flatten(found.first.params)
    still = [
        trees.dotted(path)
        for path, leaf in trees.flatten(found.last.params).items()
        if np.array_equal(leaf, before[path])
    ]
    assert not still


def check_measured(found: Trained, case: Case) -> None:
    """Asserts that every example with a label counts once, and that the metrics are defined."""
    experiment = found.experiment
    split = experiment.held_out["validation"]
    evaluated = experiment.evaluator.evaluate(found.last.variables, split)
    metrics = evaluated.metrics
    by_task = metrics["tasks"] if len(case.kinds) > 1 else {"": metrics}
    counts = {"multi_class": 8, "multi_label": 9, "ordinal": 8, "regression": 8}
    for kind, of_task in zip(case.kinds, by_task.values(), strict=True):
        assert of_task["count"] == counts[kind]
    assert np.isfinite(metric_names.value(metrics, experiment.config.train.best_metric))


def evaluation(found: Trained) -> tuple[Any, Any]:
    """Returns the compiled network, and the input of all validation examples."""
    experiment = found.experiment
    batches = host_eval_batches(
        experiment.held_out["validation"],
        LoadOptions(objects.COUNTS["validation"], workers=0),
        preprocess=experiment.preprocess,
    )
    batch = next(iter(batches))
    preprocess = experiment.preprocess
    given = evaluation_input(batch, preprocess.mean, preprocess.std)
    return jax.jit(experiment.model.apply), given


def check_predicted(predictions: dict[str, Any], case: Case) -> None:
    """Asserts that each task has a prediction for each example."""
    count = objects.COUNTS["validation"]
    of_tasks = predictions.values() if len(case.kinds) > 1 else (predictions,)
    for kind, found in zip(case.kinds, of_tasks, strict=True):
        assert found["predicted"].shape[0] == count
        assert np.isfinite(found["predicted"]).all()
        if kind in ("multi_class", "ordinal"):
            np.testing.assert_allclose(found["probabilities"].sum(-1), 1, rtol=1e-5)
        if kind == "multi_label":
            assert ((found["probabilities"] > 0) & (found["probabilities"] < 1)).all()


def check_views(evaluate, variables, given: dict[str, Any], fusion: dict[str, str]) -> None:
    """Asserts that views may change places, unless the fusion has an order."""
    other = {**given, **{key: given[key][:, ::-1] for key in ("image", "view_mask")}}
    differences = [
        np.abs(one - two).max()
        for one, two in zip(
            jax.tree.leaves(evaluate(variables, given)),
            jax.tree.leaves(evaluate(variables, other)),
            strict=True,
        )
    ]
    if fusion["view_fusion"] in ORDERED:
        assert max(differences) > 1e-4
    else:
        assert max(differences) < 1e-5


def check_pixels_behind_the_mask(evaluate, variables, given: dict[str, Any]) -> None:
    """Asserts that the pixels of a masked view change no bit."""
    shown = np.asarray(given["view_mask"])[..., None, None, None]
    noise = np.random.default_rng(0).normal(size=given["image"].shape).astype(np.float32)
    other = {**given, "image": np.where(shown, given["image"], noise)}
    assert not shown.all()
    assert_equal_trees(evaluate(variables, other), evaluate(variables, given))


def check_missing(evaluate, variables, given: dict[str, Any]) -> None:
    """Asserts that the encoder of what no example has changes nothing, else something."""
    parts = [f"neck.{key}" for key in MISSING if key in given]
    parts += ["backbone"] if "view_mask" in given else []
    for part in parts:
        key = part.removeprefix("neck.")
        hidden = (
            {**given, key: np.full_like(given[key], MISSING[key])}
            if key in MISSING
            else {**given, "view_mask": np.zeros_like(given["view_mask"])}
        )
        params = trees.flatten(variables["params"])
        moved = {
            path: 2 * leaf + 0.1 if trees.is_under(trees.dotted(path), part) else leaf
            for path, leaf in params.items()
        }
        assert any(moved[path] is not params[path] for path in params), part
        other = {**variables, "params": trees.unflatten(moved)}
        assert_equal_trees(evaluate(other, hidden), evaluate(variables, hidden))
        changed = jax.tree.map(np.array_equal, evaluate(other, given), evaluate(variables, given))
        assert not all(jax.tree.leaves(changed)), part


@pytest.mark.full
def test_eight_devices_measure_what_one_does(tmp_path):
    """Losses of training, metrics of training and of evaluation, of all tasks by every input."""
    folders = [tmp_path / name for name in ("one", "eight")]
    for folder in folders:
        folder.mkdir()
    run_on_devices(measure_tasks, folders[1], devices=8)
    measure_tasks(folders[0])
    one, eight = (json.loads((folder / "measured.json").read_text()) for folder in folders)
    assert one.pop("devices") == 1 and eight.pop("devices") == 8
    assert one.keys() == set(FUSIONS)
    assert_close(eight, one)


def assert_close(found: Any, expected: Any) -> None:
    """Asserts that two trees of JSON values have the same numbers, up to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    else:
        assert found == expected

"""Runs of every kind of task and input: they learn, stop, resume with the same bits and report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import objects, runs, task_networks
from tests.support.runs import change, leaves, without_speed
from tl_jax import trees
from tl_jax.config import Config
from tl_jax.run import journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import RunFolder, load_run
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone")]

KINDS = tuple(objects.TASKS)


def make_config(table: Path, weights: Path, kinds: tuple[str, ...], **options: Any) -> Config:
    """Returns a run on the tiny network."""
    if "stages" in options:
        options["stages"] = task_networks.STAGES
    config = objects.make_config(table, weights, kinds, network=task_networks.NAME, **options)
    return change(config, "augment", scale=(1.0, 1.0), ratio=(1.0, 1.0))


def losses(workdir: Path) -> list[float]:
    """Returns the training loss of each step."""
    return [r["loss"] for r in journal.read(workdir) if r["split"] == "train"]


def assert_learned(config, workdir, report) -> None:
    """Asserts that the loss fell, all that is trained moved, and the best checkpoint is usable."""
    steps = losses(workdir)
    assert np.mean(steps[-3:]) < np.mean(steps[:3])
    experiment = Experiment.from_config(config)
    start = trees.flatten(experiment.initial.variables["params"])
    run = load_run(workdir)
    found = trees.flatten(run.variables["params"])
    assert found.keys() == start.keys()
    still = [trees.dotted(path) for path in start if np.array_equal(found[path], start[path])]
    assert not still
    split = experiment.held_out["validation"]
    evaluator = Evaluator(
        run.model,
        run.info.preprocess,
        mesh=sharding.data_mesh(),
        load_options=experiment.evaluator._load_options,
        objective=run.objective,
    )
    assert evaluator.evaluate(run.variables, split).metrics == report["metrics"]["validation"]


# ---- the combination of all


@pytest.fixture(scope="module")
def everything(table, weights, tmp_path_factory) -> runs.FinishedRun:
    """A finished run of four tasks on views, scales, stages and columns, with learned weights."""
    config = make_config(table, weights, KINDS, weighting="learned", **objects.INPUTS["all"])
    with task_networks.in_registry():
        return runs.finish_run(config, tmp_path_factory.mktemp("runs") / "everything")


def test_a_run_of_all_tasks_and_inputs_learns(everything):
    assert_learned(everything.config, everything.workdir, everything.report)


def test_its_report_is_by_task(everything):
    report, folder = everything.report, everything.workdir
    metrics = report["metrics"]["validation"]
    assert metrics["count"] == 9 and list(metrics["tasks"]) == ["kind", "tags", "grade", "weight"]
    counts = {name: task["count"] for name, task in metrics["tasks"].items()}
    assert counts == {"kind": 8, "tags": 9, "grade": 8, "weight": 8}
    assert [task["kind"] for task in report["tasks"]] == list(KINDS)
    assert np.sum(report["confusion"]["validation"]["grade"]) == 8
    assert report["confusion"]["validation"].keys() == {"kind", "grade"}
    assert {path.name for path in folder.glob("*.png")} == {
        "curves.png",
        "confusion_kind.png",
        "confusion_grade.png",
        "reliability_kind.png",
    }
    records = journal.read(folder)
    assert {"kind.accuracy", "weight.mae", "tags.loss"} <= records[0].keys()
    assert {"grade.quadratic_kappa", "tags.macro_f1"} <= records[-1].keys()
    written = json.loads((folder / "report.json").read_text())
    assert written == json.loads(json.dumps(report))


def test_its_record_holds_what_the_inputs_mean(everything):
    info = RunFolder(everything.workdir).read_info()
    # The most frequent first; one text, of a "low" object, is missing.
    assert info.inputs.vocabulary == ("a", "thing", "high", "middle", "low")
    assert info.inputs.views == 2 and info.inputs.categorical[0].values == ("here", "there")
    assert info.numeric_mean == (np.mean([i % 3 for i in range(24) if i != 2]),)
    assert [task.kind for task in info.tasks] == list(KINDS)
    assert info.label_statistics[0].missing == 1 and sum(info.label_statistics[0].counts) == 23


def test_what_it_prints_names_the_tasks_and_inputs(everything):
    assert "task     grade (ordinal): low 8, middle 8, high 7; 1 without a label" in everything.log
    assert "inputs   up to 2 views, numbers 'age', categories 'origin', texts" in everything.log
    assert "1 of 24 examples of split 'train' have no 'kind'" in everything.log
    assert "validation: loss " in everything.log and "; weight: mae " in everything.log


def test_an_interrupted_run_ends_with_the_same_bits(everything, tmp_path):
    assert fit(everything.config, tmp_path / "run", stop_after_epoch=1) is None
    report = fit(everything.config, tmp_path / "run")
    assert report == everything.report
    for one, other in zip(leaves(tmp_path / "run"), leaves(everything.workdir), strict=True):
        np.testing.assert_array_equal(one, other)
    records = [without_speed(journal.read(d)) for d in (tmp_path / "run", everything.workdir)]
    assert records[0] == records[1]


def test_changed_labels_and_columns_are_found_before_a_run_goes_on(everything, tmp_path):
    folder = tmp_path / "objects"
    moved = objects.write(folder)
    config = change(everything.config, "data", source=f"manifest:{moved}")
    assert fit(config, tmp_path / "run", stop_after_epoch=1) is None
    rows = [json.loads(line) for line in moved.read_text().splitlines()]
    for field, value, message in (
        ("words", "another thing", "inputs, vocabulary: "),
        ("weight", 77.0, "the labels of other tasks, or further inputs, differ"),
    ):
        changed = [{**rows[0], field: value}, *rows[1:]]
        moved.write_text("".join(json.dumps(row) + "\n" for row in changed))
        with pytest.raises(ValueError, match=message):
            fit(config, tmp_path / "run")


# ---- one task


def test_a_single_number_is_learned_by_a_plain_network(table, weights, tmp_path):
    config = make_config(table, weights, ("regression",), epochs=8)
    config = change(config, "train", target=1.5, log_every=1)
    report = fit(config, tmp_path / "run")
    assert report is not None and "reached the target 1.5" in report["stopped"]
    assert report["metrics"]["validation"]["mae"] <= 1.5
    assert report["class_names"] == [] and report["confusion"] == {"validation": None}
    assert report["best_metric"] == "mae"
    assert load_run(tmp_path / "run").model.classifier == "fc"


# ---- whole runs by input and by weights of tasks


@pytest.mark.full
@pytest.mark.parametrize("inputs", [name for name in objects.INPUTS if name != "all"])
def test_runs_of_all_tasks_learn_resume_and_report(inputs, table, weights, tmp_path):
    config = make_config(table, weights, KINDS, **objects.INPUTS[inputs])
    report = fit(config, tmp_path / "run")
    assert_learned(config, tmp_path / "run", report)
    assert fit(config, tmp_path / "stopped", stop_after_epoch=2) is None
    assert fit(config, tmp_path / "stopped") == report
    both = leaves(tmp_path / "run"), leaves(tmp_path / "stopped")
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.full
@pytest.mark.parametrize("weighting", ["fixed", "gradient_normalised"])
def test_every_weighting_of_tasks_learns(weighting, table, weights, tmp_path):
    config = make_config(table, weights, KINDS, weighting=weighting)
    assert_learned(config, tmp_path, fit(config, tmp_path))

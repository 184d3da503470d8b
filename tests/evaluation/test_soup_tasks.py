"""Soups and WiSE-FT of runs of several tasks: compared by the metric of a task, and whole runs."""

import dataclasses
import json

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.soup import soup
from tl_jax.evaluation.wise_ft import wise_ft
from tl_jax.run import calibrate
from tl_jax.run.folder import load_run, write_run

pytestmark = pytest.mark.slow

KINDS = ("multi_label", "regression")


@pytest.fixture
def pair(make_task_run, tiny_networks):
    """Two runs of tags and weights, compared by the error of the weights."""
    return [make_task_run(*KINDS, seed=seed, best_metric="weight.mae") for seed in (1, 2)]


def test_a_soup_of_tasks_is_scored_by_a_task_and_chooses_its_thresholds(pair, tmp_path):
    result = soup(pair, tmp_path / "soup")
    errors = [evaluate(run, split="validation")["tasks"]["weight"]["mae"] for run in pair]
    assert result.metric == "weight.mae"
    assert result.run_scores == pytest.approx(errors)
    assert result.kept[0] == pair[int(np.argmin(errors))]  # Lower is better.
    found = evaluate(tmp_path / "soup", split="train")
    assert found["calibration"].keys() == {"tags"}
    written = json.loads((tmp_path / "soup" / "calibration.json").read_text())
    assert found["calibration"] == written
    tags = found["calibrated_metrics"]["tasks"]["tags"]
    assert tags["thresholds"] == written["tags"]["thresholds"]
    run = load_run(tmp_path / "soup")
    assert run.calibrated == calibrate.apply(run.objective, written) != run.objective


def test_runs_of_other_tasks_inputs_and_units_are_refused(pair, make_task_run, tmp_path):
    own = load_run(pair[0])
    others = {
        "tasks": make_task_run("multi_label", "ordinal"),
        "inputs": make_task_run(*KINDS, inputs="columns"),
        "mean and standard deviation of labels": tmp_path / "units",
    }
    statistics = own.info.label_statistics
    other_unit = dataclasses.replace(statistics[1], mean=statistics[1].mean + 1)
    info = dataclasses.replace(own.info, label_statistics=(statistics[0], other_unit))
    write_run(tmp_path / "units", own.config, info, own.variables)
    for what, other in others.items():
        with pytest.raises(ValueError, match=f"differ in their {what}: "):
            soup([pair[0], other], tmp_path / "soup")
    config = change(own.config, "train", best_metric="tags.macro_auc")
    write_run(tmp_path / "auc", config, own.info, own.variables)
    with pytest.raises(ValueError, match=r"tags.macro_auc does not exist on split 'train\[:1\]'"):
        wise_ft(tmp_path / "auc", split="train[:1]", alphas=[1.0])
    config = change(own.config, "data", eval_split=None, test_split="validation")
    write_run(tmp_path / "none", config, own.info, own.variables)
    with pytest.raises(ValueError, match="no evaluation split .* to measure on; name a split"):
        wise_ft(tmp_path / "none")


def test_wise_ft_goes_from_the_initial_heads_to_the_tuned_ones(pair, tmp_path):
    result = wise_ft(pair[0], alphas=[0.0, 1.0], to=tmp_path / "best")
    by_alpha = dict(result.curve)
    own = evaluate(pair[0], split="validation")["tasks"]["weight"]["mae"]
    assert by_alpha[1.0] == pytest.approx(own)
    assert by_alpha[0.0] != by_alpha[1.0]
    assert by_alpha[result.best_alpha] == min(by_alpha.values())
    best = evaluate(tmp_path / "best", split="validation")["tasks"]["weight"]["mae"]
    assert best == pytest.approx(min(by_alpha.values()))

"""Soups and WiSE-FT of runs: averages, choices, scores and the written run."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support.tiny import assert_equal_trees, randomised
from tl_jax.config import Config, DataConfig, ModelConfig, TrainConfig, TransferConfig
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.soup import soup
from tl_jax.evaluation.wise_ft import wise_ft
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import load_run, write_run
from tl_jax.run.model import build_model
from tl_jax.transfer.soups import interpolate, uniform_soup
from tl_jax.weights.sources import WeightsRecord

pytestmark = pytest.mark.slow

CONFIG = Config(
    model=ModelConfig("simple_cnn", weights="random"),
    data=DataConfig("digits", shots=2, image_size=16, batch_size=64, workers=0),
    train=TrainConfig(epochs=1),
)


@pytest.fixture(scope="module")
def experiment():
    return Experiment.from_config(CONFIG)


@pytest.fixture(scope="module")
def runs(experiment, tmp_path_factory):
    """Folders of three runs with random classifiers, as if they had been trained."""
    root = tmp_path_factory.mktemp("runs")
    for i in range(3):
        classifier = {
            "kernel": 0.1 * jax.random.normal(jax.random.key(i), (512, 10)),
            "bias": np.zeros(10, np.float32),
        }
        params = experiment.initial.variables["params"] | {"fc": classifier}
        write_run(root / str(i), CONFIG, experiment.info, {"params": params})
    return [root / str(i) for i in range(3)]


def accuracy(run):
    return evaluate(run, split="validation")["accuracy"]


@pytest.fixture(scope="module")
def run_metrics(runs):
    """The metrics of each of `runs`."""
    return [evaluate(run, split="validation") for run in runs]


def test_a_uniform_soup_is_the_mean_of_the_runs(runs, run_metrics, tmp_path):
    result = soup(runs, tmp_path / "soup", kind="uniform")
    written = load_run(tmp_path / "soup")
    expected = uniform_soup([load_run(run).variables for run in runs])
    assert_equal_trees(written.variables, expected)
    assert result.kept == tuple(runs)
    assert result.run_scores == pytest.approx([metrics["accuracy"] for metrics in run_metrics])
    assert result.score == pytest.approx(accuracy(tmp_path / "soup"))
    assert (result.metric, result.split) == ("accuracy", "validation")


def test_a_greedy_soup_is_at_least_as_good_as_the_best_run(runs, run_metrics, tmp_path):
    result = soup(runs, tmp_path / "soup")
    assert result.run_scores == pytest.approx([metrics["accuracy"] for metrics in run_metrics])
    best = int(np.argmax(result.run_scores))
    assert result.kept[0] == runs[best]
    assert result.score >= max(result.run_scores)
    assert result.score == pytest.approx(accuracy(tmp_path / "soup"))


def test_a_lower_loss_is_a_better_score(experiment, runs, run_metrics, tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(epochs=1, best_metric="loss"))
    copies = [tmp_path / run.name for run in runs]
    for run, copy in zip(runs, copies, strict=True):
        write_run(copy, config, experiment.info, load_run(run).variables)
    result = soup(copies, tmp_path / "soup")
    losses = [metrics["loss"] for metrics in run_metrics]
    assert result.run_scores == pytest.approx(losses)
    assert result.kept[0] == copies[int(np.argmin(losses))]
    assert result.score <= min(losses)


def test_wise_ft_scores_the_line_from_the_initial_weights(experiment, runs, run_metrics, tmp_path):
    result = wise_ft(runs[0], alphas=[0.0, 0.5, 1.0], to=tmp_path / "best")
    assert [alpha for alpha, _ in result.curve] == [0.0, 0.5, 1.0]
    by_alpha = dict(result.curve)
    assert by_alpha[1.0] == pytest.approx(run_metrics[0]["accuracy"])
    assert by_alpha[result.best_alpha] == max(by_alpha.values())
    run, initial = load_run(runs[0]), {"params": experiment.initial.variables["params"]}
    expected = interpolate(initial, run.variables, result.best_alpha)
    assert_equal_trees(load_run(tmp_path / "best").variables, expected)


def test_runs_that_cannot_be_averaged_are_refused(experiment, runs, tmp_path):
    info, variables = experiment.info, load_run(runs[0]).variables
    with pytest.raises(ValueError, match="got 1 runs; a soup needs two or more"):
        soup(runs[:1], tmp_path / "soup")
    with pytest.raises(ValueError, match="kind='mean'; expected one of greedy, uniform"):
        soup(runs, tmp_path / "soup", kind="mean")
    with pytest.raises(ValueError, match="is not empty; choose another folder"):
        soup(runs, runs[0])
    others = dataclasses.replace(info, class_names=tuple("abcdefghij"))
    write_run(tmp_path / "others", CONFIG, others, variables)
    with pytest.raises(ValueError, match=r"others differ in their classes: \('0', "):
        soup([runs[0], tmp_path / "others"], tmp_path / "soup")
    transfer = TransferConfig(adaptation="lora", trained="head+added")
    config = dataclasses.replace(CONFIG, transfer=transfer)
    write_run(tmp_path / "lora", config, info, randomised(build_model(config, 10), side=16))
    with pytest.raises(ValueError, match="adapted by LoRA"):
        soup([tmp_path / "lora"] * 2, tmp_path / "soup")
    with pytest.raises(ValueError, match="adapted by LoRA"):
        wise_ft(tmp_path / "lora")
    weights = WeightsRecord("simple_cnn", "file", "weights.pth", "0" * 64)
    write_run(tmp_path / "tuned", CONFIG, dataclasses.replace(info, weights=weights), variables)
    with pytest.raises(ValueError, match="differ in their pretrained weights: random and 0000"):
        soup([runs[0], tmp_path / "tuned"], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_runs_of_an_earlier_version_are_not_scored_on_what_they_were_trained_on(
    experiment, runs, tmp_path
):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, carve=0.5))
    old = dataclasses.replace(experiment.info, digests={})
    write_run(tmp_path / "old", config, old, load_run(runs[0]).variables)
    with pytest.raises(ValueError, match="images that were trained on would be counted"):
        soup([runs[0], tmp_path / "old"], tmp_path / "soup")
    with pytest.raises(ValueError, match="images that were trained on would be counted"):
        wise_ft(tmp_path / "old")


def test_alphas_outside_0_to_1_are_refused(runs):
    for alphas in ([], [0.5, 1.5]):
        with pytest.raises(ValueError, match="expected at least one, all in"):
            wise_ft(runs[0], alphas=alphas)

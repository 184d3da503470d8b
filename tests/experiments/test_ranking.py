"""The comparison of rankings with fine-tuning: its numbers, its jobs and its tables."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import tl_jax
from experiments import (
    ranking,
    ranking_agreement,
    ranking_candidates,
    ranking_report,
    tasks_run,
)
from experiments.ranking_agreement import Measured
from experiments.strategies_run import Job, Run
from tl_jax import config as configuration
from tl_jax.objectives import bootstrap
from tl_jax.selection.measures import NAMES

ONLY = ("lite0@48", "lite2@80", "lite0@80:stage2", "simple_cnn-random@32")


def values_with_ties(rng, *shape):
    return rng.integers(0, 6, shape).astype(float)


def test_correlations_are_those_of_scipy_with_ties():
    rng = np.random.default_rng(0)
    x, y = values_with_ties(rng, 40, 9), values_with_ties(rng, 40, 9)
    rho, tau = ranking_agreement.correlations(x, y)
    np.testing.assert_allclose(
        rho, [stats.spearmanr(*pair).statistic for pair in zip(x, y, strict=True)]
    )
    np.testing.assert_allclose(
        tau, [stats.kendalltau(*pair).statistic for pair in zip(x, y, strict=True)]
    )
    for found in ranking_agreement.correlations(np.ones(4), np.arange(4.0)):
        assert np.isnan(found)


def sets_of_two(rng, candidates=8):
    """Two sets of tests of different sizes; the last two candidates have no "some"."""
    found = []
    for tests in (40, 25):
        rates = np.linspace(0.3, 0.9, candidates)[:, None]
        correct = rng.random((candidates, tests)) < rates
        some = rng.normal(size=candidates) + correct.mean(1)
        some[-2:] = np.nan
        scores = {"all": correct.mean(1), "some": some, "same": np.ones(candidates)}
        found.append(Measured(correct, scores))
    return found


def test_intervals_are_those_of_a_loop_over_the_draws():
    sets = sets_of_two(np.random.default_rng(1))
    drawn = ranking_agreement.draw(sets, draws=200)
    found = ranking_agreement.agreement(sets, "some", drawn)
    by_set = {"spearman": [], "kendall": []}
    for measured, accuracies in zip(sets, drawn.accuracies, strict=True):
        rows = []
        for accuracy, chosen in zip(accuracies, drawn.candidates, strict=True):
            chosen = chosen[np.isfinite(measured.scores["some"][chosen])]
            x, y = measured.scores["some"][chosen], accuracy[chosen]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Constant draws.
                rows.append((stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic))
        for name, values in zip(by_set, np.array(rows).T, strict=True):
            by_set[name].append(values)
    for name, values in by_set.items():
        means = np.mean(values, 0)
        expected = bootstrap.percentiles(means[np.isfinite(means)], 0.95)
        assert found["mean"][f"{name}_interval"] == pytest.approx(expected)
        expected = bootstrap.percentiles(values[0][np.isfinite(values[0])], 0.95)
        assert found["sets"][0][f"{name}_interval"] == pytest.approx(expected)
    assert [each["count"] for each in found["sets"]] == [6, 6]


def test_draws_are_of_test_examples_and_of_candidates():
    sets = sets_of_two(np.random.default_rng(2))
    drawn = ranking_agreement.draw(sets, draws=4000)
    for measured, accuracies in zip(sets, drawn.accuracies, strict=True):
        tests = measured.correct.shape[1]
        np.testing.assert_allclose(accuracies.mean(0), measured.accuracies, atol=0.01)
        spread = np.sqrt(measured.accuracies * (1 - measured.accuracies) / tests)
        np.testing.assert_allclose(accuracies.std(0), spread, rtol=0.1)
    counts = [len(set(row)) for row in drawn.candidates.tolist()]
    assert np.mean(counts) == pytest.approx(8 * (1 - (7 / 8) ** 8), rel=0.02)


def test_a_perfect_score_agrees_and_one_that_never_differs_says_nothing():
    sets = sets_of_two(np.random.default_rng(3))
    drawn = ranking_agreement.draw(sets, draws=100)
    mean = ranking_agreement.agreement(sets, "all", drawn)["mean"]
    assert (mean["spearman"], mean["kendall"], mean["regret"]) == pytest.approx((1, 1, 0))
    low, high = mean["spearman_by_examples"]
    assert 0.5 < low < high < 1  # Other test examples would have given another order.
    assert mean["regret_by_examples"][1] > 0
    nothing = {"sets": [None, None], "mean": None}
    assert ranking_agreement.agreement(sets, "same", drawn) == nothing
    alike = [Measured(np.ones((8, 20), bool), each.scores) for each in sets]
    assert ranking_agreement.agreement(alike, "some", ranking_agreement.draw(alike)) == nothing


def test_regret_is_the_loss_of_taking_the_first():
    accuracies = np.array([0.5, 0.7, 0.9])
    assert ranking_agreement.regret(np.array([1.0, 3, 2]), accuracies) == pytest.approx(0.2)
    assert ranking_agreement.regret(np.array([1.0, 2, np.nan]), accuracies) == pytest.approx(0.2)
    assert ranking_agreement.regret(np.array([3.0, 3, 2]), accuracies) == pytest.approx(0.3)


def test_candidates_differ_and_their_configurations_are_valid(tmp_path):
    arguments = ranking._parse(["--workdir", str(tmp_path), "--sets", "digits", "elpv"])
    sets = ranking_candidates.sets_of(arguments)
    runs = [
        ranking_candidates.run_of(each, name, candidate, rate, arguments)
        for name, each in sets.items()
        for candidate in ranking_candidates.CANDIDATES
        for rate in ranking_candidates.RATES
    ]
    runs += ranking_candidates.starts(arguments)
    assert len({run.name for run in runs}) == len({run.config for run in runs}) == len(runs)
    for run in runs:
        assert configuration.from_json(configuration.to_json(run.config)) == run.config
    needed = {each.weights for each in ranking_candidates.CANDIDATES} - {"package"}
    assert needed == {run.method for run in ranking_candidates.starts(arguments)}


def made_up(job):
    """A training whose accuracy follows from the candidate's place and the rate."""
    test = {"accuracy": 0.5, "loss": 1.0}
    if job.run.set == ranking_candidates.START:
        return {"test": test, "seconds": 1.0}
    right = 12 + 2 * ONLY.index(job.run.method) - (job.run.rate > 1e-3)
    correct = "".join("01"[place < right] for place in range(20))
    validation = {"accuracy": right / 20, "loss": 1.0}
    return {"test": test, "validation": validation, "correct": correct, "seconds": 1.0}


def ranked(config, models, **options):
    del config, options
    rows = []
    for place, model in enumerate(models):
        value = {name: {"value": float(place)} for name in NAMES}
        value["leep"] = {"value": None if "stage" in model else float(-place)}
        rows.append({"model": model, "scores": value, "error": None, "parameters": 5, "flops": 7})
    return {"rows": rows, "count": 30, "held_out_count": 10, "classes": 2}


@pytest.fixture
def jobs(monkeypatch):
    """Trainings and rankings that are made up; returns the names of those that were made."""
    made = []

    def launch(self, job):
        made.append(job.run.name)
        job.row.write_text(json.dumps(made_up(job)))
        return 0

    def rank(config, models, **options):
        made.append(f"rank {config.data.source}")
        return ranked(config, models, **options)

    monkeypatch.setattr(tasks_run.Workers, "launch", launch)
    monkeypatch.setattr(tl_jax, "rank", rank)
    return made


@pytest.mark.draws
def test_jobs_are_done_once_and_the_result_is_three_files(tmp_path, jobs, capsys):
    command = ["--sets", "digits", "elpv", "--only", *ONLY, "--workdir", str(tmp_path / "work")]
    command += ["--results", str(tmp_path / "results")]
    ranking.main(command)
    # Weights of one candidate, a ranking of each set, two rates on the first and one on the other.
    assert len(jobs) == 1 + 2 + (2 + 1) * len(ONLY)
    ranking.main(command)
    assert len(jobs) == 1 + 2 + (2 + 1) * len(ONLY)
    text = (tmp_path / "results" / "ranking.md").read_text()
    assert text in capsys.readouterr().out
    assert str(tmp_path) not in text + (tmp_path / "results" / "ranking.json").read_text()
    found = json.loads((tmp_path / "results" / "ranking.json").read_text())
    assert found["sets"]["elpv"]["accuracies"] == [0.6, 0.7, 0.8, 0.9]
    assert found["rates"] == [5e-4] * 4
    scores = found["agreement"]["all"]["scores"]
    assert scores["logme"]["mean"]["spearman"] == pytest.approx(1)
    assert scores["leep"]["mean"]["spearman"] == pytest.approx(-1)
    assert scores["leep"]["sets"]["digits"]["count"] == 3
    assert scores["leep"]["mean"]["regret"] == pytest.approx(0.3)
    assert scores["parameters"]["mean"] is None
    assert found["agreement"]["imagenet"]["count"] == 3
    assert "| lite0@48 | 0.0005 | 0.600 | 0.600 |" in text
    assert "| parameters | - | - | - | - | - |" in text
    with Image.open(tmp_path / "results" / "ranking.png") as picture:
        assert picture.width > 800


def test_a_candidate_that_fails_is_named_and_left_out(tmp_path, jobs, monkeypatch):
    def fails(self, job):
        if job.run.method == ONLY[1] and job.run.set == "elpv":
            job.log.write_text("ValueError: no\n")
            return 1
        job.row.write_text(json.dumps(made_up(job)))
        return 0

    monkeypatch.setattr(tasks_run.Workers, "launch", fails)
    command = ["--sets", "digits", "elpv", "--only", *ONLY, "--quick", "--workdir", str(tmp_path)]
    ranking.main(command)
    found = json.loads((tmp_path / "results" / "ranking.json").read_text())
    assert [each["name"] for each in found["candidates"]] == [ONLY[0], *ONLY[2:]]
    assert found["left_out"] == [ONLY[1]]
    assert "ValueError: no" in (tmp_path / "results" / "ranking.md").read_text()


@pytest.mark.slow
def test_a_training_tells_which_test_examples_are_right(tiny_config, tmp_path):
    run = Run("digits", "tiny", 1e-2, 0, tiny_config)
    paths = (tmp_path / name for name in ("run.task", "run.row", "run.log", "run", "compiled"))
    row = ranking.measured(Job(run, *paths))
    assert len(row["correct"]) == 14
    assert row["correct"].count("1") / 14 == pytest.approx(row["test"]["accuracy"])
    assert set(row["validation"]) == {"accuracy", "loss"}


def test_the_committed_result_is_complete():
    folder = Path(__file__).parents[2] / ranking.RESULTS
    found = json.loads((folder / "ranking.json").read_text())
    assert set(found["sets"]) >= set(ranking_candidates.USUAL_SETS)
    assert not found["failures"] and not found["left_out"]
    assert ranking_report.markdown(found) == (folder / "ranking.md").read_text()

"""Runs that are stopped within an epoch: what they save, and that they end as one left alone."""

import json
import math

import numpy as np
import pytest

from tests.support.runs import change, leaves, without_speed
from tl_jax import distributed
from tl_jax.config import PhaseConfig
from tl_jax.run import journal, stops
from tl_jax.run.fit import fit
from tl_jax.run.stops import StoppedError, Stops

pytestmark = pytest.mark.slow


class After:
    """Says that the run shall stop from the given question on."""

    def __init__(self, questions: float) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def assert_same_runs(one, other) -> None:
    assert without_speed(journal.read(one)) == without_speed(journal.read(other))
    assert sorted(path.name for path in (one / "checkpoints").iterdir()) == sorted(
        path.name for path in (other / "checkpoints").iterdir()
    )
    for mine, theirs in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(finished_run, tmp_path, capsys):
    """Epochs of three steps and two batches of evaluation, with a question after each of them."""
    workdir, config = tmp_path / "run", change(finished_run.config, "train", save_every=2)
    newest = []
    for questions, where in (
        (1, "after step 1 of 3 of epoch 1"),  # Within an interval of the records.
        (3, "after step 3 of 3 of epoch 1"),  # In the evaluation.
        (3, "after epoch 1, of 4 epochs"),
        (7, "after step 1 of 3 of epoch 3"),  # The first step of the second phase.
    ):
        with pytest.raises(StoppedError, match=where):
            fit(config, workdir, should_stop=After(questions))
        found = [path.name for path in (workdir / "checkpoints").iterdir()]
        newest.append(max(found, key=lambda name: int(name.partition(".")[0])))
    assert newest == ["1.within-epoch", "3.within-epoch", "3", "7.within-epoch"]
    capsys.readouterr()
    assert fit(config, workdir, should_stop=After(math.inf)) == finished_run.report
    assert "resumed from epoch 3 of 4, step 1 of 3" in capsys.readouterr().err
    assert_same_runs(workdir, finished_run.workdir)


def test_a_run_killed_within_an_epoch_loses_the_steps_since_its_last_checkpoint_only(
    finished_run, tmp_path, capsys
):
    def killed() -> bool:
        if next(questions) == 7:  # Three steps, two batches, the question between the epochs.
            raise KeyboardInterrupt
        return False

    questions, workdir = iter(range(99)), tmp_path / "killed"
    config = change(finished_run.config, "train", save_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(config, workdir, should_stop=killed)
    found = json.loads((workdir / "checkpoints" / "4.within-epoch" / "manifest.json").read_text())
    assert found["phase"] == "head"
    assert found["class_names"] == finished_run.report["class_names"]
    assert found["config"]["train"]["save_every"] == 1 and "jax" in found["versions"]
    labels = {name: each.get("label") for name, each in found["arrays"]["variables"].items()}
    assert labels["params.conv1.kernel"] == "frozen" and labels["params.fc.bias"] == "head"
    capsys.readouterr()
    assert fit(config, workdir) == finished_run.report
    assert "resumed from epoch 2 of 4, step 1 of 3" in capsys.readouterr().err
    assert_same_runs(workdir, finished_run.workdir)


@pytest.mark.full
def test_a_run_with_moving_averages_and_phases_is_killed_within_an_epoch(tiny_config, tmp_path):
    phases = (PhaseConfig(1, "head"), PhaseConfig(1, "head+last:1"))
    config = change(change(tiny_config, "train", ema=0.5, log_every=1), "transfer", phases=phases)
    report = fit(config, tmp_path / "whole")
    config = change(config, "train", save_every=1)
    with pytest.raises(StoppedError, match="after step 1 of 3 of epoch 2"):
        fit(config, tmp_path / "stopped", should_stop=After(7))
    assert fit(config, tmp_path / "stopped") == report
    assert_same_runs(tmp_path / "stopped", tmp_path / "whole")


def test_several_processes_ask_each_other_at_the_same_steps(monkeypatch):
    """About once a second, whatever a step takes; and one of them is enough."""
    monkeypatch.setattr(stops.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "agree", lambda value: value)
    asked, answers = [], iter([False, False, True])
    monkeypatch.setattr(distributed, "any_of", lambda flag: asked.append(step) or next(answers))
    now = [0.0]
    monkeypatch.setattr(stops.time, "monotonic", lambda: now[0])
    agreed = Stops(lambda: False)
    for step in range(1, 99):  # noqa: B007  The lambda reads it.
        now[0] += 0.25
        if agreed.wanted():
            break
    assert asked == [1, 5, 9]

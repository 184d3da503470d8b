"""Runs of several processes from the command line: stopped, resumed by other numbers, measured."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.support import job
from tests.support.slim import ROOT
from tl_jax import load_run
from tl_jax.config import to_json
from tl_jax.run import journal

pytestmark = [pytest.mark.slow, pytest.mark.full]


def launch(count: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command of tl-jax in some processes."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.launch.local", str(count), *map(str, arguments)],
        cwd=ROOT,
        env=job.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.mark.parametrize(("before", "after"), [(1, 4), (2, 1), (4, 1)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, before, after):
    config = tmp_path / "config.json"
    config.write_text(to_json(job.digits(2)), encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, count, options in (
        (whole, 1, ()),
        (parts, before, ("--stop-after-epoch", "1")),
        (parts, after, ()),
    ):
        done = launch(count, "train", config, "--workdir", folder, *options)
        assert done.returncode == 0, done.stdout
    assert "resumed from epoch 1 of 2" in done.stdout
    expected, found = (
        json.loads((folder / "report.json").read_text(encoding="utf-8"))["metrics"]["validation"]
        for folder in (whole, parts)
    )
    assert found["count"] == expected["count"]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    measured = launch(after, "evaluate", parts, "--split", "validation")
    assert f"{expected['count']}" in measured.stdout
    assert all(line.startswith("[0] ") for line in measured.stdout.splitlines() if "loss" in line)


def run_together(count: int, *arguments: object) -> list["subprocess.Popen[str]"]:
    """Starts the processes of `job.train_steps`; a process that is alone joins nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [f"127.0.0.1:{port},{count},{i}" if count > 1 else "" for i in range(count)]
    program = "import sys; from tests.support.job import train_steps as main; main(*sys.argv[1:])"
    return [job.start(program, place, *arguments) for place in places]


def end(runs: list["subprocess.Popen[str]"]) -> list[int]:
    """Waits for processes; returns their statuses."""
    printed = [run.communicate(timeout=900) for run in runs]
    statuses = [run.returncode for run in runs]
    assert set(statuses) <= {0, 75, -signal.SIGKILL}, printed
    return statuses


def losses(folder) -> list[float]:
    return [each["loss"] for each in journal.read(folder) if each["split"] == "train"]


def test_twenty_steps_of_one_two_and_four_processes_are_the_same(tmp_path):
    seen, parameters = {}, {}
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        assert end(run_together(count, folder, 4)) == [0] * count
        found = [json.loads(each.read_text()) for each in sorted(tmp_path.glob(f"{count}-*.json"))]
        assert len(found) == count
        seen[count] = [sorted(itertools.chain(*epoch)) for epoch in zip(*found, strict=True)]
        parameters[count] = load_run(folder).variables
    for epochs in seen.values():
        assert [len(epoch) for epoch in epochs] == [80, 80]
        assert len(set(epochs[0])) == 80  # Every example once.
        assert epochs[0] == epochs[1] == seen[1][0]
    expected = losses(tmp_path / "1")
    assert len(expected) == 20
    for count in (2, 4):
        np.testing.assert_allclose(losses(tmp_path / str(count)), expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            parameters[count],
            parameters[1],
        )


@pytest.mark.parametrize("victim", [0, 3])
def test_when_one_of_four_is_killed_the_others_end_in_time_and_all_go_on(tmp_path, victim):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert end(run_together(4, whole, 12)) == [0] * 4
    runs, deadline = run_together(4, killed, 12), time.monotonic() + 300
    while not list(killed.glob("checkpoints/1*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    start = time.monotonic()
    runs[victim].send_signal(signal.SIGKILL)
    statuses = end(runs)
    assert time.monotonic() - start < job.PEER_TIMEOUT_S + 20
    assert statuses.pop(victim) == -signal.SIGKILL
    assert statuses == [75] * 3
    assert end(run_together(4, killed, 12)) == [0] * 4
    assert losses(killed) == losses(whole)
    found, expected = load_run(killed), load_run(whole)
    assert found.step == expected.step == 60
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def test_an_error_of_process_0_ends_all_with_its_message(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(to_json(job.digits()), encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    done = launch(2, "train", config, "--workdir", tmp_path / "full")
    assert done.returncode == 1
    for index in range(2):
        assert f"[{index}] error: {tmp_path / 'full'} is not empty" in done.stdout

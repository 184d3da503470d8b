"""Runs of several processes from the command line: stopped, resumed by other numbers, measured."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import job
from tests.support.slim import ROOT
from tl_jax.config import to_json

pytestmark = [pytest.mark.slow, pytest.mark.full]


def launch(count: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command of tl-jax in some processes."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.launch.local", str(count), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
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


def test_an_error_of_process_0_ends_all_with_its_message(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(to_json(job.digits()), encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    done = launch(2, "train", config, "--workdir", tmp_path / "full")
    assert done.returncode == 1
    for index in range(2):
        assert f"[{index}] error: {tmp_path / 'full'} is not empty" in done.stdout

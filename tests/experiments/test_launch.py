"""The launcher of local processes: prefixes, and the status of the whole."""

import json
import os
import subprocess
import sys

import pytest

from experiments.launch import local
from tests.support import job
from tests.support.slim import ROOT
from tl_jax.config import to_json


@pytest.mark.parametrize(
    ("codes", "status"),
    [([0, 0], 0), ([75, -9], 75), ([75, 1], 1), ([-9, -9], 75), ([130, 130], 130), ([0, 2], 2)],
)
def test_the_status_is_that_of_an_error_or_says_resume(codes, status):
    assert local.exit_status(codes) == status


@pytest.mark.full
def test_every_process_runs_the_command_and_is_told_apart(capsys):
    assert local.main(["2", "frobnicate"]) == 2
    lines = capsys.readouterr().out.splitlines()
    for index in range(2):
        assert any(line.startswith(f"[{index}] error: unknown command") for line in lines)


@pytest.mark.full
def test_ray_trains_with_two_workers(tmp_path):
    pytest.importorskip("ray.train", reason='needs `pip install "ray[default,train]"`')
    config = tmp_path / "config.json"
    config.write_text(to_json(job.digits()), encoding="utf-8")
    command = [sys.executable, "-m", "experiments.launch.ray_train", "--ray-folder"]
    done = subprocess.run(
        [*command, tmp_path / "ray", "2", config, "--workdir", tmp_path / "run"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["validation"]["count"] == 269

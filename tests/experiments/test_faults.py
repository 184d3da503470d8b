"""The short form of the torture: runs that are killed end with the bits of runs left alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.slim import ROOT


@pytest.mark.slow
def test_killed_runs_are_not_lost_and_end_with_the_same_bits(tmp_path):
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "experiments.faults", "--kills", "2", "--jobs", "1"]
    done = subprocess.run(
        [*command, "--only", "plain", "--seed", "3", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["kills"] + row["stops"], row["lost"], row["differing"]) == (2, 0, 0), row["notes"]
    assert row["runs"] >= 1

"""The short form of the faults: runs that are disturbed end with the bits of runs left alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.slim import ROOT


@pytest.mark.full
def test_runs_are_not_lost_and_end_with_the_same_bits_whatever_happens(tmp_path):
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "experiments.faults", "--kills", "4", "--jobs", "1"]
    done = subprocess.run(
        [*command, "--only", "plain", "--seed", "3", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert [row["processes"] for row in found["kills"]] == [1, 2]
    for row in found["kills"]:
        assert (row["kills"] + row["stops"], row["lost"], row["differing"]) == (2, 0, 0), row
    assert [row["fault"] for row in found["damage"]] == ["cut off", "deleted", "one bit", "zeros"]
    assert {"full", "vanished"} <= {row["fault"] for row in found["disk"]}
    for row in found["damage"] + found["disk"]:
        assert (row["right"], row["same"]) == (row["trials"], row["runs"]), row

"""The benchmark of process starts: which moment it takes, what each process gets, and its table."""

import sys
import time

import pytest

from experiments.benchmarks import start

CODE = """
import json, os, sys, time
print("noise", file=sys.stderr)
if sys.argv[1:]:
    print("epoch 1/1  compiled, and one step, in 0:01", file=sys.stderr, flush=True)
    time.sleep(60)
here = os.environ["XDG_CACHE_HOME"]
print(json.dumps([time.time(), time.time() + ("shared" in here), time.time() + 2]))
"""


def test_a_process_says_when_its_stages_end(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of the user")
    command = [sys.executable, "-c", CODE]
    warm = start.start("tl_jax, warm", command, tmp_path / "shared")
    assert warm[1] > 1 and warm[2] > 2  # It has the shared cache.
    cold = start.start("tl_jax, cold", command, tmp_path / "shared")
    assert cold[1] < 1 < cold[2]
    assert len(warm) == 3


def test_a_training_run_is_ended_after_its_first_step(tmp_path):
    began = time.monotonic()
    [seconds] = start.start("train, warm", [sys.executable, "-c", CODE], tmp_path)
    assert 0 < seconds <= time.monotonic() - began < 30


def test_a_process_that_takes_no_step_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="'torch' ended without a step"):
        start.start("torch", [sys.executable, "-c", "print('nothing')"], tmp_path)


def test_the_table_has_a_line_for_each_side():
    row = {"median_seconds": 8.0, "seconds": [8.0], "speed_over_torch": 1.25}
    stages = {**row, "stage_ends": {"imports": 2.0, "first step": 8.0}}
    lines = start.table({"resnet50": {"tl_jax, warm": stages, "train, warm": row}}).splitlines()
    assert (
        lines[1].split() == "resnet50 tl_jax, warm 8.00 1.25 imports 2.00 first step 8.00".split()
    )
    assert " ".join(lines[2].split()) == "resnet50 train, warm 8.00 1.25"

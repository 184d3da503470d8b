"""Tests that the benchmark of probes compares like with like, and runs on a slim machine."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import probe
from experiments.benchmarks.probe import Side
from tests.support.slim import NOT_ON_A_SLIM_MACHINE, blocking, run_python

pytestmark = pytest.mark.slow

SIZES = "--images 8 --image-size 32 --batch-size 4 --heads 4 --features 64 --width 8 --blocks 2"


@pytest.mark.full
def test_the_result_is_written_with_its_machine_and_versions(tmp_path):
    probe.main(["--model", "test_resnet", "--results", str(tmp_path), *SIZES.split()])
    result = json.loads((tmp_path / "probe-cpu-test_resnet.json").read_text())
    for part in ("epoch", "sweep"):
        assert len(result[part]["ratio_by_block"]) == 2
        assert result[part]["ratio"] > 0
    assert set(result["epoch"]["seconds"]) == {"features", "backbone"}
    assert set(result["sweep"]["seconds"]) == {"at once", "one by one"}
    assert result["versions"]["jax"] == jax.__version__
    assert result["machine"]["cores"] >= 1


def test_sides_that_do_different_work_are_not_timed():
    same = {"one": Side(lambda: jnp.ones(3)), "other": Side(lambda: jnp.ones(3) + 1e-6)}
    probe.first_runs(same, 1e-4)
    for wrong in (jnp.ones(3) + 1e-2, jnp.full(3, jnp.nan)):
        with pytest.raises(RuntimeError, match="results of one and other differ by"):
            probe.first_runs({**same, "other": Side(lambda wrong=wrong: wrong)}, 1e-4)


def test_an_epoch_trains_the_head():
    setting = probe.Setting("cpu", "test_resnet", 8, 32, 4, 4, 64, 8, 1)
    sides, _ = probe.epoch_sides(setting)
    head = sides["features"].run()
    assert jnp.abs(head["kernel"]).max() > 1e-4  # It starts at zero.


def test_the_benchmark_imports_on_a_slim_machine():
    done = run_python(blocking(NOT_ON_A_SLIM_MACHINE) + "import experiments.benchmarks.probe")
    assert done.returncode == 0, done.stderr

"""Several JAX processes: their parts of a batch add up to the batch of a single process."""

import functools
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.support.loading import Numbered, assert_same, evaluate, take
from tests.support.process_order import BATCH, COUNTS, START, STEPS
from tests.support.slim import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "processes",
    [pytest.param(1, marks=pytest.mark.full), 2, pytest.param(4, marks=pytest.mark.full)],
)
def test_the_batches_of_jax_processes_add_up_to_those_of_one(tmp_path, processes):
    joined = run_processes(tmp_path, processes)
    for count in COUNTS:
        trained = take(Numbered(count), STEPS, batch_size=BATCH, start_step=START)
        evaluated = evaluate(count, batch_size=BATCH)
        for kind in ("none", "memory", "device", "split"):
            assert_same(joined[f"train {kind} {count}"], trained)
        for kind in ("none", "memory", "device"):
            batches = joined[f"eval {kind} {count}"]
            assert_same(batches, evaluated)
            seen = [batch["label"][batch["mask"]] for batch in batches]
            assert np.concatenate(seen).tolist() == list(range(count))


def run_processes(folder, processes):
    """Returns by name the batches that the processes have together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    program = "import sys, pathlib; from tests.support.process_order import main; " + (
        "main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
    )
    start = functools.partial(
        subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )  # fmt: skip
    arguments = [sys.executable, "-c", program, str(folder), coordinator]
    runs = [start([*arguments, str(i), str(processes)]) for i in range(processes)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * processes, "\n".join(outputs)
    saved = [np.load(folder / f"{i}.npz") for i in range(processes)]
    joined = {}
    for entry in saved[0].files:
        name, step, key = entry.rsplit(" ", 2)
        steps = joined.setdefault(name, [])
        if int(step) == len(steps):
            steps.append({})
        steps[int(step)][key] = np.concatenate([part[entry] for part in saved])
    return joined

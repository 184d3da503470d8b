"""Processes: workers that end with their run whatever ends it; JAX's, which add up to one."""

import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.data.loading.process_order import BATCH, COUNTS, START, STEPS, ByProcess
from tests.data.loading.test_host_batches import (
    PREPROCESS,
    Numbered,
    assert_same,
    evaluate,
    take,
    wait_until,
)
from tests.training.tiny import TinyNet, randomised
from tl_jax.config import Config, DataConfig
from tl_jax.data.loading import host_batches
from tl_jax.run import experiment
from tl_jax.training import sharding
from tl_jax.training.evaluator import Measure

ROOT = Path(__file__).parents[2]
ENDLESS = """
import atexit
import multiprocessing
import signal

from tests.data.loading.process_order import ByProcess
from tl_jax.data.loading.host_batches import train_batches

if __name__ == "__main__":
    # What a shell runs in the background ignores it, and so does what that starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before multiprocessing ends what is left by force.
    atexit.register(lambda: print(len(multiprocessing.active_children()), "workers are left"))
    batches = train_batches(
        ByProcess(5), batch_size=4, canvas=8, seed=0, workers=2, worker_type="process"
    )
    print("starting", flush=True)
    next(batches), next(batches)  # One of each worker.
    print("reading", flush=True)
    for _ in batches:
        pass
"""


@contextlib.contextmanager
def endless(tmp_path):
    """Runs the script above in a group of processes of its own."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def of_processes(count=13):
    return host_batches.train_batches(
        Numbered(count), batch_size=4, canvas=8, seed=0, workers=2, worker_type="process"
    )


@pytest.mark.parametrize("moment", ["starting", "reading"])
def test_an_interrupted_run_with_worker_processes_ends(tmp_path, moment):
    with endless(tmp_path) as run:
        while run.stdout.readline() != f"{moment}\n":
            pass
        time.sleep(1)  # Workers that are starting are importing by then.
        os.killpg(run.pid, signal.SIGINT)  # As Ctrl-C does: to all processes of the terminal.
        said, errors = run.communicate(timeout=60)
        assert said.splitlines()[-1] == "0 workers are left"
        assert run.returncode != 0
        assert errors.count("KeyboardInterrupt") == 1
        assert "leaked" not in errors
        wait_until(lambda: not is_alive(run.pid))


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    with endless(tmp_path) as run:
        assert run.stdout.readline() == "starting\n"
        assert run.stdout.readline() == "reading\n"
        run.kill()
        run.wait()
        wait_until(lambda: not is_alive(run.pid))


def test_no_destructor_in_python_can_swallow_an_interrupt():
    # Grain's arrays in shared memory have one, and an exception that it raises is ignored.
    with of_processes() as batches:
        for _ in range(3):
            assert {type(array) for array in next(batches).values()} == {np.ndarray}


def test_worker_processes_end_with_their_batches():
    batches = of_processes()
    expected = take(Numbered(13), 1)
    assert_same([next(batches)], expected)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []
    with pytest.raises(ValueError, match="closed iterator"):
        next(batches)
    assert_same([next(of_processes())], expected)  # Dropped, and not closed.
    wait_until(lambda: not multiprocessing.active_children())


def test_a_worker_that_is_killed_is_an_error_and_no_wait():
    with of_processes() as batches:
        next(batches)
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(RuntimeError, match="terminated unexpectedly with exit code -9"):
            while True:
                next(batches)
        with pytest.raises(RuntimeError, match="terminated unexpectedly"):
            next(batches)
    assert multiprocessing.active_children() == []


MESH = sharding.data_mesh(jax.devices()[:1])


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_evaluation_is_read_by_who_is_configured(worker_type):
    measure = Measure(
        TinyNet(), PREPROCESS, mesh=MESH, batch_size=2, workers=1, worker_type=worker_type
    )
    _, confusion = measure(randomised(TinyNet()), ByProcess(3))
    readers = confusion.sum(1)
    assert readers.tolist() == ([3, 0, 0] if worker_type == "thread" else [0, 3, 0])


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_recalibration_is_read_by_who_is_configured(worker_type):
    data = DataConfig(batch_size=2, workers=1, worker_type=worker_type)
    found = types.SimpleNamespace(
        config=Config(data=data), train=ByProcess(5), preprocess=PREPROCESS, mesh=MESH
    )
    batches = list(experiment._whole_batches(found))
    pixel = 0 if worker_type == "thread" else 1
    expected = (pixel / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    assert len(batches) == 2
    for batch in batches:
        np.testing.assert_allclose(batch[0, 0, 0], expected, rtol=1e-5)


@pytest.fixture(scope="module")
def one_process():
    """The batches of a single process: of training by number of examples, and of evaluation."""
    train = {
        count: take(Numbered(count), STEPS, batch_size=BATCH, start_step=START) for count in COUNTS
    }
    return train, {count: evaluate(count, batch_size=BATCH) for count in COUNTS}


@pytest.mark.parametrize(
    "processes",
    [pytest.param(1, marks=pytest.mark.full), 2, pytest.param(4, marks=pytest.mark.full)],
)
def test_the_batches_of_jax_s_processes_add_up_to_those_of_one(tmp_path, processes, one_process):
    joined = joined_of(tmp_path, processes)
    train, evaluated = one_process
    for count in COUNTS:
        for kind in ("none", "memory", "device", "split"):
            assert_same(joined[f"train {kind} {count}"], train[count])
        for kind in ("none", "memory", "device"):
            found = joined[f"eval {kind} {count}"]
            assert_same(found, evaluated[count])
            seen = [batch["label"][batch["mask"]] for batch in found]
            assert np.concatenate(seen).tolist() == list(range(count))


def joined_of(folder, processes):
    """Returns by name the batches that the processes have together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    program = "import sys, pathlib; from tests.data.loading.process_order import main; " + (
        "main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
    )
    begin = functools.partial(
        subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )  # fmt: skip
    arguments = [sys.executable, "-c", program, str(folder), coordinator]
    runs = [begin([*arguments, str(i), str(processes)]) for i in range(processes)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * processes, "\n".join(said)
    saved = [np.load(folder / f"{i}.npz") for i in range(processes)]
    joined = {}
    for entry in saved[0].files:
        name, step, key = entry.rsplit(" ", 2)
        steps = joined.setdefault(name, [])
        if int(step) == len(steps):
            steps.append({})
        steps[int(step)][key] = np.concatenate([part[entry] for part in saved])
    return joined

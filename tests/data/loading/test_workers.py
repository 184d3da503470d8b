"""Workers: the same batches from threads and processes, and no process outlives its batches."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest

from tests.support.loading import (
    PREPROCESS,
    Failing,
    Numbered,
    OddError,
    assert_same,
    evaluate,
    host_eval,
    host_train,
    take,
    wait_until,
)
from tests.support.process_order import ByProcess
from tests.support.slim import ROOT
from tests.support.tiny import TinyNet, randomised
from tl_jax.data.loading.options import LoadOptions
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator

PROCESSES = {"workers": 2, "worker_type": "process"}
ENDLESS = """
import atexit
import multiprocessing
import signal
import sys

from tests.support.loading import host_train
from tests.support.process_order import ByProcess

if __name__ == "__main__":
    # A shell that runs a command in the background makes it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # This runs before multiprocessing ends by force what is left.
    atexit.register(lambda: print(len(multiprocessing.active_children()), "workers are left"))
    batches = host_train(ByProcess(5), workers=int(sys.argv[1]), worker_type="process")
    print("starting", flush=True)
    next(batches)
    print("reading", flush=True)
    for _ in batches:
        pass
"""


@contextlib.contextmanager
def endless(tmp_path, workers):
    """Runs the script above in a process group of its own."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(workers)],
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "workers"), [("starting", 1), pytest.param("reading", 2, marks=pytest.mark.full)]
)
def test_ctrl_c_ends_a_run_with_worker_processes(tmp_path, moment, workers):
    with endless(tmp_path, workers) as run:
        while run.stdout.readline() != f"{moment}\n":
            pass
        time.sleep(1)  # Workers that are starting are importing by then.
        os.killpg(run.pid, signal.SIGINT)  # As Ctrl-C does: to all processes of the terminal.
        output, errors = run.communicate(timeout=60)
        assert output.splitlines()[-1] == "0 workers are left"
        assert run.returncode != 0
        assert errors.count("KeyboardInterrupt") == 1
        assert "leaked" not in errors
        wait_until(lambda: not is_alive(run.pid))


@pytest.mark.slow
def test_worker_processes_end_with_a_run_that_is_killed(tmp_path):
    with endless(tmp_path, 1) as run:
        assert run.stdout.readline() == "starting\n"
        assert run.stdout.readline() == "reading\n"
        run.kill()
        run.wait()
        wait_until(lambda: not is_alive(run.pid))


@pytest.mark.slow
def test_processes_read_the_batches_of_threads_and_end_with_them():
    expected = take(Numbered(13), 9)
    batches = host_train(Numbered(13), **PROCESSES)
    assert_same([next(batches) for _ in range(9)], expected)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_processes_fill_the_memory_cache_and_end_when_dropped():
    batches = host_train(Numbered(40), cache="memory", workers=1, worker_type="process")
    assert_same([next(batches)], take(Numbered(40), 1))
    assert len(multiprocessing.active_children()) == 1
    del batches
    wait_until(lambda: not multiprocessing.active_children())


@pytest.mark.slow
def test_a_worker_that_is_killed_raises_an_error():
    with contextlib.closing(host_train(Numbered(13), workers=1, worker_type="process")) as batches:
        next(batches)
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(ChildProcessError, match="a worker process ended .*data.workers"):
            while True:
                next(batches)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_an_error_of_a_worker_names_the_example(worker_type):
    source = Failing(9, split="validation")
    batches = host_eval(source, batch_size=3, workers=1, worker_type=worker_type)
    expected = OddError if worker_type == "thread" else RuntimeError
    with pytest.raises(expected) as caught:
        list(batches)
    message = "".join(traceback.format_exception_only(caught.value))
    assert "OddError: the disk is on fire" in message
    assert "while reading example 5 of split 'validation' of numbered" in message
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_the_evaluator_reads_with_the_configured_workers():
    options = LoadOptions(batch_size=2, workers=1, worker_type="process")
    mesh = sharding.data_mesh(sharding.data_mesh().devices[:1])
    evaluator = Evaluator(TinyNet(), PREPROCESS, mesh=mesh, load_options=options)
    _, confusion = evaluator(randomised(TinyNet()), ByProcess(3))
    assert confusion.sum(axis=1).tolist() == [0, 3, 0][: len(confusion)]


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("count", [1, 3, 13])
def test_threads_and_the_cache_change_nothing(workers, cache, count):
    options = {"workers": workers, "cache": cache, "start_step": 3}
    assert_same(take(Numbered(count), 20, **options), take(Numbered(count), 20, start_step=3))
    assert_same(evaluate(count, workers=workers, cache=cache), evaluate(count))


def test_closing_the_batches_ends_the_threads_after_what_they_are_reading():
    threads = threading.active_count()
    source = Numbered(1000)
    with contextlib.closing(iter(host_eval(source, batch_size=2))) as batches:
        assert next(batches)["label"].tolist() == [0, 1]
    with contextlib.closing(host_train(source, batch_size=2)) as batches:
        next(batches)
    wait_until(lambda: threading.active_count() <= threads)
    num_read = len(source.reads)
    assert num_read <= 2 * 2 * (1 + 2 + 1)
    time.sleep(0.05)
    assert len(source.reads) == num_read
    with pytest.raises(StopIteration):
        next(batches)


def test_batches_are_read_ahead_while_one_is_used():
    source = Numbered(40)
    with contextlib.closing(host_train(source, workers=2)) as batches:
        assert source.reads == []
        next(batches)
        wait_until(lambda: len(source.reads) == 4 * (1 + 2 + 1))


def test_workers_read_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)

    class Meeting(Numbered):
        def __getitem__(self, index):
            barrier.wait()
            return super().__getitem__(index)

    with contextlib.closing(host_train(Meeting(12), batch_size=1, workers=3)) as batches:
        assert next(batches)["label"] == take(Numbered(12), 1)[0]["label"][0]
        barrier.abort()

"""Signals: one line, a clean exit status, a checkpoint that is being written, and stops."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.slim import ROOT

WORK = """
import sys, threading, time
from tl_jax import interrupt
with interrupt.ends_the_process("interrupted; go on later"):
    {work}
"""
# What the main thread does when the signal comes: plain Python, and a call that is not interrupted.
BUSY = {
    "python": "print('go', flush=True)\n    while True: pass",
    "swallows": (
        "print('go', flush=True)\n"
        "    while True:\n"
        "        try: time.sleep(0.01)\n"
        "        except BaseException: pass"
    ),
    "native": ("print('go', flush=True)\n    import ctypes; ctypes.CDLL(None).usleep(60_000_000)"),
}


def start(work: str) -> subprocess.Popen:
    """Starts a process that can be interrupted, and returns when it has printed a line."""
    return run(WORK.format(work=work))


def run(code: str) -> subprocess.Popen:
    """Starts a program, and returns when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", list(BUSY))
def test_a_signal_ends_the_process_whatever_it_does(busy, number):
    process = start(BUSY[busy])
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "interrupted; go on later\n")


WRITES = """end = time.monotonic() + {seconds}
    interrupt.writes.add(lambda: time.monotonic() < end)
    print('go', flush=True)
    time.sleep(60)"""


def test_a_checkpoint_that_is_being_written_is_waited_for():
    begin = time.monotonic()  # Before the write begins, so that no delay makes it shorter.
    process = start(WRITES.format(seconds=1.5))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begin > 1.5


def test_a_second_signal_does_not_wait():
    process, begin = start(WRITES.format(seconds=60)), time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begin < 50


def test_afterwards_python_handles_signals_again():
    code = (
        "from tl_jax import interrupt\n"
        "import os, signal, time\n"
        # A shell lets its background jobs ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with interrupt.ends_the_process('no'): pass\n"
        "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(10); print('nothing')\n"
        "except KeyboardInterrupt: print('raised')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "raised\n")


def test_a_command_is_interrupted_in_one_line(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("import time\nprint('go', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "tl_jax", "train", str(file), "--workdir", str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "interrupted; the same command goes on from the newest checkpoint\n"


# ---- stops: SIGTERM and SIGUSR1 of a scheduler

ASKS = """
import sys, time
from tl_jax import interrupt
interrupt.GRACE_S = {grace}
with interrupt.ends_the_process("interrupted; go on later", resumes=True):
    with interrupt.stops() as asked:
        {work}
    time.sleep(0.3)
    print("saved", file=sys.stderr)
    sys.exit(interrupt.RESUME)
"""
SEES = "print('go', flush=True)\n        while not asked(): time.sleep(0.01)"
COMPILES = "print('go', flush=True)\n        while True: time.sleep(0.01)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_training_that_sees_the_signal_saves_and_ends_by_itself(number):
    process = run(ASKS.format(grace=30, work=SEES))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (75, "", "saved\n")


def test_training_that_does_not_see_it_ends_after_some_seconds():
    process, begin = run(ASKS.format(grace=1, work=COMPILES)), time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "interrupted; go on later\n")
    assert 0.9 < time.monotonic() - begin < 50


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(second, status):
    process, begin = run(ASKS.format(grace=60, work=COMPILES)), time.monotonic()
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.send_signal(second)
    assert process.wait(timeout=60) == status
    assert time.monotonic() - begin < 50


def test_before_training_such_a_signal_ends_the_command_at_once():
    code = ASKS.format(grace=60, work="pass")
    code = code.replace("time.sleep(0.3)", "print('go', flush=True); time.sleep(100)")
    process, begin = run(code), time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert time.monotonic() - begin < 50


def test_a_program_of_ones_own_asks_for_it():
    code = (
        "import os, signal, time\n"
        "from tl_jax import interrupt\n"
        "with interrupt.stops() as asked:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while not asked(): time.sleep(0.01)\n"
        "with interrupt.stops() as asked: print(asked())\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "False\n")

"""Signals: Ctrl-C ends a command at once; SIGTERM and SIGUSR1 let training save and end with 75.

Python raises KeyboardInterrupt in the main thread between two instructions. In a long compilation
that is much too late, in a callback from compiled code it is swallowed, and the interpreter that
then shuts down beside a thread that compiles crashes. A thread therefore waits for the signal, lets
a checkpoint that is being written be finished, and ends the process; nothing that the library
writes suffers from that, as nothing suffers from SIGKILL.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

RESUME = 75
"""The exit status that says "start me again, I go on": EX_TEMPFAIL of sysexits.h."""

GRACE_S = 20.0
"""Seconds in which training has to come to the end of a step after SIGTERM or SIGUSR1."""

# Functions that say whether a file is being written that is worth waiting for.
writes: set[Callable[[], bool]] = set()

# SIGUSR1 is what SLURM sends ahead of the end of a job (`--signal=USR1@120`).
_STOPS = (signal.SIGTERM, signal.SIGUSR1)
_LONGEST_WRITE_S = 120.0
_POLL_S = 0.05
_END = 0  # A byte that is no signal's number.

_asked = threading.Event()
_is_asking = False  # Whether a block of `stops` will see that a stop was asked for.
_is_watching = False


@contextlib.contextmanager
def ends_the_process(line: str, *, resumes: bool = False) -> Iterator[None]:
    """Ends the process with the status 130 (SIGTERM: 143) if it is interrupted in the block.

    A second signal does not wait for a checkpoint. Outside of the main thread, where Python handles
    no signals, this does nothing.

    Args:
      line: printed on standard error then.
      resumes: whether the same command goes on later: SIGTERM and SIGUSR1 then end it with
        `RESUME`, within a block of `stops` as is said there.
    """
    interrupts = (signal.SIGINT, *_STOPS) if resumes else (signal.SIGINT, signal.SIGTERM)
    with _watching(interrupts, line, resumes=resumes):
        yield


@contextlib.contextmanager
def stops() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM or SIGUSR1 has come since the block began.

    It is what `fit(..., should_stop=)` takes. Training then saves at the end of its step. If the
    block has not ended `GRACE_S` seconds after the signal (a step is being compiled, say) the
    process ends without saving, and a second signal ends it at once; both with `RESUME`.
    Outside of the main thread no signal is seen.

    Examples:
      >>> with stops() as asked:
      ...     asked()
      False
    """
    global _is_asking
    _asked.clear()
    line = "interrupted; the same call goes on from the newest checkpoint"
    watching = _watching(_STOPS, line, resumes=True)
    with contextlib.nullcontext() if _is_watching else watching:
        _is_asking = True
        try:
            yield _asked.is_set
        finally:
            _is_asking = False


@contextlib.contextmanager
def _watching(numbers: tuple[signal.Signals, ...], line: str, *, resumes: bool) -> Iterator[None]:
    """Lets a thread act on some signals in the block."""
    global _is_watching
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _ignore) for number in numbers}
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(
        target=_watch, args=(reader, numbers, line, resumes), name="interrupt", daemon=True
    )
    watch.start()
    _is_watching = True
    try:
        yield
    finally:
        _is_watching = False
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writer, bytes([_END]))
        watch.join()
        os.close(reader)
        os.close(writer)


def _ignore(*_: object) -> None:
    """A handler, without which the signal would not be written to the pipe."""


def _watch(reader: int, numbers: tuple[signal.Signals, ...], line: str, resumes: bool) -> None:
    """Waits for a signal's number in a pipe; other signals than those given may pass."""
    while (number := os.read(reader, 1)[0]) != _END:
        if number not in numbers:
            continue
        second, is_stop = None, resumes and number in _STOPS
        if is_stop and _is_asking:
            _asked.set()
            second = _wait(reader, lambda: _is_asking, GRACE_S)
            if second == _END:
                return
            if second is None and not _is_asking:
                continue  # Training has seen it, and the main thread ends the process.
        _say(line)
        if second is None:
            _wait(reader, lambda: False, 0.0)
        last = second or number
        end(RESUME if resumes and last in _STOPS else 128 + last)


def _wait(reader: int, is_needed: Callable[[], bool], limit: float) -> int | None:
    """Waits while a checkpoint is written, or something is needed for at most `limit` seconds.

    Returns:
      The number that came in the pipe meanwhile and ended the wait; None if nothing came.
    """
    start = time.monotonic()
    while True:
        waited = time.monotonic() - start
        is_writing = waited < _LONGEST_WRITE_S and any(write() for write in tuple(writes))
        if not (is_writing or (is_needed() and waited < limit)):
            return None
        if select.select([reader], [], [], _POLL_S)[0]:
            return os.read(reader, 1)[0]


def end(status: int, line: str | None = None) -> NoReturn:
    """Ends the process at once, whatever its threads do, and its children with it.

    Args:
      status: the exit status.
      line: printed on standard error before; None: nothing.
    """
    if line is not None:
        _say(line)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _say(line: str) -> None:
    """Prints a last line; what other threads print from here on is dropped."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        # A progress bar leaves the cursor behind it.
        print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)

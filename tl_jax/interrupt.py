"""Ctrl-C and SIGTERM in a command: the process ends at once, cleanly, whatever it is doing.

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
from collections.abc import Callable, Iterator

# Functions that say whether a file is being written that is worth waiting for.
writes: set[Callable[[], bool]] = set()

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_WRITE_S = 120.0
_POLL_S = 0.05
_END = 0  # A byte that is no signal's number.


@contextlib.contextmanager
def ends_the_process(line: str) -> Iterator[None]:
    """Ends the process with the status 130 (SIGTERM: 143) if it is interrupted in the block.

    A second signal does not wait for a checkpoint. Outside of the main thread, where Python handles
    no signals, this does nothing.

    Args:
      line: printed on standard error then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, line), name="interrupt", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writer, bytes([_END]))
        watch.join()
        os.close(reader)
        os.close(writer)


def _ignore(*_: object) -> None:
    """A handler, without which the signal would not be written to the pipe."""


def _watch(reader: int, line: str) -> None:
    """Waits for a signal's number in a pipe; other signals than those of `_SIGNALS` may pass."""
    while (number := os.read(reader, 1)[0]) not in _SIGNALS:
        if number == _END:
            return
    _say(line)
    waited = 0.0
    while any(is_writing() for is_writing in tuple(writes)) and waited < _LONGEST_WRITE_S:
        waited += _POLL_S
        if select.select([reader], [], [], _POLL_S)[0] and os.read(reader, 1)[0] in _SIGNALS:
            break
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


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

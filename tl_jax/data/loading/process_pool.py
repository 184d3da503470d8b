"""Processes that read batches, for sources whose own Python code takes most of the time.

Threads decode and resize in parallel, since Pillow and simplejpeg release the GIL, and need not
copy batches between processes: two threads read 1,004 JPEG images a second, two processes 870.
From a source whose Python code holds the GIL for 4 ms per image, two threads read 223 images a
second, two processes 428 (`python -m experiments.benchmarks.loader`, two cores).

Processes are spawned: a script that uses them needs `if __name__ == "__main__":`, each takes
seconds to start, and the source is copied to each.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker

import numpy as np

from tl_jax.data.loading.readers import HostBatch, Reader, read_batch

# The reader of a worker process; None in all others.
_reader: Reader | None = None


def start(reader: Reader, workers: int) -> ProcessPoolExecutor:
    """Starts processes whose tasks are calls of `read`; shut the pool down to end them."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_initialize, initargs=(reader,))
    with _interrupts_blocked():
        for _ in range(workers):
            pool.submit(int)  # One task each: the pool starts a process if none is idle.
    return pool


def read(indices: np.ndarray) -> HostBatch:
    """Reads a batch, in a worker process."""
    if _reader is None:
        raise RuntimeError("`read` was called outside of a worker process of this pool")
    try:
        return read_batch(_reader, indices)
    except Exception as error:
        raise _picklable(error) from None


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks Ctrl-C while processes are started: they inherit the block and never see the signal.

    Ctrl-C reaches all processes of a terminal, but only the main process must act on it: it closes
    the batches, which ends the workers.
    """
    resource_tracker.ensure_running()  # It would be started later, and unblock the signal then.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _initialize(reader: Reader) -> None:
    global _reader
    _reader = reader
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends a worker whose parent was killed and could not end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _picklable(error: Exception) -> Exception:
    """Returns the error, or one with its message if it would be lost between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # An error's class may fail in any way when it is copied.
        return RuntimeError("".join(traceback.format_exception_only(error)))
    return error

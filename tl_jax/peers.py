"""The other processes of a job: this one ends, and says why, when one of them fails or dies.

In a collective a process would wait for a dead one, perhaps for ever, and where the coordinator has
died JAX aborts from a thread of C++, with a page of its stack. Two threads watch instead. They ask
the coordination service whether a process has left the message of an error there, and which
processes are alive; an abort sleeps for some seconds, in which they end this process.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

import jax

from tl_jax import interrupt

_FAILED, _HEARD, _LEAVING = "tl_jax/failed", "tl_jax/heard", "tl_jax/leaving"
_POLL_MS = 1_000
_SECONDS_BETWEEN_LOOKS = 1.0
# What a process that fails like the others has to say so itself, and to close what it writes.
_SECONDS_TO_FAIL_TOO, _SECONDS_TO_UNWIND = 3.0, 30.0
_HEARD_MS = 10_000
LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000
"""No wait for another process is this long: one that died or failed ends it before."""

# Lines of JAX's coordination, which the messages of this module say better.
_NOISE = re.compile(rb"^[WEF]\d{4} .*(coordination_service|client\.h)")
_FATAL = b"JAX distributed service detected fatal errors"
_LOST = re.compile(
    "gloo|nccl|unavailable|connection (reset|closed|refused)|socket closed|broken pipe|"
    "coordination service|heartbeat|barrier",
    re.IGNORECASE,
)
# Where a program is started at once, JAX raises the runtime's error as a ValueError.
_STATUS = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|FAILED_PRECONDITION): ")
# As the devices start, JAX waits two minutes for each process to tell its own.
_NOT_STARTED = "local_topology"


class Watch:
    """Watches the other processes of a job, and tells them of an error of this one."""

    def __init__(self, client: Any, index: int, count: int) -> None:
        """Starts to watch.

        Args:
          client: of JAX's coordination service, with recoverability.
          index, count: this process, and how many there are.
        """
        self._client, self._index, self._count = client, index, count
        self._left, self._told, self._heard, self._unwinds = (threading.Event() for _ in range(4))
        for target in (self._listen, self._look):
            threading.Thread(target=target, name="peers", daemon=True).start()

    def tell(self, error: BaseException) -> None:
        """Ends the other processes with the message of an error of this one."""
        if self._unwinds.is_set() or self._left.is_set():
            return
        self._unwinds.set()
        if is_lost_connection(error):
            # Another process has failed, and said so, or has died.
            self._left.wait(_SECONDS_TO_FAIL_TOO)
            self._end_as_resumable(f"the connection was lost: {_first_line(error)}")
        text = json.dumps({"process": self._index, "message": str(error) or repr(error)})
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another process was first.
            self._client.key_value_set(_FAILED, text)
        self._heard.wait(_HEARD_MS / 1000)

    def leave(self) -> None:
        """Waits for all processes to come to their end, and leaves the job."""
        if self._unwinds.is_set() or self._left.is_set():
            return
        self._client.wait_at_barrier(_LEAVING, LONGEST_WAIT_MS)
        self._left.set()
        if self._index == 0:
            # The others must not see the coordinator go; this returns when they have gone.
            time.sleep(_SECONDS_BETWEEN_LOOKS / 10)
            self._client.get_live_nodes(list(range(self._count)))
        jax.distributed.shutdown()

    def fatal(self) -> None:
        """Ends the process, which JAX is about to abort."""
        if not self._left.is_set():
            self._end_as_resumable("process 0, or the way to it, is gone")

    def _listen(self) -> None:
        """Waits for the message of a process that failed."""
        while not self._left.is_set():
            try:
                text = self._client.blocking_key_value_get(_FAILED, _POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return self._without_coordinator()
            else:
                return self._end_as_failed(json.loads(text))
        return None

    def _end_as_failed(self, failed: dict[str, Any]) -> None:
        self._told.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # A process has gone.
            self._client.wait_at_barrier(_HEARD, _HEARD_MS)
        self._heard.set()
        if failed["process"] == self._index:
            return
        time.sleep(_SECONDS_TO_FAIL_TOO)
        if self._unwinds.is_set():
            time.sleep(_SECONDS_TO_UNWIND)
        interrupt.end(1, f"error: process {failed['process']} failed: {failed['message']}")

    def _look(self) -> None:
        """Asks again and again who is alive; JAX's heartbeats tell."""
        everybody = list(range(self._count))
        while not self._left.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                alive = self._client.get_live_nodes(everybody)
            except jax.errors.JaxRuntimeError:
                return self._without_coordinator()
            dead = [str(each) for each in everybody if each not in alive]
            # One that has left is no more alive, and this process may be about to leave.
            if dead and not self._left.wait(_SECONDS_BETWEEN_LOOKS):
                self._end_as_resumable(f"process {', '.join(dead)} died")
        return None

    def _without_coordinator(self) -> None:
        if not self._left.wait(_SECONDS_BETWEEN_LOOKS):
            self._end_as_resumable("process 0 died, or cannot be reached any more")

    def _end_as_resumable(self, cause: str) -> None:
        if self._told.is_set():  # What fails is gone soon after, and is no process that died.
            return
        line = f"{cause}; start all processes again to go on from the newest checkpoint"
        interrupt.end(interrupt.RESUME, line)


def is_lost_connection(error: BaseException) -> bool:
    """Returns whether JAX raised an error, or the cause of one, for want of another process."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        is_of_jax = isinstance(cause, jax.errors.JaxRuntimeError) or _STATUS.match(text)
        if (is_of_jax and _LOST.search(text)) or _NOT_STARTED in text:
            return True
        cause = cause.__cause__
    return False


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def sleep_before_aborts() -> None:
    """Lets a thread that aborts the process sleep before, so that another one can end it well."""
    if sys.platform == "win32":
        return
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    # The handler of a signal is called with its number, which is 6: so many seconds it sleeps.
    # Nothing else could be called there, as the thread may hold any lock.
    handler = ctypes.cast(library.sleep, ctypes.c_void_p).value
    library.signal(int(signal.SIGABRT), handler)


def filter_messages(on_fatal: Any) -> None:
    """Leaves out of standard error what JAX's coordination writes there past Python.

    Args:
      on_fatal: called when it writes that it will abort the process.
    """
    real = os.dup(2)
    reader, writer = os.pipe()
    sys.stderr.flush()
    os.dup2(writer, 2)
    os.close(writer)
    # Python's own lines go their way without the pipe: a process that ends leaves none in it.
    sys.stderr = os.fdopen(real, "w", encoding="utf-8", errors="backslashreplace", buffering=1)

    def forward() -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if _FATAL in line:
                    on_fatal()
                    return
                if not _NOISE.match(line):
                    os.write(real, line)

    threading.Thread(target=forward, name="stderr", daemon=True).start()

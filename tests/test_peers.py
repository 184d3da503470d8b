"""What ends a process when another one fails, dies or leaves; by a key store in memory."""

import threading
import time
from collections.abc import Iterator

import jax
import pytest

from tl_jax import interrupt, peers
from tl_jax.peers import Watch

# Of a thread that has ended its process.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

LIMIT_S = 30  # Until what has to happen has happened, on however busy a machine.


class Service:
    """The coordination service, as far as a watch uses it."""

    def __init__(self, count: int) -> None:
        self.alive, self.is_gone, self.is_over = list(range(count)), False, False
        self._values: dict[str, str] = {}
        self._barriers: dict[str, threading.Barrier] = {}
        self._count, self._changed = count, threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self._changed:
            if key in self._values:
                raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
            self._values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        self._check()
        with self._changed:
            if self._changed.wait_for(lambda: key in self._values, 0.05):
                return self._values[key]
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

    def wait_at_barrier(self, name: str, milliseconds: int) -> None:
        with self._changed:
            barrier = self._barriers.setdefault(name, threading.Barrier(self._count))
        barrier.wait(LIMIT_S)

    def get_live_nodes(self, nodes: list[int]) -> list[int]:
        self._check()
        return [node for node in nodes if node in self.alive]

    def _check(self) -> None:
        if self.is_over:
            raise SystemExit
        if self.is_gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")


@pytest.fixture
def service() -> Iterator[Service]:
    """The service of a job of three processes; in the end all that watch are gone."""
    made = Service(3)
    yield made
    made.is_over = True
    for thread in threading.enumerate():
        if thread.name == "peers":
            thread.join(LIMIT_S)


@pytest.fixture
def ended(monkeypatch, service) -> list[tuple[int, str]]:
    """The statuses and last lines of processes that a watch has ended; each has two threads."""
    found: list[tuple[int, str]] = []

    def end(status: int, line: str) -> None:
        if not service.is_over:
            found.append((status, line))
        raise SystemExit  # Of the thread.

    monkeypatch.setattr(interrupt, "end", end)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    for name in ("_SECONDS_BETWEEN_LOOKS", "_SECONDS_TO_FAIL_TOO", "_SECONDS_TO_UNWIND"):
        monkeypatch.setattr(peers, name, 0.02)
    return found


def wait_for(ended: list, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(ended) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_an_error_of_one_ends_the_others_with_its_message(service, ended):
    watches = [Watch(service, index, 3) for index in range(3)]
    watches[1].tell(ValueError("image 7 is damaged"))
    wait_for(ended, 2)
    assert ended == [(1, "error: process 1 failed: image 7 is damaged")] * 2


def test_the_death_of_one_ends_the_others_as_resumable(service, ended):
    for index in (0, 2):
        Watch(service, index, 3)
    service.alive.remove(1)
    wait_for(ended, 2)
    again = "start all processes again to go on from the newest checkpoint"
    assert ended == [(75, f"process 1 died; {again}")] * 2


def test_without_the_first_process_the_others_end_as_resumable(service, ended):
    Watch(service, 1, 3)
    service.is_gone = True
    wait_for(ended, 1)
    assert ended[0][0] == 75
    assert ended[0][1].startswith("process 0 died, or cannot be reached any more; start all")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection reset by peer"),
        ValueError("UNKNOWN: Gloo AllGather failed: pair.cc:547 Connection closed by peer"),
        RuntimeError("Unable to initialize backend: GetKeyValue() timed out: local_topology/cpu/1"),
    ],
)
def test_a_lost_connection_is_no_error_of_this_process(service, ended, error):
    first, *_ = (Watch(service, index, 3) for index in range(3))
    with pytest.raises(SystemExit):
        first.tell(error)
    time.sleep(0.2)  # In which the others would hear of an error.
    ((status, line),) = ended
    assert (status, line.startswith("the connection was lost: ")) == (75, True)


def test_those_that_leave_together_end_nobody(service, ended):
    watches = [Watch(service, index, 3) for index in range(3)]
    threads = [threading.Thread(target=watch.leave) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    service.alive.clear()
    time.sleep(0.2)
    assert ended == []

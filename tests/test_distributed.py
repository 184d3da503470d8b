"""Several processes of a job: what they agree on, how they start, and how an error ends all."""

import json
import signal
import socket
import time

import numpy as np
import pytest

from tests.support import job
from tl_jax import distributed
from tl_jax.run.fit import fit

CHECK = "import pathlib, sys; from tests.support.job import check_all as main; " + (
    "main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
)
FAIL = """
import sys, time
from tl_jax import distributed
index = int(sys.argv[1])
distributed.initialize(sys.argv[2], start_timeout=200, peer_timeout=int(sys.argv[3]))
distributed.barrier("begun")
print("begun", flush=True)
if sys.argv[4] == "raises" and index == 1:
    raise ValueError("image 7 is damaged")
distributed.agree(None) if index == 0 and sys.argv[4] == "dies" else distributed.barrier("never")
time.sleep(300)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes found, and their folder."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    runs = [job.start(CHECK, folder, i, f"127.0.0.1:{port},2,{i}") for i in range(2)]
    outputs = [run.communicate(timeout=400) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert "coordination_service" not in outputs[0][1]
    found = [json.loads((folder / f"{i}.json").read_text(encoding="utf-8")) for i in range(2)]
    return folder, found


@pytest.mark.slow
def test_processes_agree(pair):
    _, found = pair
    for each in found:
        assert each["processes"] == 2
        assert each["agreed"] == [["process", 0]] * 2
        assert each["gathered"] == [0, 1]
        assert each["flags"] == [True, False]
        assert each["first"] == "by 0"
        kind, message = each["raised"]
        assert (kind, "no number" in message) == ("ValueError", True)


@pytest.mark.slow
def test_differences_are_named_in_all_processes(pair):
    _, found = pair
    assert found[0]["unequal"] == found[1]["unequal"]
    kind, message = found[0]["unequal"]
    assert kind == "ValueError"
    assert "process 1 does not have the tree of process 0" in message
    assert "b: int" in message
    assert "a:" not in message
    for each in found:
        assert "train.epochs: 1 != 2" in each["other configuration"][1]
        assert "does not have the data of process 0" in each["other data"][1]
        assert "train.digest" in each["other data"][1]
        assert "versions.jax: 0 != 1" in each["other libraries"][1]
        assert "does not have the initial variables of process 0" in each["other variables"][1]
        assert "process 1 on" in each["not shared"][1]
        assert "a folder that all of them share" in each["not shared"][1]


@pytest.mark.slow
def test_trees_are_put_on_all_devices(pair):
    import jax

    _, found = pair
    assert [each["rows"] for each in found] == [[0.0, 1.0], [2.0, 3.0]]
    expected = 18 + float(jax.random.uniform(jax.random.key(7)))
    assert [each["computed"] for each in found] == pytest.approx([expected] * 2)


@pytest.mark.slow
def test_two_processes_train_as_one(pair, tmp_path):
    """Process 1 would have stopped at once (`job.check_all`); process 0 decides."""
    folder, found = pair
    report = fit(job.digits(), tmp_path / "alone")
    alone = report["metrics"]["validation"]
    for each in found:
        together = each["report"]["validation"]
        assert together["count"] == alone["count"] == 269
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    written = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    assert written["metrics"] == found[0]["report"]
    assert not list((folder / "run").glob("*.part"))
    # The run of two processes is one that a single process can use and go on with.
    assert fit(job.digits(), folder / "run")["metrics"] == found[0]["report"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "victim", "status"),
    [
        ("raises", None, 1),
        pytest.param("dies", 0, 75, marks=pytest.mark.full),
        pytest.param("dies", 1, 75, marks=pytest.mark.full),
    ],
)
def test_one_that_fails_or_dies_ends_the_others(how, victim, status):
    port = free_port()
    runs = [job.start(FAIL, i, f"127.0.0.1:{port},2,{i}", 20, how) for i in range(2)]
    for run in runs:
        assert run.stdout.readline() == "begun\n"
    start = time.monotonic()
    if victim is not None:
        runs[victim].send_signal(signal.SIGKILL)
    survivor = runs[0 if victim is None else 1 - victim]
    error = survivor.communicate(timeout=100)[1]
    assert survivor.returncode == status, error
    assert time.monotonic() - start < 60
    runs[1 if victim is None else victim].wait(timeout=60)
    assert "stack trace" not in error
    if how == "raises":
        assert "error: process 1 failed: image 7 is damaged" in error
    else:
        assert f"process {victim} died" in error or "is gone" in error
        assert "start all processes again" in error


@pytest.mark.parametrize(
    "where", ["", "host", "host:1", "host:1,2", "host:0,2,0", "host:1,2,2", "host:99999,2,0"]
)
def test_places_that_cannot_be_read_are_refused(where):
    with pytest.raises(ValueError, match=f"got --distributed {where}; expected auto or HOST:PORT"):
        distributed.initialize(where)


def test_joining_after_the_first_use_of_jax_is_refused():
    np.asarray(distributed.put(np.ones(2), None))
    with pytest.raises(ValueError, match="JAX was used before the processes were joined"):
        distributed.initialize("127.0.0.1:1234,2,0")


def test_too_short_times_are_refused():
    with pytest.raises(ValueError, match="peer_timeout=1; expected 5 seconds or more"):
        distributed.initialize("127.0.0.1:1234,2,0", peer_timeout=1)

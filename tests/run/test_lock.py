"""The lock of a run's folder: a second process, one that was killed, folders that are left."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tl_jax.run import lock
from tl_jax.run.lock import FolderInUseError, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
sys.path.insert(0, "tl_jax/run")
import lock

with lock.locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_of_the_first_and_a_killed_one_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        expected = f"process {holder.pid} on {socket.gethostname()}"
        with pytest.raises(FolderInUseError, match=expected), locked(tmp_path):
            pass
        holder.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_two_calls_of_one_process_exclude_each_other(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError, match="--workdir"), locked(tmp_path):
        pass


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_is_named(name, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="is a file; take another --workdir"), locked(tmp_path / name):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(OSError, match="is a link that leads nowhere"), locked(tmp_path / "link"):
        pass


def test_without_locks_of_the_file_system_a_file_names_the_process(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(descriptor: int, how: int) -> None:
            raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock, "fcntl", NoLocks)
    with locked(tmp_path):
        expected = rf"process {os.getpid()} .*if it is gone, delete .*run\.pid"
        with pytest.raises(FolderInUseError, match=expected), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
    ended = subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"])
    holder = {"pid": int(ended), "host": socket.gethostname(), "since": "then"}
    (tmp_path / "run.pid").write_text(json.dumps(holder))
    with locked(tmp_path):
        pass
    (tmp_path / "run.pid").write_text(json.dumps(holder | {"host": "another"}))
    with pytest.raises(FolderInUseError, match="on another has"), locked(tmp_path):
        pass

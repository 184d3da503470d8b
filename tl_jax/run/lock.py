"""The lock of a run's folder: one process trains in it, and a second one is told which."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where a file that names the process takes its place.
    fcntl = None  # type: ignore[assignment]

_LOCK, _HOLDER = "run.lock", "run.pid"
FILES = frozenset({_LOCK, _HOLDER})
"""The files of a lock, which a killed process leaves in its folder."""

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class FolderInUseError(OSError):
    """Another process trains in the folder; the message names it."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder during the block; the folder is created if it is missing.

    The lock is the kernel's (`flock`) and ends with its process, however that ends. Where the file
    system has none, a file names the process, and counts as long as that process lives. In a folder
    that cannot be written to nothing can be trained, and nothing is locked.

    A folder that was created is removed again if the block leaves nothing in it.

    Raises:
      FolderInUseError: if another process, or another call in this one, holds the lock.
      OSError: if the folder cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        release = _take(folder)
        try:
            yield
        finally:
            release()
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # It is not empty.
                each.rmdir()


def _take(folder: Path) -> Callable[[], None]:
    """Takes the lock of a folder, and returns what releases it."""
    while True:
        _create(folder)
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # A process that held the folder before has just removed it.
        except OSError as error:
            if error.errno in _UNWRITABLE:
                return lambda: None
            raise
        try:
            return _lock(folder, descriptor)
        except _RemovedError:
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise


class _RemovedError(Exception):
    """The file was removed by its last holder before it was locked here."""


def _lock(folder: Path, descriptor: int) -> Callable[[], None]:
    path = folder / _LOCK
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no flock")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(folder, _read(path), "") from error
    except OSError:
        path.unlink(missing_ok=True)
        release_file = _take_by_file(folder)
        os.close(descriptor)
        return release_file
    if not _is_at(path, descriptor):
        raise _RemovedError
    os.ftruncate(descriptor, 0)
    os.write(descriptor, _this_process().encode())

    def release() -> None:
        path.unlink(missing_ok=True)
        os.close(descriptor)

    return release


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _take_by_file(folder: Path) -> Callable[[], None]:
    """Takes a folder by a file that names the process, for file systems without `flock`."""
    path = folder / _HOLDER
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(_this_process())
        except FileExistsError:
            holder = _read(path)
            if not _has_ended(holder):
                raise _in_use(folder, holder, f"; if it is gone, delete {path}") from None
            path.unlink(missing_ok=True)
        else:
            return lambda: path.unlink(missing_ok=True)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        what = "is a link that leads nowhere" if folder.is_symlink() else "is a file"
        raise OSError(
            f"{folder}, or a part of this path, {what}; take another --workdir"
        ) from error
    except OSError as error:
        raise OSError(
            f"the folder {folder} cannot be created ({error.strerror}); take another --workdir"
        ) from error


def _this_process() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """Returns who holds a lock; {} if the file is gone or not written yet."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Returns whether the process of a lock is known to have ended; of another host it is not."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or fcntl is None:
        return False  # Windows has no signal 0, which only asks.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _in_use(folder: Path, holder: dict[str, Any], remedy: str) -> FolderInUseError:
    who = "another process trains in it"
    if holder:
        who = (
            f"process {holder.get('pid')} on {holder.get('host')} has trained in it since "
            f"{holder.get('since')}"
        )
    return FolderInUseError(
        f"{folder} is in use: {who}. Wait for it or stop it, or take another --workdir{remedy}"
    )

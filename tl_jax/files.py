"""Paths that users give, atomic writes, hashes of files, and the folder of caches."""

import contextlib
import functools
import hashlib
import json
import math
import mmap
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tl_jax import arguments


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: it holds the old text or the new one, never a part of it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Returns a value as JSON, in which numbers that are not finite are null: JSON has no NaN.

    Examples:
      >>> json_text({"loss": float("nan"), "counts": (1, 2)})
      '{"loss": null, "counts": [1, 2]}'
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text as `json.loads`, which fails otherwise on deep nesting.

    Raises:
      json.JSONDecodeError: if it is not JSON, or nested more deeply than Python's own limit.

    Examples:
      >>> parse_json('{"counts": [1, 2]}')
      {'counts': [1, 2]}
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names a file in an OSError that does not name it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        # An error without a number has a message of its own.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` at the end of the block.

    If the block raises, the temporary file is removed and `path` stays as it was. Several processes
    or threads may write the same `path`: each gets a temporary path of its own, and the last one to
    end wins.

    Examples:
      >>> with replacing(Path("new_folder/notes.txt")) as part:
      ...     _ = part.write_text("done")
      >>> Path("new_folder/notes.txt").read_text()
      'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with naming(path):
            yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # Empty files cannot be mapped.
            return hashlib.sha256().hexdigest()
        # One call, during which the GIL is released.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()


# Of more files than these, on a disk that has to seek, reading a block of each would take too long.
_MOST_READ = 50_000
_BLOCK = 4096


def marks(paths: Sequence[Path]) -> list[str]:
    """Returns for each file what cheaply tells that its content was replaced.

    It is the file's size, and for up to 50,000 files the hash of a block in their middle too, after
    a dash: uncompressed images of one shape all have one size.

    Examples:
      >>> Path("a.txt").write_text("one"), Path("b.txt").write_text("two")
      (3, 3)
      >>> marks([Path("a.txt"), Path("b.txt")])
      ['3-7692c3ad', '3-3fc4ccfe']
    """
    return [_mark(path, reads=len(paths) <= _MOST_READ) for path in paths]


def _mark(path: Path, *, reads: bool) -> str:
    size = path.stat().st_size
    if not reads:
        return str(size)
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, (size - _BLOCK) // 2))
        return f"{size}-{hashlib.sha256(file.read(_BLOCK)).hexdigest()[:8]}"


# A path makes one slash of the two; one letter is a drive of Windows.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is an address, such as "gs://bucket/run", as text or as a Path.

    Examples:
      >>> is_address("https://a.org/x.pth"), is_address(Path("gs://bucket")), is_address("C:/x")
      (True, True, False)
    """
    return _ADDRESS.match(os.fspath(path)) is not None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path that a user gave, with `~` or `~USER` at its start replaced by that home.

    A shell does this only where the `~` begins a word: not in `folder:~/photos`, `--to=~/out`, a
    configuration file or a call from Python. Every path of a user goes through this function, or
    through `user_address` where it may be an address such as "gs://...".

    Raises:
      TypeError: if it is no path.
      ValueError: if the home is not known.

    Examples:
      >>> user_path("~/photos") == Path.home() / "photos"
      True
    """
    arguments.path("the path", path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read: the home folder is not known ({error}); write the "
            "whole path, or set the variable HOME"
        ) from error


def user_address(address: str | os.PathLike[str]) -> str:
    """Returns an address that a user gave: as it is with "://" in it, otherwise as `user_path`.

    Examples:
      >>> user_address("gs://bucket/~set")
      'gs://bucket/~set'
    """
    arguments.path("the address", address)
    text = os.fspath(address)
    return text if "://" in text else str(user_path(text))


def cache_dir() -> Path:
    """Returns the folder of cached files, which exists and can be written to.

    It is `tl_jax` below the folder that the variable XDG_CACHE_HOME names, or below `~/.cache`. If
    that is unwritable, or there is no home, it is a temporary folder: caches are then made again
    where that is emptied, and a line on standard error says so once.
    """
    return _cache_dir(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


def write_cache(path: Path, text: str) -> None:
    """Writes a file that can be made again, as `write_text`; goes on without it if it cannot be.

    A line on standard error says so once for each folder.
    """
    try:
        write_text(path, text)
    except OSError as error:
        say_once(f"note: {path.parent} cannot be written to ({error.strerror}); nothing is cached")


@functools.cache
def _cache_dir(xdg_cache_home: str | None, home: str | None) -> Path:
    del home  # Read by `Path.expanduser`; an argument, so that a change of it is noticed.
    try:
        wanted = Path(xdg_cache_home or "~/.cache").expanduser() / "tl_jax"
        _check_writable(wanted)
    except (OSError, RuntimeError) as error:
        folder = _temporary_cache()
        say_once(
            f"note: no cache can be kept in the home folder ({error}); {folder} is used instead "
            "(the variable XDG_CACHE_HOME names another folder)"
        )
        return folder
    return wanted


def _check_writable(folder: Path) -> None:
    """Creates a folder if it is missing; raises an OSError if no file can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _temporary_cache() -> Path:
    """Returns a folder of this user's below the temporary one, the same for every process."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"tl_jax-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_writable(folder)
        if not hasattr(os, "getuid") or folder.stat().st_uid == user:
            return folder
    except OSError:
        pass  # Somebody else's folder, or a file, of that name.
    return Path(tempfile.mkdtemp(prefix="tl_jax-"))


@functools.cache
def say_once(line: str) -> None:
    """Prints a line on standard error, unless it was printed before."""
    print(line, file=sys.stderr)

"""Compiled programs that are kept on disk, so that the next process starts without compiling."""

import contextlib
import hashlib
import os
import zlib
from pathlib import Path

import jax

from tl_jax import files, processor

# The most that is kept, in gigabytes; 0 keeps nothing.
_SWITCH = "TL_JAX_COMPILATION_CACHE_GB"
_DEFAULT_GB = 2.0
# An entry is read in a few milliseconds; what compiles nearly as fast is not worth one. JAX's
# default is 1 s.
_SHORTEST_SECONDS, _SHORTEST_OF_JAX = 0.01, 1.0
# The jax options that are set here, unless the user has set them.
_FOLDER = "jax_compilation_cache_dir"
_SHORTEST = "jax_persistent_cache_min_compile_time_secs"
# How an entry begins where the library zstandard is installed; otherwise JAX packs with zlib.
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def enable() -> Path | None:
    """Lets JAX keep the programs that this process compiles, for itself and for later processes.

    They are in `compiled` below `tl_jax.files.cache_dir`, in a folder for this kind of processor
    and number of cores, because they may hold instructions that another one lacks. What was not
    used for longest is removed where they exceed the limit of the variable
    TL_JAX_COMPILATION_CACHE_GB, which is 2; 0 turns the cache off. Nothing happens if the user has
    chosen a folder, or none, with the variable JAX_COMPILATION_CACHE_DIR or with `jax.config`, or
    has turned JAX's cache off.

    A second call changes nothing. A cache that cannot be used never ends a run: JAX compiles then.

    Returns:
      The folder; None if this function chose none.

    Raises:
      ValueError: if the variable is no number, or negative.
    """
    limit = _limit()
    if not limit or _is_decided_by_the_user():
        return None
    root = files.cache_dir() / "compiled"
    folder = root / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(root, int(limit * 1e9))
    except OSError as error:
        files.say_once(f"note: compiled programs are not kept ({error})")
        return None
    jax.config.update(_FOLDER, str(folder))
    is_default = jax.config.values[_SHORTEST] == _SHORTEST_OF_JAX
    if is_default and _SHORTEST.upper() not in os.environ:
        jax.config.update(_SHORTEST, _SHORTEST_SECONDS)
    return folder


def _limit() -> float:
    text = os.environ.get(_SWITCH) or str(_DEFAULT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(
            f"got {_SWITCH}={text}; expected the gigabytes that compiled programs may take on "
            "disk, such as 2, or 0 to keep none"
        )
    return limit


def _is_decided_by_the_user() -> bool:
    return (
        _FOLDER.upper() in os.environ
        or jax.config.values[_FOLDER] is not None
        or not jax.config.values["jax_enable_compilation_cache"]
    )


def _processor() -> str:
    """Returns a short name of this kind of processor: its model, its features, and its cores.

    A program for a CPU is divided over the cores that the process may use when it is compiled.
    """
    parts = f"{processor.num_cores()}\n{processor.description()}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _tidy(root: Path, limit: int) -> None:
    """Removes entries that are damaged, and those used least recently if all exceed the limit.

    JAX itself would never replace a damaged one, such as a full disk leaves: each start would warn
    of it and compile. Its own limit takes a lock for every access, needs the library filelock, and
    writes nothing more once a process was killed between the two files of an entry.
    """
    mark = root / "tidied"
    looked = mark.stat().st_mtime if mark.exists() else 0.0
    mark.touch()
    entries = []
    for path in root.glob("*/*-cache"):
        with contextlib.suppress(OSError):  # Another process may be tidying too.
            status = path.stat()
            if status.st_mtime >= looked - 1 and not _is_whole(path.read_bytes()):
                path.unlink()
                continue
            entries.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def _is_whole(entry: bytes) -> bool:
    """Returns whether an entry can be unpacked; True for compression that Python has no part in."""
    if entry.startswith(_ZSTANDARD):
        return True
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True

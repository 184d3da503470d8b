"""Atomic writes, hashes of files, and the folder of caches."""

import contextlib
import hashlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: it holds the old text or the new one, never a part of it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


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


def cache_dir() -> Path:
    """Returns the folder of cached files, `~/.cache/tl_jax`."""
    return Path.home() / ".cache" / "tl_jax"

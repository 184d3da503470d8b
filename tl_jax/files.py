"""Files that are there whole or not at all, their hashes, and where caches are kept."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: a stop in the middle leaves the one that was there."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to; at the end of the block it takes the place of `path`.

    If the block raises, what it wrote is removed and `path` stays as it was. Processes may do the
    same at the same time: each has a path of its own, and the last one to end wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Returns the folder where results that can be made again are kept between runs."""
    return Path.home() / ".cache" / "tl_jax"

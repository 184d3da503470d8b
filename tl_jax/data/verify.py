"""Decodes every file of a split once, before training, to find those that cannot be decoded."""

import contextlib
import contextvars
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tl_jax.data import decode

_postponed = contextvars.ContextVar("postponed", default=False)


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Within, `find_corrupt` decodes nothing: whoever opens a source decodes its files himself."""
    token = _postponed.set(True)
    try:
        yield
    finally:
        _postponed.reset(token)


def find_corrupt(paths: Sequence[Path], record: Path) -> dict[Path, str]:
    """Returns the files that cannot be decoded, each with the reason, in the order of `paths`.

    Args:
      paths: image files; one that has vanished, or a link that leads nowhere, is corrupt.
      record: JSON file of the files found good before, by size and time of change: only new and
        changed files are decoded. It is replaced as a whole, so runs may share it.
    """
    if _postponed.get():
        return {}
    known = _read(record)
    stamps = {path: _stamp(path) for path in paths}
    unknown = [path for path in paths if known.get(str(path)) != stamps[path]]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        reasons = dict(zip(unknown, pool.map(_reason, unknown), strict=True))
    corrupt = {path: reason for path, reason in reasons.items() if reason}
    good = {str(path): stamps[path] for path in unknown if path not in corrupt}
    if good:
        _replace(record, known | good)
    return corrupt


def _read(record: Path) -> dict[str, list[int]]:
    """Returns what a record holds: nothing, if it is not there or damaged."""
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []  # It is in no record, so it is opened, and the reason found then.
    return [status.st_size, status.st_mtime_ns]


def _reason(path: Path) -> str:
    try:
        decode.decode(path)
    except decode.CorruptImageError as error:
        return error.reason
    except FileNotFoundError:
        return "there is no such file, or it is a link that leads nowhere"
    return ""


def _replace(record: Path, content: dict[str, list[int]]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    part = record.with_name(f"{record.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content))
    part.replace(record)

"""Decodes every image of a split once, before training, to find those that cannot be decoded."""

import contextlib
import contextvars
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tl_jax.data.images import decode

# A table's splits, and some slices of them.
_TABLES = 8

_postponed = contextvars.ContextVar("postponed", default=False)


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Within, nothing is decoded and found corrupt: whoever opens a source decodes it himself."""
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


def find_corrupt_rows(
    table: Path, rows: Sequence[int], content: Callable[[int], bytes], record: Path
) -> dict[int, str]:
    """Returns the rows of a table whose images, which lie in it, cannot be decoded, with reasons.

    Args:
      table: the file.
      rows: those to be looked at.
      content: from a row to the bytes of its image.
      record: JSON file of what was found before: rows are decoded anew only if the table has
        changed, or they are others.
    """
    if not rows or _postponed.get():
        return {}
    facts = json.dumps([*_stamp(table), list(rows)])
    key = hashlib.sha256(facts.encode()).hexdigest()
    known = _read(record)
    if key not in known:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            reasons = list(pool.map(lambda row: _reason(content(row)), rows))
        bad = {str(row): reason for row, reason in zip(rows, reasons, strict=True) if reason}
        known = {key: bad, **{old: known[old] for old in list(known)[: _TABLES - 1]}}
        _replace(record, known)
    return {int(row): reason for row, reason in known[key].items()}


def _read(record: Path) -> dict[str, Any]:
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


def _reason(data: Path | bytes) -> str:
    try:
        decode.decode(data)
    except decode.CorruptImageError as error:
        return error.reason
    except FileNotFoundError:
        return "there is no such file, or it is a link that leads nowhere"
    return ""


def _replace(record: Path, content: dict[str, Any]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    part = record.with_name(f"{record.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content))
    part.replace(record)

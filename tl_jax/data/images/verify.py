"""Decodes every image of a split once, before training, to find those that cannot be decoded."""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tl_jax import files, messages
from tl_jax.data.images import decode, pixel_limit
from tl_jax.data.images.values import Range

Key = TypeVar("Key", bound=Hashable)

# How many selections of a table's rows (splits and slices) a record holds results of.
_REMEMBERED_SELECTIONS = 8


def record_path(path: Path, data_dir: Path | None) -> Path:
    """Returns the file that remembers which images of a folder or table were decoded.

    Args:
      path: the folder or table.
      data_dir: folder of such files; None is the user's cache.
    """
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return (data_dir or files.cache_dir()) / "verified" / f"{key}.json"


def corrupt_images(
    keys: Iterable[Key],
    content: Callable[[Key], Path | bytes],
    *,
    value_range: Range | None = None,
) -> dict[Key, str]:
    """Decodes images, and returns the keys of those that cannot be decoded, each with the reason.

    Args:
      keys: identifiers of the images.
      content: maps a key to the path or the bytes of the image; called from several threads.
      value_range: as in `decode.decode`.
    """

    def reason(key: Key) -> str:
        try:
            decode.decode(content(key), value_range=value_range)
        except decode.CorruptImageError as error:
            return error.reason
        except FileNotFoundError:
            return "there is no such file, or it is a link that leads nowhere"
        return ""

    keys = list(keys)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return {key: text for key, text in zip(keys, pool.map(reason, keys), strict=True) if text}


def corrupt_files(
    paths: Sequence[Path], record: Path, *, value_range: Range | None = None
) -> dict[Path, str]:
    """Returns the files that cannot be decoded, each with the reason, in the order of `paths`.

    Args:
      paths: image files; a missing file and a dead link count as corrupt.
      record: JSON file with the size and modification time of each file that was decoded before;
        only new and changed files are decoded. Several runs may share it.
      value_range: as in `decode.decode`; each range has a record of its own, and so
        has each limit on pixels.
    """
    record = _of_options(record, value_range)
    decoded = _read_json(record)
    stamps = {path: _stamp(path) for path in paths}
    unknown = [path for path in paths if decoded.get(str(path)) != stamps[path]]
    corrupt = corrupt_images(unknown, lambda path: path, value_range=value_range)
    good = {str(path): stamps[path] for path in unknown if path not in corrupt}
    if good:
        files.write_cache(record, json.dumps(decoded | good))
    return corrupt


def corrupt_rows(
    table: Path | Sequence[Path],
    rows: Sequence[int],
    content: Callable[[int], Path | bytes],
    record: Path,
    *,
    value_range: Range | None = None,
) -> dict[int, str]:
    """Returns the rows of a table whose own images cannot be decoded, each with the reason.

    Args:
      table: the file or the files of the table.
      rows: the rows to decode.
      content: maps a row to the bytes of its image.
      record: JSON file with earlier results; rows are decoded again if the table has changed or
        another selection of its rows is checked.
      value_range: as in `corrupt_files`.
    """
    if not rows:
        return {}
    record = _of_options(record, value_range)
    paths = [table] if isinstance(table, Path) else table
    stamps = [number for path in paths for number in _stamp(path)]
    key = hashlib.sha256(json.dumps([*stamps, list(rows)]).encode()).hexdigest()
    known = _read_json(record)
    if not isinstance(known.get(key), dict):
        corrupt = corrupt_images(rows, content, value_range=value_range)
        older = list(known)[: _REMEMBERED_SELECTIONS - 1]
        known = {key: corrupt, **{old: known[old] for old in older}}
        files.write_cache(record, json.dumps(known))
    return {int(row): reason for row, reason in known[key].items()}


def corrupt_error(place: str, problems: Sequence[str]) -> decode.CorruptImageError:
    """Returns the error that names corrupt images.

    Args:
      place: where they are, such as "split 'train' of photos".
      problems: each image's name and the reason.
    """
    return decode.CorruptImageError(
        messages.report(
            f"{len(problems)} images in {place} cannot be decoded:",
            problems,
            "replace or remove them, or leave them out with data.on_corrupt='skip' (of a run; "
            "`evaluate` and `probe` have --on-corrupt skip)",
        )
    )


def _of_options(record: Path, value_range: Range | None) -> Path:
    """Returns the record of one range and one limit on pixels: with others, others are corrupt."""
    limit = pixel_limit.limit()
    options = [] if limit == pixel_limit.MAX_PIXELS else [f"{limit}px"]
    if value_range is not None:
        options = [f"{value_range[0]:g}", f"{value_range[1]:g}", *options]
    return record.with_name("-".join([record.stem, *options]) + record.suffix)


def _read_json(record: Path) -> dict[str, Any]:
    """Returns the content of a record, or an empty one if it is missing or damaged."""
    try:
        content = files.parse_json(record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(path: Path) -> list[int]:
    """Returns a file's size and modification time, or an empty list if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return []  # Equal to no recorded stamp, so the file is decoded, which finds the reason.
    return [status.st_size, status.st_mtime_ns]

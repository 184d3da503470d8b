"""Checks of a manifest's images: files that are missing, and images that cannot be decoded."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tl_jax import messages
from tl_jax.data.images import verify
from tl_jax.data.sources import manifest_images
from tl_jax.data.sources.manifest_images import ImageColumn
from tl_jax.data.sources.options import OpenOptions


def check(images: ImageColumn, rows: Iterable[int], place: str) -> None:
    """Checks that the images of some rows are there.

    Raises:
      ValueError: if not; the rows are listed.
    """
    table, problems, missing = images.table, [], []
    for row in rows:
        try:
            content, name = images.content(row)
        except ValueError as error:
            problems.append(str(error))
        else:
            if isinstance(content, Path) and not content.is_file():
                problems.append(f"{table.place(row)}: no file {name}")
                missing.append(row)
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} images in {place} are missing:",
                problems,
                f"paths are relative to {table.folder.resolve()}; fix or remove these rows"
                f"{manifest_images.elsewhere(images, missing)}",
            )
        )


def corrupt(images: ImageColumn, rows: Iterable[int], options: OpenOptions) -> dict[int, str]:
    """Returns the rows whose images cannot be decoded, each with the reason."""
    table = images.table
    record = verify.record_path(table.path, options.local_data_dir)
    other = f"-{hashlib.sha256(images.name.encode()).hexdigest()[:8]}" if images.name else ""
    paths: dict[int, Path] = {}
    packed = []
    for row in rows:
        content, _ = images.content(row)
        if isinstance(content, Path):
            paths[row] = content
        else:
            packed.append(row)
    in_files = verify.corrupt_files(
        list(dict.fromkeys(paths.values())), record, value_range=options.value_range
    )
    in_table = verify.corrupt_rows(
        table.files or [table.path],
        packed,
        lambda row: images.content(row)[0],
        record.with_name(f"{record.stem}-bytes{other}.json"),
        value_range=options.value_range,
    )
    reasons = {row: in_files[path] for row, path in paths.items() if path in in_files} | in_table
    return dict(sorted(reasons.items()))


def problem(images: ImageColumn, row: int, reason: str) -> str:
    """Returns what messages say of an image that cannot be decoded."""
    content, name = images.content(row)
    return f"{images.table.place(row)}{f' ({name})' if isinstance(content, Path) else ''}: {reason}"

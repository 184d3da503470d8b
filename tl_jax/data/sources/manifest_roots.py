"""Where the images of a manifest may lie: below one folder, so that a table of others is no key."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tl_jax import files, messages
from tl_jax.data.class_names import printable
from tl_jax.data.sources import tables

VARIABLE = "TL_JAX_IMAGE_ROOTS"
"""The environment variable that names further folders, separated as in PATH."""


def check(table: tables.Table, cells: Mapping[int, str], paths: Mapping[int, Path]) -> None:
    """Checks that the images of a table lie below one folder.

    It is not the root of the file system, and neither the user's home folder nor one above it. If
    any image lies in the table's own folder, that is below it too. Folders that TL_JAX_IMAGE_ROOTS
    names are always allowed. Names decide; links are followed, since whoever made them could read
    what they lead to.

    Args:
      table: the table.
      cells: what it has for the rows whose images are files.
      paths: the files that these cells mean.

    Raises:
      ValueError: if they do not; the rows are listed.
    """
    folder = _plain(table.folder)
    own, further = (folder, folder.resolve()), _further_roots()
    # Of many images in few folders only the folders are compared.
    parents = {row: _plain(path).parent for row, path in paths.items()}
    distinct = set(parents.values())
    inside = {each for each in distinct if any(map(each.is_relative_to, own))}
    outside = {each for each in distinct - inside if not any(map(each.is_relative_to, further))}
    if inside:
        bad = {each for each in outside if not any(_is_narrow([each, root]) for root in own)}
    else:
        bad = set() if not outside or _is_narrow(outside) else outside
    if not bad:
        return
    rows = [row for row, parent in parents.items() if parent in bad]
    rows = rows if inside else _odd_ones({row: parents[row] for row in rows})
    raise ValueError(
        messages.report(
            f"{len(rows)} images of {table.path} are far from "
            f"{'its folder' if inside else 'the others'}:",
            [f"{table.place(row)}: {_described(cells[row], paths[row])}" for row in rows],
            "the images of a table lie below one folder, which is neither the root of the file "
            "system nor your home folder or above it. Remove these rows; or, if you trust them, "
            f"allow their folders with the variable {VARIABLE}=FOLDER{os.pathsep}FOLDER",
        )
    )


def _plain(path: Path) -> Path:
    # By the names alone, as the table's writer meant it: "link/.." is not what the link leads to.
    return Path(os.path.normpath(path.absolute()))


def _further_roots() -> Sequence[Path]:
    given = os.environ.get(VARIABLE, "")
    roots = [files.user_path(each) for each in given.split(os.pathsep) if each]
    absent = next((each for each in roots if not each.is_dir()), None)
    if absent is not None:
        raise ValueError(
            f"got {VARIABLE}={given}; expected folders, and there is no folder {absent}"
        )
    return [_plain(each) for each in roots]


def _is_narrow(folders: Iterable[Path]) -> bool:
    """Returns whether the deepest folder that holds all of some holds no home, and is no root."""
    try:
        shared = Path(os.path.commonpath(folders))
    except ValueError:  # They are on several drives.
        return False
    return shared != Path(shared.anchor) and not any(
        each.is_relative_to(shared) for each in _homes()
    )


def _homes() -> Sequence[Path]:
    try:
        home = Path.home()
    except RuntimeError:  # This user has none.
        return []
    return [_plain(home), home.resolve()]


def _odd_ones(parents: Mapping[int, Path]) -> list[int]:
    """Returns the rows that are not where most are, as the first folders that differ say."""
    if len(set(parents.values())) == 1:
        return list(parents)
    depth = 1
    while len({each.parts[:depth] for each in parents.values()}) == 1:
        depth += 1
    first = {row: each.parts[:depth] for row, each in parents.items()}
    ((most, _),) = Counter(first.values()).most_common(1)
    return [row for row, each in first.items() if each != most]


def _described(cell: str, path: Path) -> str:
    plain = _plain(path)
    return printable(cell if cell == str(plain) else f"{cell}, which is {plain}")

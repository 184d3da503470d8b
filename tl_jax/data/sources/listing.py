"""Lists the images below a folder: what is one, what is passed over, which paths are one file."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tl_jax import messages
from tl_jax.data.class_names import printable
from tl_jax.data.images import decode

# What operating systems, network drives and programs leave in folders, in lower case; names that
# begin with a dot (".DS_Store", "._a.jpg", ".ipynb_checkpoints", ".thumbnails") are left out too.
_JUNK = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("__macosx", "__pycache__", "icon\r", "desktop.ini", "picasa.ini"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "zbthumbnail.info"),
    }
)

FileId = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images below a folder.

    Attributes:
      files: the images, sorted; each file once, by a path without links where there is one.
      ids: what identifies the file that a path leads to; none for a link that leads nowhere.
      passed: number of other files, by suffix.
      repeated: other paths that lead to files of `files`, and links that lead back to a folder
        above them, which are not followed.
      subfolders: names of the folders directly in it.
    """

    files: tuple[Path, ...]
    ids: Mapping[Path, FileId]
    passed: Counter[str]
    repeated: tuple[Path, ...]
    subfolders: tuple[str, ...]


def is_junk(name: str) -> bool:
    """Returns whether a file or folder is passed over without a word."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image(name: str) -> bool:
    """Returns whether a file of this name is taken for an image."""
    return name.lower().endswith(decode.IMAGE_SUFFIXES)


def folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, sorted, without junk."""
    return sorted(Path(each.path) for each in _entries(folder) if _is_folder(each))


def direct_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Returns the images directly in a folder, and the number of other files by suffix."""
    found = sorted(Path(each.path) for each in _entries(folder) if not _is_folder(each))
    others = Counter(_suffix(p.name) for p in found if not is_image(p.name))
    return [p for p in found if is_image(p.name)], others


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, without junk; it tells files from folders without a look."""
    with os.scandir(folder) as entries:
        return [each for each in entries if not is_junk(each.name)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, or to where nobody may look.
        return False


def list_images(top: Path) -> Listing:
    """Lists the images at any depth below a folder; links to folders are followed, once each."""
    passed: Counter[str] = Counter()
    paths: list[tuple[bool, Path]] = []
    repeated: list[Path] = []
    seen: set[FileId] = set()
    plain, links = [top], list[Path]()
    while plain or links:
        folder = plain.pop() if plain else links.pop(0)
        if (folder_id := _id(folder)) in seen:
            repeated.append(folder)
            continue
        if folder_id is not None:
            seen.add(folder_id)
        for entry in sorted(_entries(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            # A folder with the name of an image is listed too, so that it is reported as corrupt.
            if is_image(entry.name):
                paths.append((entry.is_symlink(), path))
            elif not _is_folder(entry):
                passed[_suffix(entry.name)] += 1
            elif not entry.is_symlink():
                plain.append(path)
            elif _leads_up(path):
                repeated.append(path)
            else:
                links.append(path)
    files, ids, again = _distinct(paths)
    names = tuple(path.name for path in folders(top) if path not in repeated)
    return Listing(tuple(sorted(files)), ids, passed, tuple(sorted(repeated + again)), names)


def _distinct(
    paths: Iterable[tuple[bool, Path]],
) -> tuple[list[Path], dict[Path, FileId], list[Path]]:
    """Returns one path of each file, what identifies it, and the other paths; links come last."""
    known: set[FileId] = set()
    files, ids, again = list[Path](), dict[Path, FileId](), list[Path]()
    for _, path in sorted(paths):
        file_id = _id(path)
        if file_id is not None and file_id in known:
            again.append(path)
            continue
        files.append(path)
        if file_id is not None:
            known.add(file_id)
            ids[path] = file_id
    return files, ids, again


def _id(path: Path) -> FileId | None:
    """Returns what identifies the file or folder that a path leads to, if there is one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _leads_up(link: Path) -> bool:
    target = link.resolve()
    return target == link.parent.resolve() or target in link.parent.resolve().parents


def _suffix(name: str) -> str:
    return printable(Path(name).suffix.lower())


def passed_text(passed: Mapping[str, int]) -> str:
    """Returns numbers of files by suffix as text.

    Examples:
      >>> passed_text({".txt": 2, "": 1})
      '2 .txt, 1 without a suffix'
    """
    counts = sorted(passed.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count} {suffix or 'without a suffix'}" for suffix, count in counts]
    return messages.some(listed, quoted=False)


def merged(parts: Sequence[Listing]) -> Listing:
    """Returns several listings as one."""
    if len(parts) == 1:
        return parts[0]
    ids: dict[Path, FileId] = {}
    passed: Counter[str] = Counter()
    for part in parts:
        ids |= part.ids
        passed += part.passed
    return Listing(
        files=tuple(sorted(path for part in parts for path in part.files)),
        ids=ids,
        passed=passed,
        repeated=tuple(path for part in parts for path in part.repeated),
        subfolders=tuple(name for part in parts for name in part.subfolders),
    )


def shared(places: Iterable[tuple[str, Listing]]) -> list[str]:
    """Returns the files that are in two places, such as two classes, a line each."""
    first: dict[FileId, tuple[str, Path]] = {}
    problems = []
    for place, each in places:
        for path, file_id in each.ids.items():
            other_place, other = first.setdefault(file_id, (place, path))
            if other_place != place:
                problems.append(f"{printable(str(other))} and {printable(str(path))}")
    return problems

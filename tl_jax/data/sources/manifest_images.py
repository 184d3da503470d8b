"""The column of a manifest that holds the images: paths, bytes, or both in a struct."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_jax.data.class_names import printable
from tl_jax.data.sources import listing, manifest_roots, tables


@dataclasses.dataclass(frozen=True)
class ImageColumn:
    """The column of a table that holds the images.

    Attributes:
      table: the table, without its columns.
      cells: a path, bytes, or a dict of `bytes` and `path` for each row.
      name: what tells it from other columns of the same table; "" if it has a usual name.
    """

    table: tables.Table
    cells: tables.Cells
    name: str = ""

    def content(self, row: int) -> tuple[Path | bytes, str]:
        """Returns the file or the bytes of a row's image, and its name.

        The name is the path of the file, or the row: "row 3 of birds.parquet".

        Raises:
          ValueError: if the cell holds no image.
        """
        cell = self.cells[row]
        value = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
        if isinstance(value, bytes) and value:
            return value, self.place(row)
        if isinstance(value, str) and value:
            path = self.file(value)
            return path, printable(str(path))
        raise ValueError(f"{self.table.place(row)}: got {cell!r}; expected a path or bytes")

    def path(self, row: int) -> Path | None:
        """Returns the file of a row's image, or None if the table has its bytes, or nothing."""
        name = _name_in(self.cells[row])
        return None if name is None else self.file(name)

    def key(self, row: int) -> str:
        """Returns what the table has for a row's image: its path, or the place of the row."""
        cell = self.cells[row]
        return cell if isinstance(cell, str) else self.place(row)

    def bytes_name(self, row: int) -> str:
        """Returns a hash of the bytes of a row's image."""
        cell = self.cells[row]
        value = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(value, bytes):
            return self.place(row)
        return hashlib.sha256(value).hexdigest()

    def place(self, row: int) -> str:
        """Returns what messages call a row's image in the table: "row 3 of birds.parquet"."""
        return f"{self.table.place(row)} of {self.table.path.name}"

    def file(self, value: str) -> Path:
        """Returns the file that a name in the table means.

        Where there is none of that name, blanks around it are left out, and the separators of
        Windows are replaced.
        """
        folder = self.table.folder
        path = folder / Path(value).expanduser()
        if value == value.strip() and "\\" not in value:
            return path
        meant = folder / Path(value.strip().replace("\\", "/")).expanduser()
        return meant if meant.is_file() and not path.is_file() else path


def _name_in(cell: Any) -> str | None:
    """Returns the name of a file that a cell holds, or None if it holds bytes, or nothing."""
    value = (None if cell.get("bytes") else cell.get("path")) if isinstance(cell, dict) else cell
    return value if isinstance(value, str) and value else None


def completed(images: ImageColumn) -> tuple[ImageColumn, tuple[str, ...]]:
    """Checks where the files of a table lie, and completes names that lack their suffixes.

    A name is completed if there is no such file, and one image that differs in the suffix alone.

    Returns:
      The column, and a note on how many names were completed.

    Raises:
      ValueError: if files are not where those of the table may be (`manifest_roots.check`).
    """
    cells = list[object]()
    names: dict[int, str] = {}
    for row in range(len(images.table)):
        cell = images.cells[row]
        cells.append(cell)
        if (name := _name_in(cell)) is not None:
            names[row] = name
    paths = {row: images.file(name) for row, name in names.items()}
    manifest_roots.check(images.table, names, paths)
    suffixes: dict[Path, dict[str, list[str]]] = {}
    count = 0
    for row, path in paths.items():
        cell = cells[row]
        if isinstance(cell, str) and not listing.is_image(cell) and not path.exists():
            if path.parent not in suffixes:
                suffixes[path.parent] = _suffixes_in(path.parent)
            found = suffixes[path.parent].get(path.name, [])
            if len(found) == 1:
                cells[row], count = f"{cell}{found[0]}", count + 1
    if not count:
        return images, ()
    note = f"{count} names of images in {images.table.path.name} are completed by their suffixes"
    return dataclasses.replace(images, cells=cells), (note,)


def _suffixes_in(folder: Path) -> dict[str, list[str]]:
    """Returns the suffixes of the images in a folder, by what is before them."""
    found: dict[str, list[str]] = {}
    for path in listing.direct_files(folder)[0] if folder.is_dir() else ():
        found.setdefault(path.stem, []).append(path.suffix)
    return found


def elsewhere(images: ImageColumn, missing: Sequence[int]) -> str:
    """Returns the end of a message that says where the files of rows may be."""
    folder = images.table.folder
    for row in missing[:1]:
        cell = str(images.path(row))
        if re.match(r"\w+:/+\w", str(images.cells[row])):
            return "; addresses are not read: download the images, and write the names of the files"
        name = re.split(r"[\\/]", cell)[-1]
        for place in (folder, *listing.folders(folder)):
            if (place / name).is_file() or name in _suffixes_in(place):
                return (
                    f"; {name} is in {place.resolve()}: write the paths as they are from the "
                    "table's folder"
                )
    return ""

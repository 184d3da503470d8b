"""The column of a manifest that holds the images: paths, bytes, or both in a struct."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tl_jax.data.class_names import printable
from tl_jax.data.sources import listing, tables


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
            path = self._file(value)
            return path, printable(str(path))
        raise ValueError(f"{self.table.place(row)}: got {cell!r}; expected a path or bytes")

    def path(self, row: int) -> Path | None:
        """Returns the file of a row's image, or None if the table has its bytes, or nothing."""
        cell = self.cells[row]
        value = (
            (None if cell.get("bytes") else cell.get("path")) if isinstance(cell, dict) else cell
        )
        return self._file(value) if isinstance(value, str) and value else None

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

    def _file(self, value: str) -> Path:
        """Returns the file that a cell means.

        Where there is none of that name, blanks around it are left out, and the separators of
        Windows are replaced.
        """
        folder = self.table.folder
        path = folder / Path(value).expanduser()
        if value == value.strip() and "\\" not in value:
            return path
        meant = folder / Path(value.strip().replace("\\", "/")).expanduser()
        return meant if meant.is_file() and not path.is_file() else path


def with_suffixes(images: ImageColumn) -> tuple[ImageColumn, tuple[str, ...]]:
    """Completes the names of files that a table has without their suffixes.

    A name is completed if there is no such file, and one image that differs in the suffix alone.

    Returns:
      The column, and a note on how many names were completed.
    """
    suffixes: dict[Path, dict[str, list[str]]] = {}
    cells = list[object]()
    count = 0
    for row in range(len(images.table)):
        cell = images.cells[row]
        path = images.path(row) if isinstance(cell, str) and not listing.is_image(cell) else None
        if path is not None and not path.exists():
            if path.parent not in suffixes:
                suffixes[path.parent] = _suffixes_in(path.parent)
            found = suffixes[path.parent].get(path.name, [])
            if len(found) == 1:
                cell, count = f"{cell}{found[0]}", count + 1
        cells.append(cell)
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

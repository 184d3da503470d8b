"""Reads files out of Debian packages that are downloaded but not installed."""

import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO


def read_files(package: Path, is_wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Returns files of a Debian package by their names, in the package's order.

    Args:
      package: the package, `name_version.deb`.
      is_wanted: returns whether to read the file of a name, such as "./usr/share/doc/x".

    Raises:
      ValueError: if the file is not a Debian package, is truncated, or is compressed in a way that
        Python cannot read.
    """
    contents = {}
    with package.open("rb") as file:
        _seek_data(package, file)
        try:
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    if not member.isfile() or not is_wanted(member.name):
                        continue
                    if (content := archive.extractfile(member)) is not None:
                        contents[member.name] = content.read()
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
            raise ValueError(
                f"cannot read the files of {package}: {error}; unpack it (`dpkg-deb -x "
                f"{package.name} FOLDER`) and name the folder"
            ) from error
    return contents


def _seek_data(package: Path, file: IO[bytes]) -> None:
    """Moves to the member `data.tar.*` of an `ar` archive."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError(f"{package} is not a Debian package; expected a file name_version.deb")
    while len(header := file.read(60)) == 60:
        if header.startswith(b"data.tar"):
            return
        stated = header[48:58].strip()
        if not stated.isdigit():
            break
        size = int(stated)
        file.seek(size + size % 2, 1)  # Members begin at even offsets.
    raise ValueError(
        f"{package} has no data.tar: it is not a complete Debian package; fetch it again"
    )

"""Reads the files of Debian packages, where they are fetched but not installed."""

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def data_archive(package: Path) -> Iterator[tarfile.TarFile]:
    """Opens the files of a Debian package: the member `data.tar.*` of an `ar` archive.

    The archive is a stream: its members can be read once, in their order.

    Raises:
      ValueError: if the file is no Debian package, is cut short, or is compressed in a way that
        Python cannot read.
    """
    with package.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{package} is no Debian package; expected a file name_version.deb")
        while len(header := file.read(60)) == 60:
            size = int(header[48:58])
            if header.startswith(b"data.tar"):
                with _open(package, file) as archive:
                    yield archive
                return
            file.seek(size + size % 2, 1)  # Members begin at even places.
    raise ValueError(f"{package} has no data.tar: it is no whole Debian package; fetch it again")


def _open(package: Path, file: object) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|*")
    except tarfile.ReadError as error:
        raise ValueError(
            f"cannot read the files of {package}: {error}; unpack it (`dpkg-deb -x {package.name} "
            "FOLDER`) and name the folder"
        ) from error

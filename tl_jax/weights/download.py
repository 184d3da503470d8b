"""Weights at a web address: torch's own cache of such files, and their download."""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

# torch's habit: the name ends in the first digits of the file's SHA-256.
_HASH = re.compile(r"-([0-9a-f]{8,})\.")
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file cannot be had from its address; the message says why."""


def cached(url: str) -> Path | None:
    """Returns the file of an address, if torch's cache holds it."""
    path = cache_folder() / file_name(url)
    return path if path.is_file() else None


def fetch(url: str) -> Path:
    """Downloads a file into torch's cache; all of it, or nothing.

    Raises:
      DownloadError: if the address cannot be reached, the file is not the one that its name
        states, or it cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            try:
                digest = _copy(url, file)
                _check(url, digest)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        return partial.replace(folder / file_name(url))
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached ({error.reason})") from error
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{url} cannot be kept in {folder} ({error})") from error


def file_name(url: str) -> str:
    """Returns the name of an address's file."""
    return url.rpartition("/")[2]


def cache_folder() -> Path:
    """Returns the folder where torch keeps such files, by the environment."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(cache) / "torch"
    return Path(home) / "hub" / "checkpoints"


def _copy(url: str, file: IO[bytes]) -> str:
    """Copies what is at an address to an open file, and returns its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _check(url: str, digest: str) -> None:
    stated = _HASH.search(file_name(url))
    if stated and not digest.startswith(stated[1]):
        raise DownloadError(
            f"{url} is damaged or another file: its SHA-256 begins with "
            f"{digest[: len(stated[1])]}, and its name says {stated[1]}"
        )

"""Weights at a URL: their download, and torch's cache of such files."""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from tl_jax import files
from tl_jax.weights import integrity

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 20


class DownloadError(OSError):
    """A file cannot be downloaded; the message says why."""


def cached(url: str) -> Path | None:
    """Returns the file of a URL, if it is in torch's cache."""
    path = cache_folder() / file_name(url)
    return path if path.is_file() else None


def fetch(url: str) -> Path:
    """Downloads a file into torch's cache; a failed download leaves nothing there.

    Raises:
      DownloadError: if the URL cannot be reached, the file has another hash than its name states,
        or it cannot be written.
    """
    path = cache_folder() / file_name(url)
    digest = hashlib.sha256()
    try:
        with (
            files.replacing(path) as partial,
            partial.open("wb") as file,
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            expected = integrity.in_name(path.name)
            if not digest.hexdigest().startswith(expected):
                raise DownloadError(
                    f"the file at {url} is damaged or was replaced: its SHA-256 begins with "
                    f"{digest.hexdigest()[: len(expected)]}, expected {expected} as its name "
                    "states; try again later"
                )
    except DownloadError:
        raise
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached ({error.reason})") from error
    except OSError as error:
        raise DownloadError(f"{url} cannot be downloaded to {path.parent} ({error})") from error
    return path


def file_name(url: str) -> str:
    """Returns the file name of a URL.

    >>> file_name("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth")
    'alexnet-owt-7be5be79.pth'
    """
    return url.rpartition("/")[2]


def cache_folder() -> Path:
    """Returns the folder of torch's cache, by TORCH_HOME, XDG_CACHE_HOME or the default."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or Path(cache) / "torch"
    return files.user_path(home) / "hub" / "checkpoints"

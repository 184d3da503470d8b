"""What a published file of weights must hash to, and what is said of a file that does not."""

import re
from pathlib import Path

from tl_jax.weights import index

# torch's convention: the name ends in the first digits of the file's SHA-256.
_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def in_name(file_name: str) -> str:
    """Returns the first digits of the SHA-256 that the name of a published file states, if any.

    Examples:
      >>> in_name("alexnet-owt-7be5be79.pth"), in_name("model.safetensors")
      ('7be5be79', '')
    """
    found = _IN_NAME.search(file_name)
    return found[1] if found else ""


def of_hub(path: Path) -> str:
    """Returns the SHA-256 that the hub stated of a file in its cache, if it did.

    The client names what it has downloaded by the hub's own identifier, which is the hash of large
    files, and links the file's name to it; it compares the size only.
    """
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def problem(source: str, file: Path, digest: str) -> str | None:
    """Returns what is wrong with a file that was read, None if nothing is known or it is right.

    Args:
      source: that of the record of the weights: "hub ...", "url ...", "file" ...
      file: the file that was read.
      digest: its SHA-256.
    """
    kind, _, address = source.partition(" ")
    if kind == "hub":
        return difference(file, digest, of_hub(file), "as the hub stated when it was downloaded")
    if kind == "url":
        return difference(file, digest, in_name(address.rpartition("/")[2]), "as its name states")
    if kind == "file" and index.has_file(file.name):  # Somebody's copy of a published file.
        who = "as the published file of this name; if it is another, rename it"
        return difference(file, digest, in_name(file.name), who)
    return None


def difference(
    file: Path, digest: str, expected: str, who: str, remedy: str | None = None
) -> str | None:
    """Returns the message for a file whose SHA-256 does not begin with some digits, or None."""
    if digest.startswith(expected):
        return None
    begins = "is" if len(expected) == len(digest) else "begins with"
    return (
        f"{file} is damaged or was replaced, and is not used: its SHA-256 {begins} "
        f"{digest[: len(expected)]}, expected {expected} {who}; "
        f"{remedy or f'delete {file.resolve()} and fetch it again'}"
    )

"""The limit on the pixels of one image, and what a file promises before memory is reserved."""

import io
import math
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import Image

MAX_PIXELS = 89_478_485
"""Larger images count as decompression bombs: 256 MiB in RGB, where Pillow warns."""
VARIABLE = "TL_JAX_MAX_PIXELS"
"""The environment variable that sets another limit, for all commands and worker processes."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ICO = b"\0\0\1\0"


def limit() -> int:
    """Returns the most pixels, height * width, that an image may have.

    Raises:
      ValueError: if the variable TL_JAX_MAX_PIXELS is not a whole number above 0.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or not int(text):
        raise ValueError(
            f"got {VARIABLE}={text}; expected the most pixels that an image may have, such as "
            f"{MAX_PIXELS}"
        )
    return int(text)


def let_pillow_open(most: int) -> None:
    """Raises Pillow's own limit where it would refuse an image of as many pixels.

    Pillow raises an error above twice its limit. Nothing changes unless the limit here was raised.
    """
    own = Image.MAX_IMAGE_PIXELS
    if own is not None and most > 2 * own:
        Image.MAX_IMAGE_PIXELS = most


def refusal(size: tuple[int, int] | None, most: int, pillow: str = "") -> str | None:
    """Returns why an image of this size, width and height, is refused; None if it is not.

    Args:
      size: None if only the message of Pillow's error says how many pixels there are.
      most: the limit.
      pillow: that message.
    """
    if size is None:
        stated = re.search(r"\d+", pillow)
        count, declared = int(stated[0]) if stated else most + 1, ""
    else:
        count, declared = math.prod(size), f"{size[0]} x {size[1]} = "
    if count <= most:
        return None
    return (
        f"it declares {declared}{count} pixels, more than the limit of {most}: it may be a "
        f"decompression bomb; if it is not, make it smaller, or set the variable {VARIABLE}={count}"
    )


def promised(data: str | Path | bytes) -> tuple[int, int] | None:
    """Returns the width and height of a WebP file, or of the largest image in an ICO file.

    Pillow reserves memory for these two when it opens them, before it can be asked for their size.
    Of other formats, and of damaged files, it is None.
    """
    with io.BytesIO(data) if isinstance(data, bytes) else Path(data).open("rb") as file:
        head = file.read(30)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _webp_size(head)
        return _ico_size(file, head) if head.startswith(_ICO) else None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Reads the size of the canvas: in the extended header, or in that of the image itself."""
    kind, content = head[12:16], head[20:].ljust(10, b"\0")
    if kind == b"VP8X":
        first, second = content[4:7], content[7:10]
        return int.from_bytes(first, "little") + 1, int.from_bytes(second, "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _ico_size(file: BinaryIO, head: bytes) -> tuple[int, int] | None:
    """Reads the headers of the images that an icon holds; its own list has sizes up to 256."""
    sizes = []
    for number in range(int.from_bytes(head[4:6], "little")):
        file.seek(6 + 16 * number)
        entry = file.read(16)
        if len(entry) < 16:
            break
        file.seek(int.from_bytes(entry[12:16], "little"))
        inner = file.read(24)
        if inner.startswith(_PNG) and len(inner) == 24:
            sizes.append(struct.unpack(">II", inner[16:24]))
        elif len(inner) == 24:  # A bitmap's header; its height is that of colours and mask.
            width, height = struct.unpack("<ii", inner[4:12])
            sizes.append((abs(width), abs(height) // 2))
    return max(sizes, key=math.prod, default=None)

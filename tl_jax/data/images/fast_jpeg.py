"""Pixels for training straight from a file's bytes; large JPEG files are decoded reduced."""

import dataclasses
import math

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from tl_jax.data.images import decode

_UPRIGHT = (None, 1)
_REDUCTIONS = (8, 4, 2)
_COLOURS = ("Gray", "RGB", "YCbCr")
# The second bytes of markers: of the segments APP1 (EXIF, XMP) and APP2 (ICC), or a byte that is
# filled in before a marker; and where all segments end.
_METADATA = (0xE1, 0xE2, 0xFF)
_START_OF_SCAN = 0xDA


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A decoded image, perhaps smaller than its file's.

    Attributes:
      image: uint8 RGB [H, W, 3].
      extent: height and width of what shows the whole image; of the last row and column a part
        alone may belong to it.
      size: height and width of the file's image.
    """

    image: np.ndarray
    extent: tuple[float, float]
    size: tuple[int, int]

    def stretched(self, canvas: int) -> np.ndarray:
        """Returns it stretched to uint8 [canvas, canvas, 3], antialiased (Pillow's bicubic)."""
        box = (0, 0, self.extent[1], self.extent[0])
        image = Image.fromarray(self.image)
        return np.asarray(image.resize((canvas, canvas), Image.Resampling.BICUBIC, box))


def read(data: bytes, canvas: int, *, name: str) -> Pixels:
    """Decodes an image that is to be stretched to a square.

    A JPEG file both of whose sides are at least twice (4, 8 times) the square's is decoded at half
    (a quarter, an eighth) of its size, by an inverse cosine transform of as many points: a mean
    over as many pixels. Any other image comes as `decode` has it, and so does a JPEG that is
    rotated by its EXIF data, in CMYK, or with colours to be converted.

    Args:
      data: the file's content.
      canvas: side of the square.
      name: what messages call the image.

    Raises:
      CorruptImageError: as `decode`.
    """
    found = _from_plain_jpeg(data, canvas)
    if found is not None:
        return found
    image = decode.decode(data, name=name)
    return Pixels(image, image.shape[:2], image.shape[:2])


def _from_plain_jpeg(data: bytes, canvas: int) -> Pixels | None:
    """Returns a JPEG whose pixels need no more than scaling, or None."""
    if not simplejpeg.is_jpeg(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS or height * width > decode.MAX_PIXELS or not _is_plain(data):
            return None
        by = next((by for by in _REDUCTIONS if min(height, width) >= by * canvas), 1)
        least = math.ceil(height / by), math.ceil(width / by)
        pixels = simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1])
    except Exception:  # Whatever is wrong with it, `decode` says it with the image's name.
        return None
    return Pixels(pixels, (height / by, width / by), (height, width))


def _is_plain(data: bytes) -> bool:
    """Returns whether a JPEG is upright, and its colours are left as they are."""
    if not _has_metadata(data):
        return True  # Pillow would take longer to say so.
    with decode.open_image(data) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation) in _UPRIGHT
        return upright and decode.is_srgb(image.info.get("icc_profile"))


def _has_metadata(data: bytes) -> bool:
    """Returns whether a JPEG may have a segment of EXIF data, of XMP, or of a colour profile."""
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _START_OF_SCAN:
            return False
        if marker in _METADATA:
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return True  # No marker where one is expected: Pillow finds the next.

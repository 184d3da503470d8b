"""Decoding for training: large JPEG files at a reduced size, everything else in full."""

import dataclasses
import math

import numpy as np
from PIL import ExifTags, Image

from tl_jax.data.images import decode, pixel_limit
from tl_jax.data.images.values import Range

_UPRIGHT = (None, 1)
_REDUCTIONS = (8, 4, 2)
_COLOUR_SPACES = ("Gray", "RGB", "YCbCr")
# Second bytes of JPEG markers: the segments APP1 (EXIF, XMP) and APP2 (ICC), and the fill byte that
# may precede a marker; and the start of the scan, after which there are no such segments.
_METADATA = (0xE1, 0xE2, 0xFF)
_START_OF_SCAN = 0xDA


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """An image that may have been decoded at a reduced size.

    Attributes:
      pixels: uint8 RGB [H, W, 3].
      extent: height and width of the image in these pixels; fractional where only a part of the
        last row or column belongs to it.
      size: height and width of the image in the file.
    """

    pixels: np.ndarray
    extent: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def in_full(cls, pixels: np.ndarray) -> "DecodedImage":
        """Returns an image that was decoded in full."""
        height, width, _ = pixels.shape
        return cls(pixels, (height, width), (height, width))

    def stretch(self, canvas: int) -> np.ndarray:
        """Returns it stretched to uint8 [canvas, canvas, 3], antialiased (Pillow's bicubic)."""
        box = (0, 0, self.extent[1], self.extent[0])
        image = Image.fromarray(self.pixels)
        return np.asarray(image.resize((canvas, canvas), Image.Resampling.BICUBIC, box))


def decode_reduced(
    data: bytes, canvas: int, *, name: str, value_range: Range | None = None
) -> DecodedImage:
    """Decodes an image that is to be stretched to a square.

    A JPEG file whose sides are both at least 2 (4, 8) times the square's is decoded at 1/2 (1/4,
    1/8) of its size, by a smaller inverse cosine transform, which averages the pixels. All other
    images are decoded in full, and so is a JPEG file that is rotated by its EXIF data, in CMYK, or
    needs a conversion of colours.

    Args:
      data: the file's content.
      canvas: side of the square.
      name: what messages call the image.
      value_range: as in `decode.decode`; JPEG files have 8 bits.

    Raises:
      CorruptImageError: as `decode.decode`.
    """
    reduced = _decode_plain_jpeg(data, canvas)
    return reduced or DecodedImage.in_full(decode.decode(data, name=name, value_range=value_range))


def _decode_plain_jpeg(data: bytes, canvas: int) -> DecodedImage | None:
    """Returns a JPEG image whose pixels need nothing but scaling, or None for any other."""
    import simplejpeg

    if not simplejpeg.is_jpeg(data):
        return None
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        too_large = height * width > pixel_limit.limit()
        if too_large or colour_space not in _COLOUR_SPACES or not _is_upright_srgb(data):
            return None
        factor = next((each for each in _REDUCTIONS if min(height, width) >= each * canvas), 1)
        pixels = simplejpeg.decode_jpeg(
            data, min_height=math.ceil(height / factor), min_width=math.ceil(width / factor)
        )
    except Exception:  # `decode.decode` finds the same fault, and names the image.
        return None
    return DecodedImage(pixels, (height / factor, width / factor), (height, width))


def _is_upright_srgb(data: bytes) -> bool:
    """Returns whether a JPEG is to be shown as it is stored."""
    if not may_have_metadata(data):
        return True  # Quicker than asking Pillow.
    with decode.open_image(data) as image:
        is_upright = image.getexif().get(ExifTags.Base.Orientation) in _UPRIGHT
        return is_upright and decode.is_srgb(image.info.get("icc_profile"))


def may_have_metadata(data: bytes) -> bool:
    """Returns whether a JPEG may have a segment of EXIF data, of XMP, or of a colour profile."""
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _START_OF_SCAN:
            return False
        if marker in _METADATA:
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return True  # There is no marker where one is expected: Pillow looks for the next.

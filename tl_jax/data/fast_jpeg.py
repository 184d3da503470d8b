"""Pixels for training straight from a file's bytes; large JPEG files are decoded reduced."""

import dataclasses
import math

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from tl_jax.data import decode

_UPRIGHT = (None, 1)
_REDUCTIONS = (8, 4, 2)


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
    try:
        with decode.open_image(data) as image:
            if not _is_plain(image):
                return None
            size = image.height, image.width
        by = next((by for by in _REDUCTIONS if min(size) >= by * canvas), 1)
        height, width = (math.ceil(side / by) for side in size)
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except Exception:  # Whatever is wrong with it, `decode` says it with the image's name.
        return None
    return Pixels(pixels, (size[0] / by, size[1] / by), size)


def _is_plain(image: Image.Image) -> bool:
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and image.getexif().get(ExifTags.Base.Orientation) in _UPRIGHT
        and decode.is_srgb(image.info.get("icc_profile"))
    )

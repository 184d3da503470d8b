"""Values of pixels: which of them are black and white, and what the values of a set say of that."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

Range = tuple[float, float]
"""The values of black and of white."""

EIGHT_BITS: Range = (0, 255)
_SIXTEEN_BITS: Range = (0, 65535)
# Formats whose images of Pillow's mode I are scaled to 16 bits.
_SCALED_FORMATS = ("PNG", "PPM")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # Tags of TIFF.
_MIN_IS_WHITE, _UNSIGNED = 0, 1

# Images are suspicious if their values stay within a quarter of the range, or go far beyond it,
# and a set is if nine tenths of its images are.
_QUARTER, _FAR_BEYOND, _MOST = 0.25, 16, 0.9


def check_range(value_range: Sequence[float] | None) -> Range | None:
    """Returns a range as two floats.

    Raises:
      ValueError: unless it is None, or two finite numbers, the lower first.
    """
    if value_range is None:
        return None
    numbers = tuple(value_range)
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
        raise ValueError(
            f"got value_range={numbers}; expected two finite numbers, the values of black and of "
            "white, such as 0 4095"
        )
    return float(numbers[0]), float(numbers[1])


def to_8_bits(values: np.ndarray, black_to_white: Range) -> np.ndarray:
    """Returns values as uint8: black becomes 0, white 255, and what is beyond is clipped.

    Args:
      values: numbers of any type and shape.
      black_to_white: the values of black and white; black may be the larger.

    Raises:
      ValueError: if a value is not finite.

    Examples:
      >>> to_8_bits(np.array([0, 2047, 4095, 9999]), (0, 4095)).tolist()
      [0, 127, 255, 255]
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"got values of type {values.dtype}; expected numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{count} of its {values.size} values are NaN or infinite; replace them by numbers"
        )
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return to_8_bits(np.arange(65536, dtype=np.int64), black_to_white)[values]
    black, white = black_to_white
    levels = (values.astype(np.float64) - black) * (255 / (white - black))
    return np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)


def range_of(image: Image.Image, value_range: Range | None) -> Range | None:
    """Returns the values of black and white of an image of more than 8 bits a channel.

    Args:
      image: a Pillow image, before anything was done to it.
      value_range: what the user says; None for what the file says.

    Returns:
      Black and white, of which black is the larger where a TIFF file declares that its smallest
      value is white. None for images of 8 bits, and where nobody says.

    Raises:
      ValueError: if its values have another meaning than Pillow reads.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    signed = _first(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) != _UNSIGNED
    if not is_wide(image):
        _check_8_bits(image, signed=signed, value_range=value_range)
        return None
    bits = _first(tags.get(_BITS, 16))
    if value_range is not None:
        declared = value_range
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SCALED_FORMATS):
        declared = (0, 2**bits - 1) if tags else _SIXTEEN_BITS
    else:
        return None
    is_inverted = tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    return (declared[1], declared[0]) if is_inverted else declared


def is_wide(image: Image.Image) -> bool:
    """Returns whether an image has one channel of more than 8 bits, or of floats."""
    return image.mode.startswith("I") or image.mode == "F"


def _first(tag: int | tuple[int, ...]) -> int:
    """Returns the value of a tag, of which some files have one for each channel."""
    return tag[0] if isinstance(tag, tuple) else tag


def _check_8_bits(image: Image.Image, *, signed: bool, value_range: Range | None) -> None:
    """Raises ValueError for 8-bit values that Pillow made of others in a way that is not meant."""
    if signed:
        raise ValueError(
            "its values are signed 8-bit integers, which are read as 0 to 255; save it with "
            "unsigned ones"
        )
    if value_range is not None and is_16_bit_colour(image):
        raise ValueError(
            f"it has several channels of 16 bits, of which the upper 8 are read, so that "
            f"value_range={value_range} cannot be used; save it with 8 bits a channel, scaled"
        )


def is_16_bit_colour(image: Image.Image) -> bool:
    """Returns whether Pillow reads the upper 8 bits of colours; known before they are loaded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(raw_mode, str) and ";16" in raw_mode and not is_wide(image)


def no_range(low: float, high: float) -> ValueError:
    """Returns the error for values of which nobody says which are black and white."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ValueError(
            "some of its values are NaN or infinite; replace them by numbers, and give the values "
            "of black and white as value_range (data.value_range in a configuration)"
        )
    black, white = suggested(low, high)
    return ValueError(
        f"its values are from {low:g} to {high:g}, and nothing says which are black and white: "
        f"give these two as value_range, such as {black:g} {white:g} (data.value_range in a "
        "configuration)"
    )


def suggested(low: float, high: float) -> Range:
    """Returns a plausible range of values from `low` to `high`, for messages."""
    if low >= 0:
        for white in (1, 255, 1023, 4095, 16383, 65535):
            if high <= white:
                return 0, white
    return low, high


class Extremes(NamedTuple):
    """The smallest and largest value of an image, and the values that are black and white in it."""

    low: float
    high: float
    black_to_white: Range
    is_wide: bool

    @property
    def relative(self) -> tuple[float, float]:
        """The extremes as shares of the range from its smaller end."""
        start, end = sorted(self.black_to_white)
        return (self.low - start) / (end - start), (self.high - start) / (end - start)


def range_warnings(
    extremes: Sequence[Extremes], value_range: Range | None = None, *, of: str = "images"
) -> list[str]:
    """Returns sentences, with figures, on values that the range of black and white does not fit.

    Args:
      extremes: those of each image that was looked at.
      value_range: the range that the user gave.
      of: what the images are called.

    Examples:
      >>> twelve_bits = [Extremes(3, 4095, (0, 65535), True)] * 200
      >>> range_warnings(twelve_bits)[0].partition(";")[0]
      'largest value 4095 of 65535 in 200 of 200 images: they are nearly black'
    """
    sentences = []
    if value_range is not None and extremes and not any(each.is_wide for each in extremes):
        sentences.append(
            f"value_range={value_range} changes none of the {len(extremes)} {of}: they have 8 bits "
            "a channel, where 0 is black and 255 white; leave it out"
        )
    for kind in sorted({(each.is_wide, each.black_to_white) for each in extremes}):
        members = [each for each in extremes if (each.is_wide, each.black_to_white) == kind]
        sentences += _warnings_of_kind(members, len(extremes), of)
    return sentences


def _warnings_of_kind(members: Sequence[Extremes], total: int, of: str) -> list[str]:
    """Returns the sentences on images with the same values of black and white."""
    end = max(members[0].black_to_white)
    is_inverted = members[0].black_to_white[0] == end
    narrow = [each for each in members if each.relative[1] <= _QUARTER]
    beyond = [each for each in members if each.relative[1] > _FAR_BEYOND]
    remedy = (
        "set data.value_range (--value-range) to the values of black and white, such as "
        if members[0].is_wide
        else "value_range is for gray images of more than 8 bits: save these again with their "
        "values stretched from 0 to 255, if they are not meant so"
    )
    for found, effect in (
        (narrow, f"they are nearly {'white' if is_inverted else 'black'}"),
        (beyond, f"all above {end:g} is {'black' if is_inverted else 'white'}"),
    ):
        if len(found) >= _MOST * len(members) and found:
            low, high = min(each.low for each in found), max(each.high for each in found)
            black, white = suggested(low, high)
            range_text = f"{black:g} {white:g}" if members[0].is_wide else ""
            return [
                f"largest value {high:g} of {end:g} in {len(found)} of {total} {of}: {effect}; "
                f"{remedy}{range_text}"
            ]
    return []

"""Looks at images spread over a source for values that do not fit the range of black and white."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tl_jax.data.images import decode
from tl_jax.data.images.values import EIGHT_BITS, Extremes, Range, range_warnings
from tl_jax.data.source import Source

_LOOKED_AT = 200
# Photographs of 8 bits; decoding large ones only to look at their values would take too long.
_LOSSY = (b"\xff\xd8\xff", b"RIFF")


def value_warnings(source: Source, value_range: Range | None = None) -> list[str]:
    """Returns sentences on a source whose values do not fit their range, for the start of a run.

    Up to 200 images are looked at; images that cannot be read are left to those who read them.

    Args:
      source: the split.
      value_range: what the user gave as `value_range`.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int)).tolist()
    with ThreadPoolExecutor() as pool:
        found = [each for each in pool.map(lambda i: _extremes(source, i), indices) if each]
    of = "images" if len(source) <= _LOOKED_AT else "images that were looked at"
    return range_warnings(found, value_range, of=of)


def _extremes(source: Source, index: int) -> Extremes | None:
    """Returns the extremes of an example's first image, or None if it was not decoded."""
    try:
        data = _file(source, index)
        if data is None:
            image = source[index]["image"]
            pixels = next(v for v in image if v is not None) if source.inputs.views else image
            is_wide = source.value_range is not None
            return Extremes(int(pixels.min()), int(pixels.max()), EIGHT_BITS, is_wide)
        if data.startswith(_LOSSY):
            return Extremes(*EIGHT_BITS, EIGHT_BITS, False)
        return decode.decode_with_format(data, value_range=source.value_range).extremes
    except (decode.CorruptImageError, OSError):
        return None


def _file(source: Source, index: int) -> bytes | None:
    """Returns the file of an example's first image, or None if it is not stored as a file."""
    if source.inputs.views:
        views = source.encoded_views(index)
        return None if views is None else next(data for data in views[0] if data is not None)
    encoded = source.encoded(index)
    return None if encoded is None else encoded[0]

"""Turns image files, bytes, Pillow images and arrays into 8-bit RGB images, or says why not."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

ImageLike = str | Path | Image.Image | np.ndarray


class CorruptImageError(ValueError):
    """An image that cannot be decoded; the message names it."""


def decode(data: str | Path | bytes, *, name: str | None = None) -> np.ndarray:
    """Decodes an image file, or its bytes, to uint8 RGB [H, W, 3].

    The EXIF orientation is applied. Gray images get three equal channels, 16-bit gray is scaled
    to 8 bits, transparency is dropped (the colours below it stay), as `Image.convert` does.

    Args:
      data: path of the file, or its content.
      name: what messages call the image; the default is the path.

    Raises:
      FileNotFoundError: if there is no such file.
      CorruptImageError: if it is no image, is damaged or cut short, or holds values that have no
        8-bit equivalent.
    """
    label = name or (f"{len(data)} bytes" if isinstance(data, bytes) else str(data))
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return np.asarray(to_rgb(image))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise CorruptImageError(f"cannot decode image {label}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a Pillow image upright and in mode RGB; conversions as in `decode`.

    Raises:
      ValueError: if the image holds floats, or integers beyond 16 bits.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_16_bit(upright).convert("RGB")
    if upright.mode in ("P", "PA", "LA"):
        # Straight to RGB, Pillow would warn of a palette's transparency and might misread it.
        return upright.convert("RGBA").convert("RGB")
    return upright.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels are of Pillow's mode {image.mode!r}, from {values.min()} to "
            f"{values.max()}; expected 8-bit channels or 16-bit gray: save it as one of these"
        )
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


def as_rgb(image: ImageLike) -> Image.Image:
    """Returns a path, Pillow image or uint8 array ([H, W] or [H, W, 1, 3 or 4]) in mode RGB.

    Raises:
      TypeError: if it is something else.
      ValueError: if the array has another shape or type.
      CorruptImageError, FileNotFoundError: as `decode`.
    """
    if isinstance(image, str | Path):
        return Image.fromarray(decode(image))
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        return to_rgb(Image.fromarray(_checked(image)))
    raise TypeError(
        f"got an image of type {type(image).__name__}; expected a path, a Pillow image or a "
        "NumPy array"
    )


def _checked(array: np.ndarray) -> np.ndarray:
    known = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if not known or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"got an image array of shape {array.shape} and type {array.dtype}; expected uint8 "
            "of shape [H, W] or [H, W, 1, 3 or 4]: floats in [0, 1] must be scaled by 255 first"
        )
    return array[..., 0] if array.shape[2:] == (1,) else array

"""Decoding: image files, bytes, Pillow images and arrays become 8-bit RGB images."""

import functools
import io
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from tl_jax.data.images import headers, pixel_limit, values
from tl_jax.data.images.values import Extremes, Range

IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".png", ".tif", ".tiff", ".webp"),
    *(".jfi", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pjp", ".pjpeg"),
    *(".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".pnm", ".ppm"),
)
"""Names of files in the formats that are decoded; ".pfm" is left out, whose pixels are floats."""

ImageLike = str | Path | bytes | Image.Image | np.ndarray

# Formats of pixels that are recognised by their content. For EPS Pillow would start Ghostscript.
_FORMATS = tuple("AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PNG PPM TIFF WEBP".split())

# The transpose that makes an image upright, by its EXIF orientation.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Two bytes make at most 255 pixels of a run-length coded BMP. Pillow fills missing pixels one by
# one, in Python: ten seconds for a file of 300 bytes that declares as many as are allowed.
_MAX_PIXELS_PER_BYTE = 128
_SAME_COLOUR = 2  # Levels of 255 by which versions of one profile differ.

# Pillow warns of oddities in files that it decodes nevertheless; what matters is an error here.
# The filter is set once: `warnings.catch_warnings` is not safe in the threads that decode.
for _category in (UserWarning, RuntimeWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.(Image$|\w+ImagePlugin$)")
# Without a handler Pillow's log would go to stderr, several lines for each damaged file.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class CorruptImageError(ValueError):
    """An image that cannot be decoded; the message names it.

    Attributes:
      reason: what is wrong with it, without its name; empty if the message names several.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Decoded(NamedTuple):
    """An image, and the format and mode that its file stores it in."""

    pixels: np.ndarray
    """uint8 RGB [H, W, 3]."""
    format: str
    """Pillow's name of the format, such as "JPEG"."""
    mode: str
    """Pillow's mode, such as "RGB", "L" or "CMYK"."""
    extremes: Extremes = Extremes(*values.EIGHT_BITS, values.EIGHT_BITS, False)
    """The smallest and largest value that the file holds, or, of 8 bits, that `pixels` hold."""


def decode(
    data: str | Path | bytes,
    *,
    name: str | None = None,
    max_pixels: int | None = None,
    value_range: Range | None = None,
) -> np.ndarray:
    """Decodes an image file, or its bytes, to uint8 RGB [H, W, 3], as a viewer would show it.

    The content decides the format, not the file's suffix. The EXIF orientation is applied.
    Transparent pixels are laid over white, as on paper. Gray images get three equal channels, and
    more than 8 bits a channel become 8: from the whole range that the file declares, such as 0 to
    65535, or from `value_range`. Where a TIFF file declares its smallest value as white, it is.
    Colours with an embedded ICC profile other than sRGB are converted to sRGB; CMYK without a
    profile is converted by inverting its inks. The first frame of an animation is used. A file with
    all its pixels is good even if data after them is missing.

    Args:
      data: path of the file, or its content.
      name: what messages call the image; the default is the path.
      max_pixels: limit on height * width; the default is `pixel_limit.limit()`.
      value_range: the values of black and of white in an image of more than 8 bits or of floats,
        such as (0, 4095); values beyond it are clipped. Images of 8 bits are 0 to 255 always.

    Raises:
      FileNotFoundError: if there is no such file.
      CorruptImageError: if it is not an image, is damaged or truncated, has too many pixels, or
        holds values of which nothing says which are black and white.
    """
    return _decode(data, name, max_pixels, value_range)[0]


def decode_with_format(
    data: str | Path | bytes, *, name: str | None = None, value_range: Range | None = None
) -> Decoded:
    """Decodes an image as `decode` does, and returns what its file stores too."""
    pixels, image, black_to_white = _decode(data, name, None, value_range)
    if black_to_white is None:
        extremes = Extremes(int(pixels.min()), int(pixels.max()), values.EIGHT_BITS, False)
    else:
        stored = np.asarray(image)
        extremes = Extremes(float(stored.min()), float(stored.max()), black_to_white, True)
    return Decoded(pixels, image.format or "", image.mode, extremes)


def _decode(
    data: str | Path | bytes, name: str | None, max_pixels: int | None, value_range: Range | None
) -> tuple[np.ndarray, Image.Image, Range | None]:
    """Returns the pixels, the image as it is stored, and its values of black and white."""
    label = name or (f"{len(data)} bytes" if isinstance(data, bytes) else str(data))
    most = pixel_limit.limit() if max_pixels is None else max_pixels
    try:
        with open_image(data, max_pixels=most) as image:
            black_to_white = values.range_of(image, value_range)
            return np.asarray(to_rgb(image, value_range)), image, black_to_white
    except FileNotFoundError:
        raise
    except CorruptImageError as error:
        raise CorruptImageError(
            f"cannot decode image {label}: {error.reason}", error.reason
        ) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise CorruptImageError(f"cannot decode image {label}: {reason}", reason) from error


def open_image(data: str | Path | bytes, *, max_pixels: int | None = None) -> Image.Image:
    """Opens an image file, or its bytes, and reads only its header.

    Raises:
      FileNotFoundError: if there is no such file.
      CorruptImageError: if it is not an image, or has too many pixels; the message is the reason.
    """
    if not isinstance(data, bytes):
        check_file(Path(data))
    most = pixel_limit.limit() if max_pixels is None else max_pixels
    _check_size(pixel_limit.promised(data), most)
    pixel_limit.let_pillow_open(most)
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, "r", _formats())
    except UnidentifiedImageError as error:
        raise _corrupt(f"cannot identify image file: {headers.describe(data)}") from error
    except Image.DecompressionBombError as error:
        reason = pixel_limit.refusal(None, most, str(error))
        raise _corrupt(reason or str(error)) from error
    try:
        _check_size(image.size, most)
        _check_run_lengths(image, data)
    except CorruptImageError:
        image.close()
        raise
    return image


def _check_size(size: tuple[int, int] | None, most: int) -> None:
    reason = None if size is None else pixel_limit.refusal(size, most)
    if reason is not None:
        raise _corrupt(reason)


def _check_run_lengths(image: ImageFile.ImageFile, data: str | Path | bytes) -> None:
    """Raises CorruptImageError for a run-length coded BMP whose bytes cannot be all its pixels."""
    if not image.tile or image.tile[0][0] != "bmp_rle":
        return
    length = len(data) if isinstance(data, bytes) else Path(data).stat().st_size
    if image.width * image.height > _MAX_PIXELS_PER_BYTE * length:
        raise _corrupt(
            f"it declares {image.width} x {image.height} pixels, more than its {length} bytes hold"
        )


def check_file(path: Path) -> None:
    """Raises CorruptImageError for a directory, and for a pipe, on which reading would block."""
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a device or a pipe"
        raise _corrupt(f"it is {kind}, not a file")


def to_rgb(image: Image.Image, value_range: Range | None = None) -> Image.Image:
    """Returns a Pillow image upright and in mode RGB, converted as in `decode`.

    Raises:
      ValueError: if nothing says which of its values are black and white.
    """
    black_to_white = values.range_of(image, value_range)
    image.load()  # Some formats read their metadata only now.
    colours, alpha = _split_alpha(_upright(image), black_to_white)
    rgb = _to_srgb(colours, image.info.get("icc_profile"))
    if alpha is None or alpha.getextrema()[0] == 255:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def is_srgb(profile: bytes | None) -> bool:
    """Returns whether colours with this ICC profile are used as they are.

    This holds without a profile, and for a profile that cannot be read.
    """
    return not profile or all(
        _srgb_transform(profile, mode) is None for mode in _PROFILE_MODES.values()
    )


def as_rgb(image: ImageLike, value_range: Range | None = None) -> Image.Image:
    """Returns an image in mode RGB.

    Args:
      image: a path, the bytes of a file, a Pillow image, or an array [H, W] or [H, W, 1, 3 or 4]:
        NumPy's, or one that NumPy can read.
      value_range: as in `decode`; also of arrays that are not uint8.

    Raises:
      TypeError: if it is something else.
      ValueError: if an array has another shape, or is not uint8 and there is no `value_range`.
      CorruptImageError, FileNotFoundError: as `decode`.
    """
    if isinstance(image, str | Path | bytes):
        return Image.fromarray(decode(image, value_range=value_range))
    if isinstance(image, Image.Image):
        return to_rgb(image, value_range)
    if hasattr(image, "__array__"):
        return to_rgb(Image.fromarray(_array_to_8_bits(np.asarray(image), value_range)))
    raise TypeError(
        f"got an image of type {type(image).__name__}; expected a path, a Pillow image or a "
        "NumPy array"
    )


def _corrupt(reason: str) -> CorruptImageError:
    return CorruptImageError(reason, reason)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF data can be damaged in any way; the pixels are still good.
        return image
    if orientation not in _TRANSPOSES:
        return image
    return image.transpose(_TRANSPOSES[orientation])


def _split_alpha(
    image: Image.Image, black_to_white: Range | None
) -> tuple[Image.Image, Image.Image | None]:
    """Returns the colours and, if anything is transparent, the alpha channel in mode L."""
    if values.is_wide(image):
        return _from_wide(image, black_to_white)
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return image.convert("RGB") if image.mode == "P" else image, None


def _from_wide(
    image: Image.Image, black_to_white: Range | None
) -> tuple[Image.Image, Image.Image | None]:
    """Returns gray of 8 bits out of more, or of floats; and the alpha channel, as above."""
    stored = np.asarray(image)
    if black_to_white is None:
        raise values.no_range(float(stored.min()), float(stored.max()))
    gray = Image.fromarray(values.to_8_bits(stored, black_to_white))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray, None
    return gray, Image.fromarray(np.where(stored == transparent, 0, 255).astype(np.uint8))


def _to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return colours.convert("RGB")
    candidates = [colours, colours.convert("RGB")]  # Gray with a profile for RGB is common.
    for image in candidates:
        transform = _srgb_transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            if converted is not None:  # Pillow returns None only for conversions in place.
                return converted
    return candidates[-1]


@functools.lru_cache(maxsize=32)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform of colours of a mode to sRGB, or None if it would change nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None  # A damaged profile: viewers show the colours as they are.
    if mode == "CMYK":
        return transform
    # Compare on a grid of 17 * 17 * 17 colours over the RGB cube.
    levels = np.linspace(0, 255, 17).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    colours = Image.fromarray(cube.reshape(17, -1, 3)).convert(mode)
    changed = np.asarray(ImageCms.applyTransform(colours, transform), np.int64)
    is_same = np.abs(changed - np.asarray(colours.convert("RGB"))).max() <= _SAME_COLOUR
    return None if is_same else transform


def _array_to_8_bits(array: np.ndarray, value_range: Range | None) -> np.ndarray:
    check_shape(array.shape)
    if array.dtype != np.uint8:
        if value_range is None:
            raise _not_uint8(array)
        array = values.to_8_bits(array, value_range)
    return array[..., 0] if array.shape[2:] == (1,) else array


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless an array of this shape is one image, gray, RGB or RGBA."""
    has_channels = len(shape) == 3 and shape[-1] in (1, 3, 4)
    if (len(shape) == 2 or has_channels) and 0 not in shape:
        return
    remedy = ""
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[-1] > 4:
        remedy = ": move the channels to the end, image.transpose(1, 2, 0)"
    elif len(shape) == 4:
        remedy = ": this is a batch; give its images one by one"
    raise ValueError(
        f"got an image array of shape {shape}; expected [H, W] or [H, W, 1, 3 or 4]{remedy}"
    )


def _not_uint8(array: np.ndarray) -> ValueError:
    """Returns the error for an array whose values of black and white nobody gave."""
    got = f"got an image array of type {array.dtype}"
    if array.dtype.kind not in "biuf":
        return ValueError(f"{got}; expected uint8, 0 to 255")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return ValueError(f"{got} that holds NaN or infinity; expected uint8, 0 to 255")
    black, white = values.suggested(low, high)
    return ValueError(
        f"{got}, values from {low:g} to {high:g}; expected uint8, or the values of black and white "
        f"as value_range, such as value_range=({black:g}, {white:g})"
    )

"""Decoding: image files, bytes, Pillow images and arrays become 8-bit RGB images."""

import functools
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 89_478_485
"""Larger images count as decompression bombs: 256 MiB in RGB, where Pillow warns."""

ImageLike = str | Path | Image.Image | np.ndarray

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

# Other files that are sometimes named like images, by their first bytes.
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript document"),
    (b"ID3", "an MP3 file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)

# Pillow warns of oddities in files that it decodes nevertheless; what matters is an error here.
# The filter is set once: `warnings.catch_warnings` is not safe in the threads that decode.
for _category in (UserWarning, RuntimeWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.(Image$|\w+ImagePlugin$)")


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


def decode(
    data: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes an image file, or its bytes, to uint8 RGB [H, W, 3], as a viewer would show it.

    The content decides the format, not the file's suffix. The EXIF orientation is applied.
    Transparent pixels are laid over white, as on paper. Gray images get three equal channels, and
    16 bits a channel become 8. Colours with an embedded ICC profile other than sRGB are converted
    to sRGB; CMYK without a profile is converted by inverting its inks. The first frame of an
    animation is used. A file with all its pixels is good even if data after them is missing.

    Args:
      data: path of the file, or its content.
      name: what messages call the image; the default is the path.
      max_pixels: limit on height * width. Above twice the default Pillow has a limit of its own,
        `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
      FileNotFoundError: if there is no such file.
      CorruptImageError: if it is not an image, is damaged or truncated, has too many pixels, or
        holds values that have no 8-bit equivalent.
    """
    return decode_with_format(data, name=name, max_pixels=max_pixels).pixels


def decode_with_format(
    data: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Decodes an image as `decode` does, and returns its file's format and mode too."""
    label = name or (f"{len(data)} bytes" if isinstance(data, bytes) else str(data))
    try:
        with open_image(data, max_pixels=max_pixels) as image:
            file_format, mode = image.format or "", image.mode
            return Decoded(np.asarray(to_rgb(image)), file_format, mode)
    except FileNotFoundError:
        raise
    except CorruptImageError as error:
        raise CorruptImageError(
            f"cannot decode image {label}: {error.reason}", error.reason
        ) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise CorruptImageError(f"cannot decode image {label}: {reason}", reason) from error


def open_image(data: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file, or its bytes, and reads only its header.

    Raises:
      FileNotFoundError: if there is no such file.
      CorruptImageError: if it is not an image, or has too many pixels; the message is the reason.
    """
    if not isinstance(data, bytes):
        check_file(Path(data))
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, "r", _formats())
    except UnidentifiedImageError as error:
        raise _corrupt(f"cannot identify image file: {_describe(data)}") from error
    except Image.DecompressionBombError as error:
        raise _corrupt(f"{error}; Pillow's limit is PIL.Image.MAX_IMAGE_PIXELS") from error
    pixels = image.width * image.height
    declared = f"it declares {image.width} x {image.height} pixels"
    if pixels > max_pixels:
        image.close()
        raise _corrupt(
            f"{declared}, more than {max_pixels}: it may be a decompression bomb; if it is not, "
            "make it smaller"
        )
    if image.tile and image.tile[0][0] == "bmp_rle":
        length = len(data) if isinstance(data, bytes) else Path(data).stat().st_size
        if pixels > _MAX_PIXELS_PER_BYTE * length:
            image.close()
            raise _corrupt(f"{declared}, more than its {length} bytes hold")
    return image


def check_file(path: Path) -> None:
    """Raises CorruptImageError for a directory, and for a pipe, on which reading would block."""
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a device or a pipe"
        raise _corrupt(f"it is {kind}, not a file")


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a Pillow image upright and in mode RGB, converted as in `decode`.

    Raises:
      ValueError: if the image holds floats, or integers beyond 16 bits.
    """
    image.load()  # Some formats read their metadata only now.
    colours, alpha = _split_alpha(_upright(image))
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
        return to_rgb(Image.fromarray(_checked_array(image)))
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


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns the colours and, if anything is transparent, the alpha channel in mode L."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_16_bit(image)
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return image.convert("RGB") if image.mode == "P" else image, None


def _from_16_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels are of Pillow's mode {image.mode!r}, from {values.min()} to "
            f"{values.max()}; expected 8-bit channels or 16-bit gray: save it as one of these"
        )
    gray = Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray, None
    return gray, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


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


def _describe(data: str | Path | bytes) -> str:
    """Describes by its first bytes a file that is not an image."""
    if isinstance(data, bytes):
        head = data[:512]
    else:
        with Path(data).open("rb") as file:
            head = file.read(512)
    if not head:
        return "it is empty"
    if not head.strip(b"\0"):
        return "it begins with nothing but zero bytes"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return f"it is {kind}"
    if head[4:8] == b"ftyp":
        return f"it is a HEIF photo or a video of brand {head[8:12].decode('ascii', 'replace')!r}"
    text = head.decode("utf-8", "ignore").strip()
    if len(text) > 1 and all(letter.isprintable() or letter.isspace() for letter in text):
        markup = text.lower().startswith(("<!doctype html", "<html", "<svg", "<?xml"))
        begins = " ".join(text.split())[:40]
        return f"it is {'markup' if markup else 'text'} that begins {begins!r}"
    return f"no known kind of image begins with the bytes {head[:8].hex(' ')}"


def _checked_array(array: np.ndarray) -> np.ndarray:
    has_known_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if not has_known_shape or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"got an image array of shape {array.shape} and type {array.dtype}; expected uint8 "
            "of shape [H, W] or [H, W, 1, 3 or 4]: floats in [0, 1] must be scaled by 255 first"
        )
    return array[..., 0] if array.shape[2:] == (1,) else array

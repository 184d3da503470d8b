"""Says what a file that cannot be opened as an image is, by its first bytes."""

import io
from pathlib import Path

from PIL import TiffImagePlugin

# Other files that are sometimes named like images, by their first bytes.
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript document"),
    (b"ID3", "an MP3 file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array (open it as arrays or 'npz:')"),
    (b"SIMPLE  =", "a FITS file"),
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the image"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DICOM_AT = 128
_BITS, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339
_SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}


def describe(data: str | Path | bytes) -> str:
    """Describes a file, or its bytes, that is not an image or cannot be read as one."""
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
    if head.startswith(_TIFF):
        return _describe_tiff(data)
    if head[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        return "it is a DICOM file: save its pixels as 16-bit PNG or TIFF"
    if head.startswith(b"\x89PNG"):
        return "it is a PNG file without a sound header"
    if head[4:8] == b"ftyp":
        return f"it is a HEIF photo or a video of brand {head[8:12].decode('ascii', 'replace')!r}"
    text = head.decode("utf-8", "ignore").strip()
    if len(text) > 1 and all(letter.isprintable() or letter.isspace() for letter in text):
        markup = text.lower().startswith(("<!doctype html", "<html", "<svg", "<?xml"))
        begins = " ".join(text.split())[:40]
        return f"it is {'markup' if markup else 'text'} that begins {begins!r}"
    return f"no known kind of image begins with the bytes {head[:8].hex(' ')}"


def _describe_tiff(data: str | Path | bytes) -> str:
    """Names the channels of a TIFF file that Pillow does not read."""
    content = data if isinstance(data, bytes) else Path(data).read_bytes()
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        samples, bits = directory.get(_SAMPLES, 1), directory.get(_BITS, (1,))
        sample_format = directory.get(_SAMPLE_FORMAT, (1,))
    except Exception:  # A damaged directory fails in any way.
        return "it is a TIFF file whose directory is damaged"
    kind = _SAMPLE_FORMATS.get(sample_format[0], "values of another kind")
    return (
        f"it is a TIFF file of {samples} channel{'s' * (samples != 1)} of {bits[0]}-bit {kind}, "
        "which Pillow does not read: save it with one channel of 8 or 16-bit unsigned integers or "
        "of 32-bit floats, or with three of 8 bits"
    )

"""Reads one image of a source for a prepared set: decoded, described and encoded for storage."""

import dataclasses
import errno
import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.prepare.inspection import CorruptImage, ImageInfo, class_names
from tl_jax.data.source import Example, Source, Task
from tl_jax.data.sources.folder import FolderSource

Encoding = Literal["as-is", "jpeg", "png"]

_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "AVIF")
_JPEG_QUALITY = 95
# Errors of the machine rather than of a file.
_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclasses.dataclass(frozen=True)
class GoodImage:
    """An image that can be decoded.

    Attributes:
      data: the encoded image, to be stored.
      info: what is known of it.
    """

    data: bytes
    info: ImageInfo


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads images of sources; called from several threads.

    Attributes:
      base: folder that the names of files are relative to, if the source has one.
      max_side, encoding: as in `pack.prepare_source`.
    """

    base: Path | None
    max_side: int | None
    encoding: Encoding

    def __call__(self, source: Source, index: int) -> GoodImage | CorruptImage:
        """Reads example `index` of a source.

        Raises:
          OSError: if the machine has no memory or no file handles left.
        """
        name = f"{source.split}[{index}]"
        label: Any = None
        try:
            if isinstance(source, FolderSource):
                name = self._relative(source.paths[index])
                decode.check_file(source.paths[index])
            encoded = source.encoded(index)
            if encoded is None:
                example = source[index]
                data = _encode(example["image"], "png")
            else:
                data, example = encoded
            name, label = self._relative(example.get("path", name)), example["label"]
            decoded = decode.decode_with_format(data, value_range=source.value_range)
        except (decode.CorruptImageError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
                raise
            label = source.labels()[index] if label is None else label
            classes = "/".join(class_names(_as_tuple(label), source.tasks[0]))
            return CorruptImage(source.split, index, name, classes, _reason(error))
        info = ImageInfo.of(
            data,
            decoded,
            split=source.split,
            index=index,
            name=name,
            labels=_labels(example, source.tasks),
        )
        return GoodImage(self._stored(data, decoded), info)

    def _stored(self, data: bytes, decoded: decode.Decoded) -> bytes:
        """Returns the bytes to store: the file's own, or those of a smaller or re-encoded image."""
        pixels, longest = decoded.pixels, max(decoded.pixels.shape[:2])
        encoding = self.encoding
        if self.max_side is not None and longest > self.max_side:
            scale = self.max_side / longest
            height, width = (max(round(side * scale), 1) for side in pixels.shape[:2])
            small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            pixels = np.asarray(small)
            if encoding == "as-is":
                encoding = "jpeg" if decoded.format in _LOSSY_FORMATS else "png"
        return data if encoding == "as-is" else _encode(pixels, encoding)

    def _relative(self, path: str | bytes | Path) -> str:
        # Names that are not UTF-8 can neither be printed nor stored as text.
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        return name.removeprefix(f"{self.base}{os.sep}")


def _encode(pixels: np.ndarray, encoding: Literal["jpeg", "png"]) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(buffer, encoding, **options)
    return buffer.getvalue()


def _labels(example: Example, tasks: tuple[Task, ...]) -> dict[str, tuple[int, ...]]:
    keys = ["label", *(task.name for task in tasks[1:])]
    return {task.name: _as_tuple(example[key]) for task, key in zip(tasks, keys, strict=True)}


def _as_tuple(label: int | np.ndarray) -> tuple[int, ...]:
    return tuple(np.atleast_1d(label).tolist())


def _reason(error: decode.CorruptImageError | OSError) -> str:
    if isinstance(error, decode.CorruptImageError):
        return error.reason or str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or it is a link that leads nowhere"
    return error.strerror or str(error)

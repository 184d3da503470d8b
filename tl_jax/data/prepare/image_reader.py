"""Reads one image of a source for a prepared set: verified, described, and stored as is asked."""

import dataclasses
import errno
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.prepare import inspection
from tl_jax.data.source import EncodedSource, Source, Task, tasks_of

Encoding = Literal["as-is", "jpeg", "png"]

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_JPEG_QUALITY = 95
# What a machine lacks, not a file.
_OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclasses.dataclass(frozen=True)
class GoodImage:
    """A good image.

    Attributes:
      data: the encoded image, for the records.
      facts: for the report.
    """

    data: bytes
    facts: inspection.Facts


@runtime_checkable
class _OfFiles(Protocol):
    paths: Sequence[Path]


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads, decodes and, if asked to, re-encodes one image of a source.

    Attributes:
      base: folder that files are named from, if the source has one.
      max_side, encoding: as in `prepare.prepare`.
    """

    base: Path | None
    max_side: int | None
    encoding: Encoding

    def __call__(self, source: Source, index: int) -> GoodImage | inspection.Corrupt:
        """Reads example `index`; what cannot be decoded is said to be corrupt."""
        name = f"{source.split}[{index}]"
        tasks = tasks_of(source)
        example: Mapping[str, Any] = {}
        try:
            data, example = self._read(source, index)
            name = self._name(example.get("path", name))
            whole = decode.decode_whole(data)
        except (decode.CorruptImageError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OWN_FAULTS:
                raise
            if isinstance(source, _OfFiles):
                name = self._name(source.paths[index])
            label = example["label"] if example else source.labels()[index]
            classes = "/".join(inspection.class_names(label, tasks[0]))
            return inspection.Corrupt(source.split, index, name, classes, _reason(error))
        labels = _labels(example, tasks)
        facts = inspection.facts(
            data, whole, split=source.split, index=index, name=name, labels=labels
        )
        return GoodImage(self._stored(data, whole), facts)

    def _read(self, source: Source, index: int) -> tuple[bytes, Mapping[str, Any]]:
        if isinstance(source, _OfFiles):
            decode.check_file(source.paths[index])
        if isinstance(source, EncodedSource):
            return source.encoded(index)
        example = source[index]
        return _encode(example["image"], "png"), example

    def _stored(self, data: bytes, decoded: decode.Decoded) -> bytes:
        height, width = decoded.pixels.shape[:2]
        larger = self.max_side is not None and max(height, width) > self.max_side
        if self.encoding == "as-is" and not larger:
            return data
        as_is = "jpeg" if decoded.format in _LOSSY else "png"
        pixels = _smaller(decoded.pixels, self.max_side) if larger else decoded.pixels
        return _encode(pixels, as_is if self.encoding == "as-is" else self.encoding)

    def _name(self, path: str | bytes | Path) -> str:
        # Names that are no UTF-8 can be neither printed nor stored as text.
        whole = os.fsencode(path).decode("utf-8", "backslashreplace")
        return whole.removeprefix(f"{self.base}{os.sep}")


def _reason(error: Exception) -> str:
    if isinstance(error, decode.CorruptImageError):
        return error.reason or str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or it is a link that leads nowhere"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _labels(example: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Returns an example's labels by task, as numbers and tuples."""
    found = {}
    for number, task in enumerate(tasks):
        label = example[task.name if number else "label"]
        found[task.name] = tuple(np.asarray(label).tolist()) if task.multi_label else int(label)
    return found


def _smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _encode(pixels: np.ndarray, encoding: Literal["jpeg", "png"]) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(buffer, encoding, **options)
    return buffer.getvalue()

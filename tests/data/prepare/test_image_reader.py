"""Reading images to be packed: stored as they are or re-encoded, and corrupt ones explained."""

import errno
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.prepare.image_reader import GoodImage, ImageReader
from tl_jax.data.prepare.inspection import CorruptImage
from tl_jax.data.source import Task
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.folder import FolderSource

# pytest resets the filters of warnings, and with them that of the decoder.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

SUFFIXES = ("jpg", "png", "webp", "bmp")


@pytest.fixture
def paths(tmp_path, save_image):
    """An image of each format, 20 to 23 pixels wide and 32 high."""
    return [
        save_image(tmp_path / "dog" / f"é {i}.{suffix}", seed=i, size=(20 + i, 32))
        for i, suffix in enumerate(SUFFIXES)
    ]


def source_of(*paths):
    tasks, root = (Task("label", ("dog",)),), Path("x")
    return FolderSource("folder:x", "train", tasks, root, paths, (0,) * len(paths))


def read(path, *, max_side=None, encoding="as-is"):
    reader = ImageReader(path.parents[1], max_side, encoding)
    return reader(source_of(path), 0)


def image_of(data):
    return Image.open(io.BytesIO(data))


def test_files_are_stored_byte_for_byte(paths):
    for path in paths:
        image = read(path, max_side=32)
        assert isinstance(image, GoodImage)
        assert image.data == path.read_bytes()
        assert (image.info.name, image.info.labels) == (f"dog/{path.name}", {"label": (0,)})
        assert (image.info.height, image.info.width) == decode.decode(path).shape[:2]


def test_larger_images_are_shrunk(paths):
    for i, path in enumerate(paths):
        image = read(path, max_side=31)
        before, after = Image.open(path), image_of(image.data)
        assert after.size == (round((20 + i) * 31 / 32), 31)
        assert after.format == ("JPEG" if before.format in ("JPEG", "WEBP") else "PNG")
        small = before.convert("RGB").resize(after.size, Image.Resampling.BICUBIC)
        if after.format == "PNG":
            np.testing.assert_array_equal(np.asarray(after), np.asarray(small))
        assert image.info.height == 32  # The report is on the source.


def test_all_images_can_be_stored_as_png(paths):
    for path in paths:
        stored = image_of(read(path, encoding="png").data)
        assert stored.format == "PNG"
        np.testing.assert_array_equal(np.asarray(stored), decode.decode(path))


def test_jpeg_is_of_quality_95(paths):
    for path in paths:
        expected = io.BytesIO()
        Image.fromarray(decode.decode(path)).save(expected, "JPEG", quality=95)
        assert read(path, encoding="jpeg").data == expected.getvalue()


def test_arrays_are_stored_without_loss():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), np.uint8)
    image = ImageReader(None, None, "as-is")(from_arrays(images, [1, 0]), 1)
    assert (image.info.name, image.info.labels) == ("train[1]", {"label": (0,)})
    np.testing.assert_array_equal(decode.decode(image.data), images[1])


def test_everything_that_is_not_an_image_is_explained(paths):
    folder = paths[0].parent
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes(paths[0].read_bytes()[:-40])
    bomb = bytearray(paths[3].read_bytes())
    bomb[18:26] = struct.pack("<ii", 10_000, 10_000)
    (folder / "bomb.bmp").write_bytes(bomb)
    reasons = {
        "folder.jpg": "it is a directory, not a file",
        "pipe.png": "it is a device or a pipe, not a file",
        "link.png": "there is no such file, or it is a link that leads nowhere",
        "empty.png": "it is empty",
        "text.jpg": "it is text that begins 'no image'",
        "cut.jpg": "image file is truncated",
        "bomb.bmp": "decompression bomb",
    }
    for name, reason in reasons.items():
        image = read(folder / name)
        assert isinstance(image, CorruptImage)
        assert (image.split, image.index, image.name) == ("train", 0, f"dog/{name}")
        assert image.label == "dog"
        assert reason in image.reason


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, False), (errno.EMFILE, True)])
def test_errors_of_the_machine_are_raised(paths, monkeypatch, number, raised):
    def fail(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    if raised:
        with pytest.raises(OSError, match="Too many open files"):
            read(paths[0])
    else:
        assert read(paths[0]).reason == "Input/output error"


def test_names_that_are_not_text_are_written_legibly(paths):
    for name, content in ((b"\xff", paths[0].read_bytes()), (b"\xfe", b"")):
        path = Path(os.fsdecode(os.fsencode(paths[0].parent) + b"/" + name + b".png"))
        path.write_bytes(content)
        image = read(path)
        shown = image.info.name if content else image.name
        assert shown == rf"dog/\x{name.hex()}.png"

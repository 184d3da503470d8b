"""Decoding for training: small files in full, large JPEG files reduced, damaged ones named."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from skimage import data

from tests.support.loading import Files, canvas_image, encoded
from tl_jax.data.images import decode, fast_jpeg
from tl_jax.data.loading.readers import TrainReader

CANVAS = 32


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(data.astronaut())


def canvas_of(content, canvas, *, name):
    decoded = fast_jpeg.decode_reduced(content, canvas, name=name)
    return decoded.stretch(canvas), decoded.size


def in_full(content):
    image = decode.decode(content)
    return canvas_image(image, CANVAS), image.shape[:2]


def by_pillow(content):
    """Returns the reduced image that Pillow's draft mode gives, and the part of it in use."""
    with Image.open(io.BytesIO(content)) as image:
        _, box = image.draft(None, (CANVAS, CANVAS))
        return np.asarray(image.convert("RGB")), (box[3], box[2])


def distance(one, other):
    """Returns the mean difference in 8-bit levels."""
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("size", [(63, 200), (200, 63), (33, 31), (5, 4), (32, 32)])
def test_a_jpeg_less_than_twice_the_canvas_gives_the_pixels_of_a_whole_decode(photo, size):
    content = encoded(photo.resize(size), quality=90)
    actual, shape = canvas_of(content, CANVAS, name="x")
    expected, full_size = in_full(content)
    assert shape == full_size == size[::-1]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("size", "inner"),
    [((64, 64), (32, 32)), ((65, 301), (33, 151)), ((129, 200), (33, 50)), ((256, 511), (32, 64))],
)
@pytest.mark.parametrize("kind", ["RGB", "gray", "progressive"])
def test_a_larger_jpeg_is_decoded_reduced(photo, size, inner, kind):
    image = photo.resize(size)
    image = image.convert("L") if kind == "gray" else image
    content = encoded(image, quality=90, progressive=kind == "progressive")
    actual, shape = canvas_of(content, CANVAS, name="x")
    assert shape == size[::-1]
    decoded = fast_jpeg.decode_reduced(content, CANVAS, name="x")
    reference, extent = by_pillow(content)
    assert decoded.pixels.shape[:2] == inner[::-1]
    np.testing.assert_array_equal(decoded.pixels, reference)
    assert decoded.extent == extent
    expected, _ = in_full(content)
    assert (actual != expected).any()
    assert distance(actual, expected) < 6 < 20 < distance(actual[:, ::-1], expected)


def rotated(photo, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo.resize((200, 100)), exif=exif)


def rotated_by_xmp(photo):
    return encoded(photo.resize((200, 100)), xmp=b'<x tiff:Orientation="6"/>')


def with_fill_byte(content):
    """Returns a JPEG with a second 0xFF before the marker of its EXIF data."""
    return content.replace(b"\xff\xe1", b"\xff\xff\xe1", 1)


@pytest.mark.parametrize(
    "content",
    [
        rotated,
        rotated_by_xmp,
        lambda photo: with_fill_byte(rotated(photo)),
        lambda photo: encoded(photo.resize((200, 100)).convert("CMYK")),
        lambda photo: encoded(photo.resize((200, 100)), "PNG"),
        lambda photo: encoded(photo.resize((200, 100)), "WEBP", lossless=True),
    ],
)
def test_anything_else_is_decoded_in_full(photo, content):
    actual, shape = canvas_of(content(photo), CANVAS, name="x")
    expected, full_size = in_full(content(photo))
    assert shape == full_size
    np.testing.assert_array_equal(actual, expected)


def test_an_upright_jpeg_with_metadata_is_decoded_reduced(photo):
    actual, without = rotated(photo, orientation=1), encoded(photo.resize((200, 100)))
    np.testing.assert_array_equal(*(canvas_of(x, CANVAS, name="x")[0] for x in (actual, without)))


def test_metadata_behind_a_fill_byte_are_noticed():
    length = b"\xe1\x00"  # What follows the two bytes 0xFF, were they a marker.
    assert fast_jpeg.may_have_metadata(
        b"\xff\xd8\xff\xff" + length + bytes(0xE100 - 2) + b"\xff\xda"
    )


def test_a_jpeg_that_declares_too_many_pixels_is_named(photo, monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: pytest.fail("decoded"))
    content = encoded(photo.resize((200, 100)))
    size = (100).to_bytes(2) + (200).to_bytes(2)
    content = content.replace(size, (60000).to_bytes(2) + (60000).to_bytes(2))
    with pytest.raises(decode.CorruptImageError, match="seven.*60000"):
        canvas_of(content, CANVAS, name="seven")


def test_colours_to_be_converted_are_decoded_in_full(photo, monkeypatch):
    content = encoded(photo.resize((200, 100)), icc_profile=b"a profile")
    assert distance(canvas_of(content, CANVAS, name="x")[0], in_full(content)[0]) > 0
    monkeypatch.setattr(decode, "is_srgb", lambda profile: profile != b"a profile")
    np.testing.assert_array_equal(canvas_of(content, CANVAS, name="x")[0], in_full(content)[0])


@pytest.mark.parametrize("cut", [0, 3, 200, 0.5, 0.95])
def test_a_damaged_file_is_named(photo, cut):
    content = encoded(photo.resize((200, 100)))
    content = content[: int(cut * len(content)) if isinstance(cut, float) else cut]
    with pytest.raises(decode.CorruptImageError, match="cannot decode image seven"):
        canvas_of(content, CANVAS, name="seven")


def test_training_reads_bytes_where_the_source_has_them(photo):
    content = encoded(photo.resize((200, 100)))
    source = Files(content, content[:300])
    actual = TrainReader(source, CANVAS)[0]
    assert source.encoded_reads == 1
    np.testing.assert_array_equal(actual["image"], canvas_of(content, CANVAS, name="x")[0])
    assert (actual["size"], actual["label"]) == ((100, 200), 0)
    in_full_size = TrainReader(source, CANVAS, fast_jpeg=False)[0]
    assert source.encoded_reads == 1
    np.testing.assert_array_equal(in_full_size["image"], in_full(content)[0])
    with pytest.raises(decode.CorruptImageError, match="example 1 of split 'train' of files"):
        TrainReader(source, CANVAS)[1]

"""Decoding: every kind of image becomes 8-bit RGB, and what is damaged is named."""

import io

import numpy as np
import pytest
from PIL import Image

from tl_jax.data import decode

RNG = np.random.default_rng(0)


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_rgb_pixels_are_those_of_the_file(tmp_path):
    pixels = RNG.integers(0, 256, (5, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode.decode(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(decode.decode((tmp_path / "a.png").read_bytes()), pixels)


def test_gray_gets_three_equal_channels():
    pixels = RNG.integers(0, 256, (5, 8), np.uint8)
    decoded = decode.decode(png(Image.fromarray(pixels)))
    np.testing.assert_array_equal(decoded, np.repeat(pixels[..., None], 3, axis=-1))


def test_transparency_is_dropped_and_the_colour_below_stays():
    pixels = RNG.integers(0, 256, (5, 8, 4), np.uint8)
    np.testing.assert_array_equal(decode.decode(png(Image.fromarray(pixels))), pixels[..., :3])


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_decoded_without_a_warning():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    decoded = decode.decode(png(image, transparency=b"\x00\x80"))
    np.testing.assert_array_equal(decoded, [[[10, 20, 30], [40, 50, 60]]])


def test_16_bit_gray_is_scaled_not_clipped():
    wide = np.asarray([[0, 257, 128 * 257, 65535, 128, 129]], np.uint16)
    decoded = decode.decode(png(Image.fromarray(wide)))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 128, 255, 0, 1])


def test_floats_are_refused_with_a_reason(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(decode.CorruptImageError, match=r"a\.tiff.*mode 'F'.*expected 8-bit"):
        decode.decode(tmp_path / "a.tiff")


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: rotate by 270 degrees to show it upright.
    image = Image.fromarray(RNG.integers(0, 256, (5, 8, 3), np.uint8))
    image.save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(decode.decode(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(decode.CorruptImageError, match=f"cannot decode image .*a.{suffix}"):
        decode.decode(path)


def test_a_missing_file_is_missing_not_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode.decode(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 1), (5, 8, 3), (5, 8, 4)])
def test_arrays_are_taken_by_shape(shape):
    array = RNG.integers(0, 256, shape, np.uint8)
    channels = array.reshape(5, 8, -1)[..., :3]
    np.testing.assert_array_equal(
        np.asarray(decode.as_rgb(array)), np.broadcast_to(channels, (5, 8, 3))
    )


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        decode.as_rgb(array)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="got an image of type int"):
        decode.as_rgb(3)

"""Decoding: every kind of image becomes 8-bit RGB, and what is damaged is named."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.support.slim import ROOT
from tl_jax.data.images import decode

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


def over_white(pixels):
    """Returns what one sees of straight-alpha pixels [..., 4] on paper, before rounding."""
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


def test_transparent_pixels_lie_on_white():
    pixels = RNG.integers(0, 256, (5, 8, 4), np.uint8)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    decoded = decode.decode(png(Image.fromarray(pixels)))
    assert np.abs(decoded - over_white(pixels)).max() <= 0.51
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, 1].tolist() == pixels[0, 1, :3].tolist()


def test_transparent_gray_lies_on_white():
    pixels = np.asarray([[[10, 0], [10, 255], [100, 51]]], np.uint8)
    decoded = decode.decode(png(Image.fromarray(pixels, "LA")))
    np.testing.assert_array_equal(decoded[0], [[255] * 3, [10] * 3, [224] * 3])


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_decoded_without_a_warning():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    decoded = decode.decode(png(image, transparency=b"\x00\x80\xff"))
    np.testing.assert_array_equal(decoded, [[[255] * 3, [147, 152, 157], [70, 80, 90]]])


def test_one_transparent_colour_lies_on_white():
    gray = decode.decode(png(Image.fromarray(np.asarray([[5, 6]], np.uint8)), transparency=5))
    assert gray[0, :, 0].tolist() == [255, 6]
    colour = Image.fromarray(np.asarray([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode.decode(png(colour, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]
    wide = raw_png(16, 0, struct.pack(">HH", 1000, 257 * 9), tRNS=struct.pack(">H", 1000))
    assert decode.decode(wide)[0, :, 0].tolist() == [255, 9]


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(np.asarray([[True, False]]))
    assert image.mode == "1"
    assert decode.decode(png(image)).tolist() == [[[255] * 3, [0] * 3]]


def raw_png(depth: int, colour: int, row: bytes, **chunks: bytes) -> bytes:
    """Returns a PNG file of one row of two pixels; Pillow cannot write these kinds."""

    def chunk(name: str, data: bytes) -> bytes:
        body = name.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    extra = b"".join(chunk(name, data) for name, data in chunks.items())
    pixels = chunk("IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + extra + pixels + chunk("IEND", b"")


def test_16_bit_colour_is_scaled_to_8_bits():
    row = struct.pack(">6H", 0, 65535, 257 * 100, 257 * 7, 257 * 8, 257 * 9)
    assert decode.decode(raw_png(16, 2, row)).tolist() == [[[0, 255, 100], [7, 8, 9]]]


def cmyk_jpeg(inks: tuple[int, int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), inks).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("inks", "colour"), [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))]
)
def test_cmyk_is_read_as_inks_stored_inverted(inks, colour):
    data = cmyk_jpeg(inks)
    assert b"Adobe" in data
    assert np.abs(decode.decode(data).astype(int) - colour).max() <= 2


def test_ycck_is_read():
    # Red: no cyan, full magenta and yellow. Stored are Y, Cb, Cr of the cyan-magenta-yellow inks
    # and the inverted black; Pillow writes what is stored as it is, inverted, under transform 0.
    data = cmyk_jpeg(tuple(255 - value for value in (179, 171, 0, 255)))
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    data = data[:place] + b"\x02" + data[place + 1 :]
    assert np.abs(decode.decode(data).astype(int) - (255, 0, 0)).max() <= 3


def gamma_profile() -> bytes:
    """Returns an ICC profile for RGB with sRGB's primaries and a gamma of 1."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = {profile[i : i + 4]: i for i in range(132, 132 + 12 * 20, 12)}
    start = struct.unpack(">I", profile[table[b"rTRC"] + 4 : table[b"rTRC"] + 8])[0]
    size = struct.unpack(">I", profile[table[b"rTRC"] + 8 : table[b"rTRC"] + 12])[0]
    linear = b"curv" + bytes(8)  # A curve without points is the identity.
    return profile[:start] + linear.ljust(size, b"\0") + profile[start + size :]


def from_linear(values):
    """The transfer function of IEC 61966-2-1, from [0, 255] to [0, 255]."""
    x = np.asarray(values) / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def test_colours_of_another_profile_become_srgb():
    pixels = RNG.integers(0, 256, (5, 8, 3), np.uint8)
    profile = gamma_profile()
    decoded = decode.decode(png(Image.fromarray(pixels), icc_profile=profile))
    assert np.abs(decoded - from_linear(pixels)).max() <= 2
    assert not decode.is_srgb(profile)


def test_gray_and_transparent_images_take_their_profile_too():
    profile = gamma_profile()
    gray = np.asarray([[0, 50, 255]], np.uint8)
    decoded = decode.decode(png(Image.fromarray(gray), icc_profile=profile))
    assert np.abs(decoded[..., 0] - from_linear(gray)).max() <= 2
    pixels = RNG.integers(0, 256, (5, 8, 4), np.uint8)
    decoded = decode.decode(png(Image.fromarray(pixels), icc_profile=profile))
    expected = over_white(np.concatenate([from_linear(pixels[..., :3]), pixels[..., 3:]], axis=-1))
    assert np.abs(decoded - expected).max() <= 3


def gray_profile() -> bytes:
    """Returns an ICC profile for gray with a gamma of 1: white point and curve, no more."""
    white = struct.pack(">3i", *(round(65536 * x) for x in (0.9642, 1, 0.8249)))
    parts = {b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": b"curv" + bytes(8)}
    start = 128 + 4 + 12 * len(parts)
    table, body = struct.pack(">I", len(parts)), b""
    for name, data in parts.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = bytearray(128)
    head[:4] = struct.pack(">I", start + len(body))
    head[8:24] = b"\x02\x40\0\0mntrGRAYXYZ "
    head[36:40], head[68:80] = b"acsp", white
    return bytes(head) + table + body


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_profile_for_gray_is_heeded(mode):
    gray = np.asarray([[0, 50, 120, 255]], np.uint8)
    image = Image.fromarray(gray).convert(mode)
    decoded = decode.decode(png(image, icc_profile=gray_profile()))
    assert np.abs(decoded - from_linear(gray)[..., None]).max() <= 2


@pytest.mark.parametrize("kind", ["srgb", "damaged", "empty"])
def test_other_profiles_change_nothing(kind):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = {"srgb": srgb, "damaged": srgb[:200], "empty": b""}[kind]
    pixels = RNG.integers(0, 256, (5, 8, 3), np.uint8)
    decoded = decode.decode(png(Image.fromarray(pixels), icc_profile=profile))
    np.testing.assert_array_equal(decoded, pixels)
    assert decode.is_srgb(profile)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert (decode.decode(path) == (255, 0, 0)).all()


def test_16_bit_gray_is_scaled_not_clipped():
    wide = np.asarray([[0, 257, 128 * 257, 65535, 128, 129]], np.uint16)
    decoded = decode.decode(png(Image.fromarray(wide)))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 128, 255, 0, 1])


def test_floats_are_refused_with_a_reason(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(decode.CorruptImageError, match=r"a\.tiff.*from 1 to 1.*such as 0 1 "):
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


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it is empty"),
        (bytes(64), "nothing but zero bytes"),
        ("hällo, wörld".encode(), "it is text that begins 'hällo, wörld'"),
        (b"<!DOCTYPE html><title>404", "it is markup that begins '<!DOCTYPE html>"),
        (b"%PDF-1.7", "it is a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF photo or a video of brand 'heic'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is a PostScript document"),
        (b"\x01\x02\xff\xfe\x81", "begins with the bytes 01 02 ff fe 81"),
    ],
)
def test_the_error_describes_a_file_that_is_not_an_image(tmp_path, content, kind):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for data in (path, content):
        with pytest.raises(decode.CorruptImageError, match=re.escape(kind)) as caught:
            decode.decode(data)
        assert caught.value.reason in str(caught.value)
        assert "a.jpg" not in caught.value.reason


def test_the_content_decides_not_the_suffix(tmp_path):
    pixels = RNG.integers(0, 256, (5, 8, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes(png(Image.fromarray(pixels)))
    np.testing.assert_array_equal(decode.decode(tmp_path / "a.jpg"), pixels)


def test_directories_and_pipes_are_named_not_waited_for(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    os.mkfifo(tmp_path / "y.jpg")
    for name, kind in (("x.jpg", "a directory"), ("y.jpg", "a device or a pipe")):
        with pytest.raises(decode.CorruptImageError, match=rf"{name}: it is {kind}, not a file"):
            decode.decode(tmp_path / name)


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    data = png(Image.new("1", (300, 200)))
    assert decode.decode(data, max_pixels=60_000).shape == (200, 300, 3)
    monkeypatch.setattr(decode, "to_rgb", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(
        decode.CorruptImageError, match=r"300 x 200 = 60000 pixels, .* limit of 59999"
    ):
        decode.decode(data, max_pixels=59_999)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_decompression_bomb_is_an_error_not_a_warning(side):
    bomb = bytearray(raw_png(1, 0, b"\0"))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(decode.CorruptImageError, match="decompression bomb"):
        decode.decode(bytes(bomb))


def rle_bmp(width: int, height: int, body: bytes) -> bytes:
    """Returns a gray, run-length coded BMP file."""
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + 40 + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def test_a_run_length_coded_file_cannot_take_long():
    good = rle_bmp(250, 40, b"\xfa\x07\0\0" * 40 + b"\0\x01")
    decoded = decode.decode(good)
    assert decoded.shape == (40, 250, 3)
    assert (decoded == 7).all()
    bomb = rle_bmp(9_000, 9_000, b"\x01\x07\0\0" * 40 + b"\0\x01")
    with pytest.raises(decode.CorruptImageError, match="9000 x 9000 pixels, more than its 12.. by"):
        decode.decode(bomb)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest sets the module's own filter aside.
def test_damaged_exif_data_do_not_make_an_image_corrupt():
    image = Image.fromarray(RNG.integers(0, 256, (5, 8, 3), np.uint8))
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff", b"Exif\0\0no EXIF", b"Exif\0\0"):
        np.testing.assert_array_equal(decode.decode(png(image, exif=exif)), np.asarray(image))


ODDITIES = """
import io
from PIL import Image
from tl_jax.data.images import decode
Image.MAX_IMAGE_PIXELS = 50  # Pillow warns of more.
for kind in ("TIFF", "PNG", "GIF"):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, kind)
    decode.decode(buffer.getvalue())
buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "TIFF")
for place in range(buffer.tell() - 200, buffer.tell()):
    changed = bytearray(buffer.getvalue())
    changed[place] ^= 0x55
    try:
        decode.decode(bytes(changed))
    except decode.CorruptImageError:
        pass
print("done")
"""


def test_nothing_is_printed_about_odd_files():
    done = subprocess.run(
        [sys.executable, "-c", ODDITIES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_missing_file_is_missing_not_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode.decode(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 1), (5, 8, 3), (5, 8, 4)])
def test_arrays_are_taken_by_shape(shape):
    array = RNG.integers(0, 256, shape, np.uint8)
    decoded = np.asarray(decode.as_rgb(array))
    if shape == (5, 8, 4):
        assert np.abs(decoded - over_white(array)).max() <= 0.51
    else:
        channels = array.reshape(5, 8, -1)
        np.testing.assert_array_equal(decoded, np.broadcast_to(channels, (5, 8, 3)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 4, 3), np.float32), r"values from 1 to 1; .*value_range=\(0, 1\)"),
        (np.full((4, 4), np.nan), "holds NaN or infinity"),
        (np.zeros((4, 4), complex), "type complex128; expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\); expected \[H, W\]"),
        (np.zeros((3, 4, 5), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "this is a batch"),
        (np.zeros(4, np.uint8), "expected"),
        (np.zeros((0, 4, 3), np.uint8), "expected"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        decode.as_rgb(array)


def test_arrays_of_other_types_become_8_bits_by_a_range():
    array = np.asarray([[0, 2047.5, 4095]])
    assert np.asarray(decode.as_rgb(array, (0, 4095)))[0, :, 0].tolist() == [0, 128, 255]


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="got an image of type int"):
        decode.as_rgb(3)

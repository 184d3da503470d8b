"""Values of black and white: what files declare, what the user says, and what looks wrong."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.images import decode, values
from tl_jax.data.images.value_check import value_warnings
from tl_jax.data.images.values import Extremes, range_warnings, to_8_bits
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source

MIN_IS_WHITE, MIN_IS_BLACK, COLOUR = 0, 1, 2
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(data: bytes, width: int, *, bits: int, photometric=MIN_IS_BLACK, kind=UNSIGNED, bands=1):
    """Returns a TIFF file of one row; Pillow cannot write most of these."""
    shorts = [(256, [width]), (257, [1]), (258, [bits] * bands), (259, [1]), (262, [photometric])]
    shorts += [(277, [bands]), (278, [1])]
    extra = [(338, [0] * (bands - 3))] if bands > 3 else []
    tags = [(tag, "H", each) for tag, each in [*shorts, *extra, (339, [kind] * bands)]]
    tags += [(273, "I", [0]), (279, "I", [len(data)])]
    tags.sort()
    start = 8 + 2 + 12 * len(tags) + 4
    packed = {tag: struct.pack(f"<{len(each)}{code}", *each) for tag, code, each in tags}
    place = start + sum(len(each) for each in packed.values() if len(each) > 4)
    packed[273] = struct.pack("<I", place)
    entries, blobs = b"", b""
    for tag, code, each in tags:
        value = packed[tag]
        if len(value) > 4:
            value, blobs = struct.pack("<I", start + len(blobs)), blobs + value
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[code], len(each)) + value.ljust(
            4, b"\0"
        )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + blobs + data


def gray(data, value_range=None):
    return decode.decode(data, value_range=value_range)[0, :, 0].tolist()


RAMP = np.asarray([0, 1365, 2730, 4095])


@pytest.mark.parametrize(
    ("kind", "bits", "dtype"),
    [(UNSIGNED, 16, "<u2"), (SIGNED, 16, "<i2"), (UNSIGNED, 32, "<u4"), (FLOAT, 32, "<f4")],
)
def test_a_given_range_becomes_black_and_white(kind, bits, dtype):
    data = tiff(RAMP.astype(dtype).tobytes(), 4, bits=bits, kind=kind)
    assert gray(data, (0, 4095)) == [0, 85, 170, 255]
    assert gray(data, (1365, 2730)) == [0, 0, 255, 255]  # What is beyond is clipped.


def test_negative_values_and_floats_have_a_range_too():
    hounsfield = np.asarray([-1000, -300, 400, 3071], "<i2").tobytes()
    data = tiff(hounsfield, 4, bits=16, kind=SIGNED)
    assert gray(data, (-1000, 400)) == [0, 128, 255, 255]
    data = tiff(np.asarray([0, 0.5, 1], "<f4").tobytes(), 3, bits=32, kind=FLOAT)
    assert gray(data, (0, 1)) == [0, 128, 255]


@pytest.mark.parametrize(
    ("stored", "kind", "bits", "such_as"),
    [
        (np.asarray([0, 1], "<f4"), FLOAT, 32, "0 1 "),
        (np.asarray([0, 200], "<f4"), FLOAT, 32, "0 255 "),
        (np.asarray([-1000, 3071], "<i2"), SIGNED, 16, "-1000 3071 "),
        (np.asarray([0, 3000], "<u4"), UNSIGNED, 32, "0 4095 "),
    ],
)
def test_values_that_nothing_explains_are_refused_with_a_range_to_give(stored, kind, bits, such_as):
    data = tiff(stored.tobytes(), 2, bits=bits, kind=kind)
    with pytest.raises(decode.CorruptImageError, match=f"give these two as value_range.*{such_as}"):
        decode.decode(data, name="a.tif")


def test_what_a_tiff_file_declares_is_heeded():
    wide = np.asarray([0, 257 * 100, 65535], "<u2").tobytes()
    assert gray(tiff(wide, 3, bits=16, photometric=MIN_IS_WHITE)) == [255, 155, 0]
    inverted = tiff(RAMP.astype("<u2").tobytes(), 4, bits=16, photometric=MIN_IS_WHITE)
    assert gray(inverted, (0, 4095)) == [255, 170, 85, 0]
    twelve_bits = bytes([0x00, 0x05, 0x55, 0xFF, 0xF0, 0x00])  # 0, 1365, 4095, 0
    assert gray(tiff(twelve_bits, 4, bits=12)) == [0, 85, 255, 0]
    with pytest.raises(decode.CorruptImageError, match="signed 8-bit"):
        decode.decode(tiff(b"\0\xff", 2, bits=8, kind=SIGNED))


def test_8_bit_images_do_not_change_and_16_bit_colour_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.asarray([[0, 100, 255]], np.uint8)).save(buffer, "PNG")
    assert gray(buffer.getvalue(), (0, 4095)) == [0, 100, 255]
    colour = tiff(np.full(3, 4000, "<u2").tobytes(), 1, bits=16, photometric=COLOUR, bands=3)
    assert decode.decode(colour).shape == (1, 1, 3)
    with pytest.raises(decode.CorruptImageError, match="several channels of 16 bits"):
        decode.decode(colour, value_range=(0, 4095))


def test_channels_that_pillow_cannot_read_are_counted():
    data = tiff(bytes(10), 1, bits=16, bands=5)
    with pytest.raises(decode.CorruptImageError, match=r"TIFF file of 5 channels of 16-bit unsig"):
        decode.decode(data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    data = tiff(np.asarray([0, value], "<f4").tobytes(), 2, bits=32, kind=FLOAT)
    with pytest.raises(decode.CorruptImageError, match="1 of its 2 values are NaN or infinite"):
        decode.decode(data, value_range=(0, 1))
    with pytest.raises(decode.CorruptImageError, match="some of its values are NaN or infinite"):
        decode.decode(data)


@pytest.mark.parametrize("value_range", [(5, 5), (9, 0), (0, np.nan), (0, np.inf), (1,), (0, 1, 2)])
def test_ranges_are_two_numbers_in_order(value_range):
    with pytest.raises(ValueError, match="expected two finite numbers"):
        values.check_range(value_range)


def test_the_whole_range_of_16_bits_is_scaled_as_before():
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_8_bits(every, (0, 65535)), (every.astype(int) + 128) // 257)


WIDE = (0, 65535)


@pytest.mark.parametrize(
    ("high", "black_to_white", "words"),
    [
        (4095, WIDE, "largest value 4095 of 65535 in 20 of 20 images: they are nearly black"),
        (16383, WIDE, "such as 0 16383"),
        (4095, WIDE[::-1], "they are nearly white"),
        (255, (0, 1), "largest value 255 of 1 in 20 of 20 images: all above 1 is white"),
        (65535, WIDE, None),
        (3071, (-160, 240), None),
    ],
)
def test_a_range_that_does_not_fit_is_said_with_figures(high, black_to_white, words):
    found = range_warnings([Extremes(0, high, black_to_white, True)] * 20)
    assert bool(found) == (words is not None)
    assert words is None or words in found[0]


def test_one_bright_image_of_many_hides_nothing_and_a_few_dark_ones_say_nothing():
    dark, bright = Extremes(0, 4095, WIDE, True), Extremes(0, 65535, WIDE, True)
    assert "in 19 of 20 images" in range_warnings([dark] * 19 + [bright])[0]
    assert range_warnings([dark] * 5 + [bright] * 15) == []


def test_a_run_is_warned_of_its_images(tmp_path):
    for i in range(6):
        folder = tmp_path / "set" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 4000 + i, np.uint16)).save(folder / f"{i}.png")
    spec = f"folder:{tmp_path}/set"
    source = open_source(spec, "all", data_dir=tmp_path)
    (warning,) = value_warnings(source)
    assert warning.startswith("largest value 4005 of 65535 in 6 of 6 images: they are nearly black")
    assert warning.endswith("set data.value_range (--value-range) to the values of black and white,"
                            " such as 0 4095")  # fmt: skip
    right = open_source(spec, "all", data_dir=tmp_path, value_range=(0, 4095))
    assert value_warnings(right, (0, 4095)) == []
    assert right[0]["image"].min() > 240


def test_low_values_of_8_bits_and_a_range_without_use_are_said():
    source = from_arrays(np.full((4, 8, 8), 16, np.uint8), [0, 1, 0, 1], value_range=(0, 16))
    unused, dark = value_warnings(source, (0, 16))
    assert "changes none of the 4 images: they have 8 bits" in unused
    assert dark.startswith("largest value 16 of 255 in 4 of 4 images")


def test_of_views_the_first_is_looked_at():
    views = [[None, np.full((8, 8), 16, np.uint8)], [np.full((8, 8), 9, np.uint8)]] * 2
    (dark,) = value_warnings(from_arrays(views, [0, 1, 0, 1]))
    assert dark.startswith("largest value 16 of 255 in 4 of 4 images")


def test_arrays_of_other_types_take_a_range():
    images = np.random.default_rng(0).random((4, 5, 6, 3))
    source = from_arrays(images, [0, 1, 0, 1], value_range=(0, 1))
    assert np.abs(source[2]["image"] - 255 * images[2]).max() <= 0.51
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        from_arrays(np.full((2, 4, 4), np.nan), [0, 1], value_range=(0, 1))

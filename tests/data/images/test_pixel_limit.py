"""Images that promise too many pixels are refused, in every format, before memory is reserved."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.support.slim import ROOT
from tl_jax.data.images import decode, fast_jpeg, pixel_limit
from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.sources.open import open_source

# The library's filter, which pytest sets aside.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
SIDE = 60_000
SMALLER = 12_000  # Beyond the limit, and not beyond the one at which Pillow raises an error.


def saved(form, **options):
    buffer = io.BytesIO()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(buffer, form, **options)
    return bytearray(buffer.getvalue())


def png(side):
    data = saved("PNG")
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def put(data, place, form, *numbers):
    data[place : place + struct.calcsize(form)] = struct.pack(form, *numbers)
    return bytes(data)


def jpeg(side):
    data = saved("JPEG")
    return put(data, data.index(b"\xff\xc0") + 5, ">HH", side, side)


def gif(side):
    return put(saved("GIF"), 6, "<HH", side, side)


def gif_frame(side):
    data = saved("GIF")
    return put(data, data.rindex(b"\x2c\0\0\0\0") + 5, "<HH", side, side)


def bmp(side):
    return put(saved("BMP"), 18, "<ii", side, side)


def tiff(side):
    data = saved("TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    for number in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * number
        if struct.unpack_from("<H", data, place)[0] in (256, 257):
            put(data, place + 2, "<HII", 4, 1, side)
    return bytes(data)


def ppm(side):
    return b"P6 %d %d 255\n" % (side, side) + bytes(48)


def webp(side, animated=False):
    """Returns a file with an extended header, which states the size of the canvas."""
    content, three = bytes(saved("WEBP", lossless=True))[12:], "little"
    canvas = 2 * (side - 1).to_bytes(3, three)
    if animated:
        frame = bytes(6) + 2 * (3).to_bytes(3, three) + b"\x0a\0\0\0" + content
        content = b"ANIM" + struct.pack("<I6x", 6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2 * animated, 0, 0, 0]) + canvas + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_animated(side):
    return webp(side, animated=True)


def webp_lossless(side):
    data, side = saved("WEBP", lossless=True), min(side, 16_383)
    place = data.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", data, place)[0] & 0xF0000000
    return put(data, place, "<I", bits | (side - 1) << 14 | (side - 1))


def webp_lossy(side):
    data, side = saved("WEBP", quality=50), min(side, 16_383)
    return put(data, data.index(b"VP8 ") + 14, "<HH", side, side)


def jpeg_2000(side):
    data = saved("JPEG2000")
    put(data, data.index(b"\xff\x51") + 6, ">II", side, side)
    return put(data, data.index(b"ihdr") + 4, ">II", side, side)


def avif(side):
    data = saved("AVIF")
    return put(data, data.index(b"ispe") + 8, ">II", min(side, 16_000), min(side, 16_000))


def icon(inner):
    """Returns an icon whose list says 16 x 16, and whose image may be of another size."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


def icon_png(side):
    return icon(png(side))


def icon_bitmap(side):
    # The height of the header is that of the colours and of the mask.
    return icon(
        struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99)
    )


FORMATS = {
    "png": png,
    "jpg": jpeg,
    "gif": gif,
    "frame.gif": gif_frame,
    "bmp": bmp,
    "tiff": tiff,
    "ppm": ppm,
    "webp": webp,
    "animated.webp": webp_animated,
    "lossless.webp": webp_lossless,
    "lossy.webp": webp_lossy,
    "jp2": jpeg_2000,
    "avif": avif,
    "ico": icon_png,
    "bitmap.ico": icon_bitmap,
}


@pytest.mark.parametrize("side", [SIDE, SMALLER])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_refused_by_name_count_and_limit(tmp_path, suffix, side):
    path = tmp_path / f"bomb.{suffix}"
    path.write_bytes(FORMATS[suffix](side))
    ways = (
        lambda: decode.decode(path),
        lambda: decode.decode(path.read_bytes(), name=str(path)),
        lambda: decode.as_rgb(path),
        lambda: fast_jpeg.decode_reduced(path.read_bytes(), 64, name=str(path)),
    )
    for way in ways:
        with pytest.raises(decode.CorruptImageError, match="more than the limit of 89478485") as e:
            way()
        stated = int(str(e.value).rpartition("=")[2])
        assert stated == min(side, 16_383) ** 2 or stated in (side**2, 16_000**2)
        assert str(e.value).startswith(f"cannot decode image {path}: it declares ")
        assert str(e.value).endswith(f"set the variable TL_JAX_MAX_PIXELS={stated}")


NO_MEMORY = """
import resource, sys
from pathlib import Path
from tl_jax.data.images import decode, fast_jpeg
files = sorted(Path(sys.argv[1]).iterdir())
decode.decode(sys.argv[2])  # Loads what decoding needs.
fast_jpeg.decode_reduced(Path(sys.argv[2]).read_bytes(), 64, name="a")
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**25
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for file in files:
    for read in (
        lambda: decode.decode(file),
        lambda: fast_jpeg.decode_reduced(file.read_bytes(), 64, name=str(file)),
    ):
        try:
            read()
        except decode.CorruptImageError as error:
            if "more than the limit" in str(error):
                continue
            sys.exit(f"{file}: {error}")
        sys.exit(f"{file} was decoded")
print(len(files), "refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's memory is limited as on Linux")
def test_no_memory_is_reserved_for_what_is_refused(tmp_path):
    good = tmp_path / "good.jpg"
    good.write_bytes(saved("JPEG"))
    (tmp_path / "bombs").mkdir()
    for suffix, make in FORMATS.items():
        (tmp_path / "bombs" / f"smaller.{suffix}").write_bytes(make(SMALLER))
        (tmp_path / "bombs" / f"bomb.{suffix}").write_bytes(make(SIDE))
    command = [sys.executable, "-c", NO_MEMORY, tmp_path / "bombs", good]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{2 * len(FORMATS)} refused")


def test_the_variable_sets_the_limit_for_all(monkeypatch):
    data = bytes(saved("PNG"))
    monkeypatch.setenv(pixel_limit.VARIABLE, "15")
    with pytest.raises(decode.CorruptImageError, match=r"4 x 4 = 16 pixels, more .* limit of 15"):
        decode.decode(data)
    with pytest.raises(decode.CorruptImageError, match="limit of 15"):
        fast_jpeg.decode_reduced(bytes(saved("JPEG")), 64, name="a.jpg")
    monkeypatch.setenv(pixel_limit.VARIABLE, "16")
    assert decode.decode(data).shape == (4, 4, 3)


def test_a_higher_limit_is_one_for_pillow_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    data = bytes(saved("PNG"))
    with pytest.raises(decode.CorruptImageError, match=r"declares 16 pixels, more .* limit of 10"):
        decode.decode(data, max_pixels=10)
    monkeypatch.setenv(pixel_limit.VARIABLE, "16")
    assert decode.decode(data).shape == (4, 4, 3)
    assert Image.MAX_IMAGE_PIXELS == 16


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e9"])
def test_a_variable_that_is_no_number_is_an_error_and_no_corrupt_image(monkeypatch, text):
    monkeypatch.setenv(pixel_limit.VARIABLE, text)
    for way in (
        lambda: decode.decode(bytes(saved("PNG"))),
        lambda: fast_jpeg.decode_reduced(bytes(saved("JPEG")), 64, name="a"),
    ):
        with pytest.raises(ValueError, match=f"got TL_JAX_MAX_PIXELS={text}; expected") as caught:
            way()
        assert not isinstance(caught.value, decode.CorruptImageError)


@pytest.fixture
def photos(tmp_path, save_image):
    """Eight good images of two classes and, last in the first class, a bomb."""
    for number in range(8):
        save_image(tmp_path / "photos" / "train" / "ab"[number % 2] / f"{number}.png", seed=number)
    (tmp_path / "photos" / "train" / "a" / "bomb.jpg").write_bytes(jpeg(SIDE))
    return tmp_path / "photos"


def rows(photos):
    files = sorted(photos.glob("*/*/*.*"))
    return [{"image": str(f.relative_to(photos)), "label": f.parent.name} for f in files]


def csv(photos):
    lines = [f"{row['image']},{row['label']},train" for row in rows(photos)]
    (photos / "t.csv").write_text("\n".join(["image,label,split", *lines]))
    return f"manifest:{photos / 't.csv'}"


def parquet(photos):
    table = [{**row, "image": (photos / row["image"]).read_bytes()} for row in rows(photos)]
    table = [{**row, "split": "train"} for row in table]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), photos / "t.parquet")
    return f"manifest:{photos / 't.parquet'}"


SOURCES = {
    "folder": (lambda photos: f"folder:{photos}", r"bomb\.jpg"),
    "csv": (csv, r"bomb\.jpg"),
    "parquet": (parquet, "row 5"),
}
LIMIT = r": it declares 3600000000 pixels, more than the limit of 89478485: .*TL_JAX_MAX_PIXELS="


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_raises_or_skips_as_it_is_told(tmp_path, photos, kind):
    make, name = SOURCES[kind]
    spec = make(photos)
    with pytest.raises(decode.CorruptImageError, match=name + ".*" + LIMIT):
        open_source(spec, "train", data_dir=tmp_path / "d")
    source = open_source(spec, "train", data_dir=tmp_path / "d", on_corrupt="skip")
    assert len(source) == 8
    (skipped,) = source.skipped
    assert "more than the limit of 89478485" in skipped


@pytest.mark.parametrize("kind", SOURCES)
def test_an_image_that_was_too_large_is_read_once_the_limit_is_raised(
    tmp_path, photos, kind, monkeypatch
):
    Image.new("RGB", (10, 10)).save(photos / "train" / "a" / "bomb.jpg")
    spec = SOURCES[kind][0](photos)
    for limit, count in (("99", 8), ("100", 9), ("99", 8)):
        monkeypatch.setenv(pixel_limit.VARIABLE, limit)
        source = open_source(spec, "train", data_dir=tmp_path / "d", on_corrupt="skip")
        assert len(source) == count, limit


def test_prepare_puts_it_in_quarantine(tmp_path, photos):
    prepare_source(f"folder:{photos}", tmp_path / "out", progress=False)
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    (bad,) = [json.loads(line) for line in lines]
    assert "more than the limit of 89478485" in bad["reason"]


def test_a_record_of_a_prepared_set_is_named(tmp_path, photos, monkeypatch):
    (photos / "train" / "a" / "bomb.jpg").unlink()
    folder = prepare_source(f"folder:{photos}", tmp_path / "out", progress=False).folder
    source = open_source(f"prepared:{folder}", "train")
    assert source[0]["image"].shape == (7, 9, 3)
    monkeypatch.setenv(pixel_limit.VARIABLE, "62")
    with pytest.raises(decode.CorruptImageError, match=r"0 of split 'train' of prepared:.* = 63 "):
        source[0]

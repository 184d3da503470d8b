"""Images stretched on the device are those of Pillow, whatever surrounds them in the batch."""

import functools
import itertools

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.support.loading import Numbered, canvas_image, on_host, placed
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.readers import PackedReader, TrainReader, read_batch
from tl_jax.data.loading.stretch import stretch
from tl_jax.data.sources.arrays import from_arrays

CANVAS, SIDE = 32, 80
stretched = jax.jit(
    functools.partial(stretch, side=SIDE, canvas=CANVAS), static_argnames="in_bfloat16"
)


def stretched_by_pillow(image, extent):
    box = (0, 0, extent[1], extent[0])
    return image.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC, box)


def test_the_pixels_are_those_of_pillow():
    photo = Image.fromarray(data.astronaut())
    sizes = [(80, 80), (32, 32), (20, 11), (79, 33), (1, 64), (63, 2), (40, 77)]
    room = 3 * SIDE * (SIDE + 1)
    images = np.full((2 * len(sizes), room), 255, np.uint8)  # To be seen if it leaks in.
    shapes, expected = np.zeros((len(images), 2), np.int32), []
    extents = np.zeros((len(images), 2), np.float32)
    for place, (size, less) in enumerate(itertools.product(sizes, (0, 0.5))):
        image = photo.resize(size)
        images[place, : 3 * size[0] * size[1]] = np.asarray(image).reshape(-1)
        shapes[place] = size[1], size[0]
        extents[place] = size[1] - less, size[0] - less
        expected.append(np.asarray(stretched_by_pillow(image, extents[place])))
    found = np.asarray(stretched(images, shapes, extents), int)
    difference = np.abs(found - np.stack(expected))
    assert difference[:-2].max() <= 1
    assert difference[:-2].mean() < 0.01
    assert difference[-2:].mean() < 0.5  # Pillow goes down first.
    in_bfloat16 = stretched(images, shapes, extents, in_bfloat16=True)
    difference = np.abs(np.asarray(in_bfloat16, int) - found)
    assert difference.max() <= 1
    assert difference.mean() < 0.005


class Wide(Numbered):
    """A source whose example 2 fits into no larger square."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        image = example["image"]
        return {**example, "image": np.tile(image, (1, 9, 1))} if index == 2 else example


def test_training_gets_what_the_host_would_have_stretched():
    actual = placed(Wide(5), 6, stretch_on="device")
    for one, other in zip(actual, on_host(Wide(5), 6), strict=True):
        assert one.keys() == other.keys()
        for key in other.keys() - {"image"}:
            np.testing.assert_array_equal(one[key], other[key])
        assert np.abs(np.asarray(one["image"], int) - other["image"]).max() <= 1


def test_what_does_not_fit_is_stretched_at_once():
    reader = PackedReader(Wide(5), 8)
    assert (reader.side, reader.shape) == (20, (3 * 20 * 16,))
    assert (reader[1]["image"] == Wide(5)[1]["image"].reshape(-1)).all()
    assert reader[1]["extent"] == reader[1]["size"] == reader[1]["packed"] == (7, 6)
    wide = reader[2]
    assert (wide["extent"], wide["packed"], wide["size"]) == ((8, 8), (8, 8), (8, 63))
    square = canvas_image(Wide(5)[2]["image"], 8)
    np.testing.assert_array_equal(wide["image"].reshape(8, 8, 3), square)
    np.testing.assert_array_equal(TrainReader(Wide(5), 8)[2]["image"], square)


@pytest.mark.parametrize(
    ("rows", "columns"), [(20, 15), (15, 20), (20, 16), (17, 18), (1, 21), (21, 1)]
)
def test_all_that_is_packed_has_room(rows, columns):
    pixels = np.random.default_rng(0).integers(0, 256, (1, rows, columns, 3), np.uint8)
    source = from_arrays(pixels, [0])
    batch = read_batch(PackedReader(source, 8), np.array([0]))
    fits = rows * columns <= 20 * 15 and max(rows, columns) <= 20
    np.testing.assert_array_equal(batch["packed"][0], (rows, columns) if fits else (8, 8))
    actual = stretch(batch["image"], batch["packed"], batch["extent"], side=20, canvas=8)
    assert np.abs(np.asarray(actual[0], int) - canvas_image(pixels[0], 8)).max() <= 1


@pytest.mark.parametrize(
    ("platform", "cache", "expected"),
    [
        ("cpu", "none", False),
        ("gpu", "none", True),
        ("tpu", "none", True),
        ("gpu", "memory", False),
    ],
)
def test_accelerators_stretch_what_no_cache_keeps(platform, cache, expected):
    assert LoadOptions(4, cache=cache).stretches_on_device({platform}) == expected
    assert not LoadOptions(4, cache=cache, stretch_on="host").stretches_on_device({platform})

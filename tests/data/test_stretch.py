"""Images stretched on the device are Pillow's, whatever lies around them in the batch."""

import functools
import itertools

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.data.test_device_cache import on_host, placed
from tests.data.test_loader import Numbered
from tl_jax.data.preprocess import canvas_image
from tl_jax.data.reader import PaddedReader, TrainReader
from tl_jax.data.stretch import stretch

CANVAS, ROOM = 32, 80
stretched = jax.jit(functools.partial(stretch, canvas=CANVAS))


def pillow_s(image, extent):
    box = (0, 0, extent[1], extent[0])
    return image.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC, box)


def test_the_pixels_are_pillow_s():
    photo = Image.fromarray(data.astronaut())
    sizes = [(80, 80), (32, 32), (20, 11), (79, 33), (1, 64), (63, 2), (40, 77)]
    images = np.full((2 * len(sizes), ROOM, ROOM, 3), 255, np.uint8)  # To be seen if it leaks in.
    extents, expected = np.zeros((len(images), 2), np.float32), []
    for place, (size, less) in enumerate(itertools.product(sizes, (0, 0.5))):
        image = photo.resize(size)
        images[place, : size[1], : size[0]] = np.asarray(image)
        extents[place] = size[1] - less, size[0] - less
        expected.append(np.asarray(pillow_s(image, extents[place])))
    difference = np.abs(np.asarray(stretched(images, extents), int) - np.stack(expected))
    assert difference[:-2].max() <= 1
    assert difference[:-2].mean() < 0.01
    assert difference[-2:].mean() < 0.5  # Pillow goes down first.


class Wide(Numbered):
    """A source whose example 2 fits into no larger square."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        image = example["image"]
        return {**example, "image": np.tile(image, (1, 9, 1))} if index == 2 else example


def test_training_gets_what_the_host_would_have_stretched():
    found = placed(Wide(5), 6, stretch_on="device")
    for one, other in zip(found, on_host(Wide(5), 6), strict=True):
        assert one.keys() == other.keys()
        for key in other.keys() - {"image"}:
            np.testing.assert_array_equal(one[key], other[key])
        assert np.abs(np.asarray(one["image"], int) - other["image"]).max() <= 1


def test_what_does_not_fit_is_stretched_at_once():
    reader = PaddedReader(Wide(5), 8)
    assert (reader.shape, reader[1]["image"].shape) == ((20, 20), Wide(5)[1]["image"].shape)
    assert reader[1]["extent"] == reader[1]["size"] == (7, 6)
    wide = reader[2]
    assert (wide["extent"], wide["size"]) == ((8, 8), (8, 63))
    np.testing.assert_array_equal(wide["image"], TrainReader(Wide(5), 8)[2]["image"])
    np.testing.assert_array_equal(wide["image"], canvas_image(Wide(5)[2]["image"], 8))


def test_a_cache_stretches_on_the_host():
    for options in ({"stretch_on": "device", "cache": "memory"}, {"stretch_on": "moon"}):
        with pytest.raises(ValueError, match=r"got stretch_on='(device|moon)' with cache="):
            placed(Numbered(5), 1, **options)

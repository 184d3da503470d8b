"""Duplicates: images with equal pixels, and what is known of their bytes, splits and labels."""

import numpy as np
import pytest

from tl_jax.data.images.decode import Decoded
from tl_jax.data.prepare import duplicates
from tl_jax.data.prepare.inspection import ImageInfo

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 6, 3), np.uint8)


def info(pixels=PIXELS, *, data=b"", split="train", name="a", **labels):
    return ImageInfo.of(
        data,
        Decoded(pixels, "PNG", "RGB"),
        split=split,
        index=0,
        name=name,
        labels=labels or {"label": (0,)},
    )


def test_equal_pixels_make_a_group_and_others_none():
    other = PIXELS.copy()
    other[3, 5, 2] ^= 1
    images = [info(name="a"), info(other, name="b"), info(name="c"), info(name="d")]
    (group,) = duplicates.find(images)
    assert [one.name for one in group.members] == ["a", "c", "d"]


def test_the_same_bytes_in_another_shape_are_another_image():
    assert duplicates.find([info(), info(PIXELS.reshape(6, 4, 3))]) == []
    assert duplicates.find([info(), info(np.flip(PIXELS, 0))]) == []


def test_digests_do_not_depend_on_the_memory_layout():
    assert len(duplicates.find([info(), info(np.asfortranarray(PIXELS))])) == 1


@pytest.mark.parametrize(("data", "same"), [(b"x", True), (b"y", False)])
def test_equal_files_are_told_from_equal_pictures(data, same):
    (group,) = duplicates.find([info(data=b"x"), info(data=data)])
    assert group.identical_bytes == same


@pytest.mark.parametrize(("split", "across"), [("train", False), ("test", True)])
def test_splits_are_compared(split, across):
    (group,) = duplicates.find([info(), info(split=split)])
    assert group.across_splits == across


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ((0,), (0,), False),
        ((0,), (1,), True),
        ((0,), (-1,), False),
        ((1, 0, -1), (1, 0, 1), False),
        ((1, 0, -1), (1, 1, -1), True),
    ],
)
def test_labels_differ_where_both_are_known(one, other, differ):
    (group,) = duplicates.find([info(a=(3,), b=one), info(a=(3,), b=other)])
    assert group.labels_differ == differ

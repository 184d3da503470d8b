"""Arrays in memory: all forms of images and labels, and errors that say how to mend them."""

import numpy as np
import pytest

from tl_jax.data.images.decode import as_rgb
from tl_jax.data.sources.arrays import from_arrays


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("tail", [(), (1,), (3,), (4,)])
def test_images_come_out_as_pillow_shows_them_in_rgb(tail):
    images = pictures(5, 6, 7, *tail)
    source = from_arrays(images, [0, 1, 0, 1, 0])
    assert len(source) == 5
    for i in range(5):
        np.testing.assert_array_equal(source[i]["image"], np.asarray(as_rgb(images[i])))
        assert source[i]["image"].shape == (6, 7, 3)


def test_a_list_may_hold_images_of_any_sizes():
    images = [pictures(4, 5), pictures(9, 2, 3), pictures(1, 1, 4)]
    source = from_arrays(images, ["b", "a", "b"])
    assert [source[i]["image"].shape for i in range(3)] == [(4, 5, 3), (9, 2, 3), (1, 1, 3)]
    assert (source.class_names, source.labels().tolist()) == (("a", "b"), [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "names", "expected", "classes"),
    [
        ([1, 0, -1], None, [1, 0, -1], ("0", "1")),
        ([2, 0, -1], None, [1, 0, -1], ("0", "2")),
        ([1, 2, 3], None, [0, 1, 2], ("1", "2", "3")),
        ([1, 2, 3], ("none", "a", "b", "c"), [1, 2, 3], ("none", "a", "b", "c")),
        (["10", "9", "2"], None, [2, 1, 0], ("2", "9", "10")),
        (["1.0", "1", " 2"], None, [0, 0, 1], ("1", "2")),
        (["e\u0301", "\u00e9", "a "], None, [1, 1, 0], ("a", "\u00e9")),
        ([b"a", "\u00e9".encode(), b"a"], None, [0, 1, 0], ("a", "\u00e9")),
        (np.array([[1], [0], [1]]), ("no", "yes"), [1, 0, 1], ("no", "yes")),
        (["dog", "cat", "dog"], None, [1, 0, 1], ("cat", "dog")),
        (["dog", "cat", "dog"], ("dog", "emu", "cat"), [0, 2, 0], ("dog", "emu", "cat")),
        (np.array([3, 1, 0], np.uint8), None, [2, 1, 0], ("0", "1", "3")),
    ],
)
def test_labels_are_indices_or_names(labels, names, expected, classes):
    source = from_arrays(pictures(3, 4, 4), labels, names)
    assert source.class_names == classes
    assert not source.tasks[0].multi_label
    assert source.labels().dtype == np.int32
    assert source.labels().tolist() == expected
    assert [source[i]["label"] for i in range(3)] == expected


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8])
def test_a_matrix_of_labels_is_a_multi_label_task(kind):
    labels = np.array([[1, 0, 1], [0, 0, 0]], kind)
    source = from_arrays(pictures(2, 4, 4), labels, ["a", "b", "c"])
    assert source.tasks[0].multi_label
    assert source.labels().dtype == source[0]["label"].dtype == np.int8
    np.testing.assert_array_equal(source[0]["label"], [1, 0, 1])
    np.testing.assert_array_equal(source.labels(), labels)


def test_an_unknown_label_of_many_stays_unknown():
    source = from_arrays(pictures(1, 4, 4), np.array([[1, -1, 0]]))
    assert source[0]["label"].tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((2, 4, 4)), "values from 1 to 1; .* such as 0 1 "),
        (np.zeros((2, 3, 4, 5), np.uint8), r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 4), np.uint8), r"expected uint8 \[H, W\]"),
        (np.zeros((2, 0, 4), np.uint8), r"expected uint8 \[H, W\]"),
        ([pictures(4, 4), np.zeros((4, 4))], "image 1 of arrays, .* expected uint8"),
    ],
)
def test_images_of_another_form_say_how_to_mend_them(images, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(images, [0, 1])


@pytest.mark.parametrize("images", ["abc", [[1, 2], [3, 4]], 3])
def test_what_is_no_array_is_refused(images):
    with pytest.raises(TypeError, match="expected a NumPy array"):
        from_arrays(images, [0, 1])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2], None, "2 images and 3 labels"),
        ([0.0, 1.0], None, r"labels.astype\(int\)"),
        ([0, 2], ["a", "b"], "labels from 0 to 2"),
        ([-2, 0], None, "labels from -2 to 0"),
        ([-1, -1], None, "holds no label"),
        ([-1, 1], None, "-1 stands for a missing label; write 0 and 1"),
        ([1, 2], ["a", "b"], "subtract 1, the first class is 0"),
        ([0.0, np.nan], None, "-1 where one is missing"),
        ([True, False], None, r"labels.astype\(int\)"),
        (["a", np.nan], None, "'nan' stands for a missing label"),
        (["a", None], None, r"np.array\(labels, dtype=str\)"),
        (np.array([[0.2, 0.8], [1.0, 0.0]]), None, r"labels.argmax\(axis=1\)"),
        (["a", ""], None, "'' is no name"),
        (["eel\nbig", "a"], None, "has a line break"),
        (["Cat", "cat"], None, "differ in case only"),
        (["cta", "dog"], ["cat", "dog"], "did you mean 'cat'"),
        ([0, 1], ["a", "a"], "each once"),
        (np.array([[1, 0], [2, 0]]), None, "labels from 0 to 2"),
        (np.array([[1, 0], [1, 0]]), ["a"], "1 class names for labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, names, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(pictures(2, 4, 4), labels, names)


def test_labels_without_gaps_need_no_note():
    assert from_arrays(pictures(3, 4, 4), [0, 1, 2]).notes == ()
    (note,) = from_arrays(pictures(3, 4, 4), [0, 1, 3]).notes
    assert note == "the classes are the numbers that occur as labels: 0, 1, 3"

"""Arrays in memory: all forms of images and labels, `.npz` files, and errors that name the mend."""

import numpy as np
import pytest

from tl_jax.data.images.decode import as_rgb
from tl_jax.data.sources.arrays import from_arrays, open_npz
from tl_jax.data.sources.open import open_source


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
        ([2, 0, -1], None, [2, 0, -1], ("0", "1", "2")),
        (np.array([[1], [0], [1]]), ("no", "yes"), [1, 0, 1], ("no", "yes")),
        (["dog", "cat", "dog"], None, [1, 0, 1], ("cat", "dog")),
        (["dog", "cat", "dog"], ("dog", "emu", "cat"), [0, 2, 0], ("dog", "emu", "cat")),
        (np.array([3, 1, 0], np.uint8), None, [3, 1, 0], ("0", "1", "2", "3")),
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
        (np.zeros((2, 4, 4)), "scaled by 255"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 4), np.uint8), r"expected uint8 \[H, W\]"),
        (np.zeros((2, 0, 4), np.uint8), r"expected uint8 \[H, W\]"),
        ([pictures(4, 4), np.zeros((4, 4))], "image 1 of arrays; expected uint8"),
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
        (["cta", "dog"], ["cat", "dog"], "did you mean 'cat'"),
        ([0, 1], ["a", "a"], "each once"),
        (np.array([[1, 0], [2, 0]]), None, "labels from 0 to 2"),
        (np.array([[1, 0], [1, 0]]), ["a"], "1 class names for labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, names, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(pictures(2, 4, 4), labels, names)


LAYOUTS = {
    "keras": ("x_train", "y_train", "x_test", "y_test"),
    "medmnist": ("train_images", "train_labels", "test_images", "test_labels"),
    "upper": ("X_train", "Y_train", "X_test", "Y_test"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_npz_files_are_read_as_keras_and_medmnist_write_them(tmp_path, layout):
    train, test = pictures(10, 4, 4), pictures(3, 4, 4, seed=1)
    labels = np.arange(10)[:, None] % 4, np.array([[1], [0], [5]])
    values = (train, labels[0], test, labels[1])
    np.savez(tmp_path / "a.npz", **dict(zip(LAYOUTS[layout], values, strict=True)))
    source = open_source(f"npz:{tmp_path / 'a.npz'}", "test")
    # The classes are those of all splits: 5 occurs in the test split alone.
    assert source.class_names == tuple("012345")
    np.testing.assert_array_equal(source[2]["image"][..., 1], test[2])
    assert source.labels().tolist() == [1, 0, 5]
    both = open_source(f"npz:{tmp_path / 'a.npz'}", "train[80%:]+test[:1]")
    assert both.labels().tolist() == [0, 1, 1]
    np.testing.assert_array_equal(both[1]["image"][..., 0], train[9])
    np.testing.assert_array_equal(both[2]["image"][..., 0], test[0])


def test_npz_files_without_splits_are_the_training_split(tmp_path):
    path = tmp_path / "мои данные.npz"
    np.savez(path, images=pictures(4, 4, 4, 3), labels=[1, 0, 1, 1], class_names=["нет", "да"])
    source = open_npz(path, "train")
    assert (len(source), source.class_names, source.name) == (4, ("нет", "да"), f"npz:{path}")
    assert len(open_npz(path, "train[:50%]")) == 2
    with pytest.raises(ValueError, match="no split 'validation' in .*; it has train"):
        open_npz(path, "validation")


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_npz_validation_splits_have_one_name(tmp_path, key):
    arrays = {"train_images": pictures(2, 4, 4), "train_labels": [0, 1]}
    arrays |= {f"{key}_images": pictures(1, 4, 4), f"{key}_labels": [1]}
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(open_npz(tmp_path / "a.npz", "validation")) == 1


def test_npz_files_with_other_arrays_say_what_is_expected(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(2, 4, 4), classes=[0, 1])
    with pytest.raises(ValueError, match="holds the arrays images, classes; expected `images` and"):
        open_npz(tmp_path / "a.npz", "train")


def test_npz_counts_must_agree(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(2, 4, 4), labels=[0, 1, 1])
    with pytest.raises(ValueError, match=r"2 images and 3 labels in split 'train' of npz:"):
        open_npz(tmp_path / "a.npz", "train")


def test_npz_labels_of_two_forms_are_named(tmp_path):
    arrays = {"x_train": pictures(2, 4, 4), "y_train": [0, 1]}
    np.savez(tmp_path / "a.npz", **arrays, x_test=pictures(1, 4, 4), y_test=["a"])
    with pytest.raises(ValueError, match=r"several forms: train int64\[2\], test <U1\[1\]"):
        open_npz(tmp_path / "a.npz", "train")


def test_npz_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a .npz file"):
        open_npz(tmp_path / "a.npz", "train")
    (tmp_path / "a.npz").write_text("images")
    with pytest.raises(ValueError, match="no whole .npz file"):
        open_npz(tmp_path / "a.npz", "train")
    objects = np.array(["a", None], dtype=object)
    np.savez(tmp_path / "b.npz", images=pictures(2, 4, 4), labels=objects)
    with pytest.raises(ValueError, match=r"cannot read 'labels' .* dtype=str"):
        open_npz(tmp_path / "b.npz", "train")


def test_damaged_npz_files_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=pictures(50, 8, 8), labels=np.arange(50))
    content = bytearray(path.read_bytes())
    content[200:1200] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read 'images' of .*a\.npz"):
        open_npz(path, "train")

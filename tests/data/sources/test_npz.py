"""`.npz` files: as Keras and MedMNIST write them, split by split, and errors for the others."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from tl_jax.data.sources.open import open_source, split_names


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


LAYOUTS = {
    "keras": ("x_train", "y_train", "x_test", "y_test"),
    "medmnist": ("train_images", "train_labels", "test_images", "test_labels"),
    "upper": ("X_train", "Y_train", "X_test", "Y_test"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_read_as_keras_and_medmnist_write_them(tmp_path, layout):
    train, test = pictures(10, 4, 4), pictures(3, 4, 4, seed=1)
    labels = np.arange(10)[:, None] % 4, np.array([[1], [0], [5]])
    values = (train, labels[0], test, labels[1])
    np.savez(tmp_path / "a.npz", **dict(zip(LAYOUTS[layout], values, strict=True)))
    source = open_source(f"npz:{tmp_path / 'a.npz'}", "test")
    # The classes are those of all splits: 5 occurs in the test split alone, and 4 in none.
    assert source.class_names == tuple("01235")
    np.testing.assert_array_equal(source[2]["image"][..., 1], test[2])
    assert source.labels().tolist() == [1, 0, 4]
    assert any("numbers that occur as labels: 0, 1, 2, 3, 5" in note for note in source.notes)
    both = open_source(f"npz:{tmp_path / 'a.npz'}", "train[80%:]+test[:1]")
    assert both.labels().tolist() == [0, 1, 1]
    np.testing.assert_array_equal(both[1]["image"][..., 0], train[9])
    np.testing.assert_array_equal(both[2]["image"][..., 0], test[0])


def test_files_without_splits_are_the_training_split(tmp_path):
    path = tmp_path / "мои данные.npz"
    np.savez(path, images=pictures(4, 4, 4, 3), labels=[1, 0, 1, 1], class_names=["нет", "да"])
    source = open_source(f"npz:{path}", "train")
    assert (len(source), source.class_names, source.name) == (4, ("нет", "да"), f"npz:{path}")
    assert len(open_source(f"npz:{path}", "train[:50%]")) == 2
    with pytest.raises(ValueError, match="no split 'validation' in .*; it has train"):
        open_source(f"npz:{path}", "validation")


def test_labels_from_one_make_no_class_zero(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(6, 4, 4), labels=[1, 2, 3, 1, 2, 3])
    source = open_source(f"npz:{tmp_path}/a.npz", "train")
    assert (source.class_names, source.labels().tolist()) == (tuple("123"), [0, 1, 2] * 2)


def test_two_arrays_of_one_split_are_refused(tmp_path):
    arrays = {"x_val": pictures(2, 4, 4), "y_val": [0, 1], "x_valid": pictures(2, 4, 4)}
    np.savez(tmp_path / "a.npz", **arrays, y_valid=[0, 1])
    with pytest.raises(ValueError, match="'x_val' and 'x_valid' of .* both mean the split 'valid"):
        open_source(f"npz:{tmp_path}/a.npz", "validation")


@pytest.mark.parametrize("key", ["val", "valid", "validation", "Validation", "DEV"])
def test_validation_splits_have_one_name(tmp_path, key):
    arrays = {"train_images": pictures(2, 4, 4), "train_labels": [0, 1]}
    arrays |= {f"{key}_images": pictures(1, 4, 4), f"{key}_labels": [1]}
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(open_source(f"npz:{tmp_path}/a.npz", "validation")) == 1


def test_files_with_other_arrays_say_what_is_expected(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(2, 4, 4), classes=[0, 1])
    with pytest.raises(ValueError, match="holds the arrays images, classes; expected `images` and"):
        open_source(f"npz:{tmp_path}/a.npz", "train")


def test_counts_must_agree(tmp_path):
    np.savez(tmp_path / "a.npz", images=pictures(2, 4, 4), labels=[0, 1, 1])
    with pytest.raises(ValueError, match=r"2 images and 3 labels in split 'train' of npz:"):
        open_source(f"npz:{tmp_path}/a.npz", "train")


def test_labels_of_two_forms_are_refused(tmp_path):
    arrays = {"x_train": pictures(2, 4, 4), "y_train": [0, 1]}
    np.savez(tmp_path / "a.npz", **arrays, x_test=pictures(1, 4, 4), y_test=["a"])
    with pytest.raises(ValueError, match=r"several forms: train int64\[2\], test <U1\[1\]"):
        open_source(f"npz:{tmp_path}/a.npz", "train")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a .npz file"):
        open_source(f"npz:{tmp_path}/a.npz", "train")
    (tmp_path / "a.npz").write_text("images")
    with pytest.raises(ValueError, match="not a complete .npz file"):
        open_source(f"npz:{tmp_path}/a.npz", "train")
    objects = np.array(["a", None], dtype=object)
    np.savez(tmp_path / "b.npz", images=pictures(2, 4, 4), labels=objects)
    with pytest.raises(ValueError, match=r"cannot read 'labels' .* dtype=str"):
        open_source(f"npz:{tmp_path}/b.npz", "train")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=pictures(50, 8, 8), labels=np.arange(50))
    content = bytearray(path.read_bytes())
    content[200:1200] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read 'images' of .*a\.npz"):
        open_source(f"npz:{path}", "train")


def test_split_names_are_those_of_the_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=0, y_train=0, x_val=0, y_val=0)
    assert split_names(f"npz:{tmp_path}/a.npz") == ("train", "validation")


def member(shape, data=bytes(12)):
    """Returns a .npy file whose header may promise more than there is."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(10**7, 1000, 1000, 3), (1000, 1000, 1000, 3)])
def test_an_array_that_promises_more_than_the_file_holds_is_refused(tmp_path, shape, compression):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("images.npy", member(shape))
        archive.writestr("labels.npy", member((3,), bytes(3)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"cannot read 'images' of .*a\.npz: its header promises"):
        open_source(f"npz:{tmp_path / 'a.npz'}", "train")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_list_of_members_cannot_promise_more_than_the_file_either(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", member((1000, 1000, 1000, 3)))
        archive.writestr("labels.npy", member((3,), bytes(3)))
        size = archive.getinfo("images.npy").file_size
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.index(b"PK\x01\x02")  # The first entry of the list.
    assert struct.unpack_from("<II", data, place + 20) == (size, size)
    struct.pack_into("<II", data, place + 20, 2**32 - 9, 2**32 - 9)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="its header promises"):
        open_source(f"npz:{tmp_path / 'a.npz'}", "train")


def test_pickles_in_arrays_are_not_read(tmp_path):
    proof = tmp_path / "proof"

    class Call:
        def __reduce__(self):
            return open, (str(proof), "w")

    images = pictures(4, 4, 4, 3)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([Call()] * 4, object))
    with pytest.raises(ValueError, match="cannot read 'labels' of .*dtype=str"):
        open_source(f"npz:{tmp_path / 'a.npz'}", "train")
    assert not proof.exists()

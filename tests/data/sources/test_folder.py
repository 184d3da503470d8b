"""Image folders: both layouts, seeded splits, and a clear error for everything that is wrong."""

import re
from collections import Counter

import numpy as np
import pytest

from tl_jax.data.images import decode
from tl_jax.data.sources.open import open_source, open_with_options, split_names
from tl_jax.data.sources.options import OpenOptions


@pytest.fixture
def open_in(tmp_path):
    """Opens a split of `tmp_path/images`, its record of good files beside it."""

    def open_split(split, **options):
        options = {"validation_fraction": 0.25, "data_dir": tmp_path / "data", **options}
        return open_source(f"folder:{tmp_path / 'images'}", split, **options)

    return open_split


@pytest.fixture
def root(tmp_path, save_image):
    """Two classes in the splits train and val, 3 and 2 images each."""
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                save_image(tmp_path / "images" / split / name / f"{i}.png", seed=i)
    return tmp_path / "images"


@pytest.fixture
def flat(tmp_path, save_image):
    """Two classes without splits, 8 and 16 images."""
    for name, count in (("cat", 8), ("dog", 16)):
        for i in range(count):
            save_image(tmp_path / "images" / name / f"{i}.png", seed=i)
    return tmp_path / "images"


def test_split_folders_are_read_in_order(root, open_in):
    source = open_in("train")
    assert source.class_names == ("cat", "dog")
    assert (source.split, len(source), source.skipped) == ("train", 6, ())
    assert [source[i]["label"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(source[4]["image"], decode.decode(root / "train/dog/1.png"))
    assert source[4]["path"] == str(root / "train/dog/1.png")


@pytest.mark.parametrize("split", ["validation", "val", "valid"])
def test_the_validation_split_has_three_names(root, open_in, split):
    assert len(open_in(split)) == 4


def test_an_unknown_split_names_the_known_ones(root, open_in):
    with pytest.raises(ValueError, match=r"no split 'tran'.*train, val; did you mean 'train'"):
        open_in("tran")


def test_a_missing_root_is_named(open_in):
    with pytest.raises(FileNotFoundError, match=r"images; expected one with root/split/class"):
        open_in("train")


def test_names_with_blanks_and_other_letters_and_all_formats(tmp_path, save_image, open_in):
    names = [
        "мост.jpg",
        "写真 1.JPEG",
        "ein Bild.webp",
        "b.bmp",
        "c.PNG",
        "deep/er/d.png",
    ]
    for name in names:
        save_image(tmp_path / "images/train/ein Café" / name)
    source = open_in("train")
    assert source.class_names == ("ein Café",)
    names_read = {
        p.relative_to(tmp_path / "images/train/ein Café").as_posix() for p in source.paths
    }
    assert names_read == set(names)
    assert all(source[i]["image"].shape == (7, 9, 3) for i in range(len(names)))


def test_files_that_are_not_images_are_ignored(root, open_in):
    (root / "train/cat/notes.txt").write_text("x")
    (root / "train/cat/._0.png").write_text("x")
    (root / "train/.cache").mkdir()
    (root / "train/classes.csv").write_text("x")
    assert len(open_in("train")) == 6


def test_folders_behind_links_are_read(root, tmp_path, save_image, open_in):
    save_image(tmp_path / "elsewhere/more/9.png")
    (root / "train/cat/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert root / "train/cat/linked/more/9.png" in open_in("train").paths


def test_a_class_missing_from_a_split_is_named(root, open_in):
    for path in (root / "val/dog").iterdir():
        path.unlink()
    (root / "val/dog").rmdir()
    with pytest.raises(ValueError, match=r"missing from split 'val' \(.*\): 'dog'"):
        open_in("val")


def test_a_class_that_only_a_split_has_is_named(root, save_image, open_in):
    save_image(root / "val/dogs/0.png")
    with pytest.raises(
        ValueError, match=r"training split does not have: 'dogs'; did you mean 'dog'"
    ):
        open_in("val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder_is_named(root, open_in, split):
    (root / split / "emu").mkdir()
    with pytest.raises(ValueError, match=rf"without images in .*{split}: 'emu'"):
        open_in(split)


def test_a_root_without_classes_is_refused(tmp_path, save_image, open_in):
    save_image(tmp_path / "images/0.png")
    with pytest.raises(ValueError, match="no class folders"):
        open_in("train")


def test_a_class_may_be_called_train(tmp_path, save_image, open_in):
    for i in range(4):
        save_image(tmp_path / "images/train" / f"{i}.png")
    assert open_in("train").class_names == ("train",)


def test_held_out_files_are_disjoint_stratified_and_complete(flat, open_in):
    train, held = open_in("train"), open_in("validation")
    assert set(train.paths).isdisjoint(held.paths)
    assert sorted(train.paths + held.paths) == sorted(flat.rglob("*.png"))
    assert Counter(held.classes) == {0: 2, 1: 4}


def test_the_seed_decides_what_is_held_out(flat, open_in):
    assert open_in("validation", seed=1).paths == open_in("validation", seed=1).paths
    assert open_in("validation", seed=1).paths != open_in("validation", seed=2).paths


@pytest.mark.parametrize(("fraction", "held"), [(0.001, 2), (0.999, 22)])
def test_each_class_keeps_an_image_on_both_sides(flat, open_in, fraction, held):
    assert len(open_in("validation", validation_fraction=fraction)) == held
    assert len(open_in("train", validation_fraction=fraction)) == 24 - held


def test_a_class_of_one_image_cannot_be_held_out(flat, save_image, open_in):
    save_image(flat / "emu/0.png")
    with pytest.raises(ValueError, match=r"class 'emu' in .* has one image"):
        open_in("train")


def test_a_flat_folder_has_no_test_split(flat, open_in):
    with pytest.raises(ValueError, match="expected 'train' or 'validation'"):
        open_in("test")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_the_fraction_lies_between_0_and_1(flat, open_in, fraction):
    with pytest.raises(ValueError, match="expected 0 < fraction < 1"):
        open_in("train", validation_fraction=fraction)


def test_corrupt_images_raise_one_error_that_names_ten_and_counts_all(flat, open_in):
    for i in range(13):
        (flat / "dog" / f"x{i:02}.png").write_bytes(b"no image")
    with pytest.raises(decode.CorruptImageError) as caught:
        open_in("train", validation_fraction=0.01)
    message = str(caught.value)
    assert re.search(r"^13 images in split 'train' of .* cannot be decoded:", message) or (
        re.search(r"^12 images", message)  # One of them may be what is held out.
    )
    assert message.count("cannot identify image file") == 10
    assert re.search(r"and [23] more", message)
    assert "on_corrupt='skip'" in message


def test_corrupt_images_are_skipped_on_request_and_listed(root, open_in):
    content = (root / "train/cat/1.png").read_bytes()
    (root / "train/cat/1.png").write_bytes(content[:-30])
    source = open_in("train", on_corrupt="skip")
    assert len(source) == 5
    assert source.labels().tolist() == [0, 0, 1, 1, 1]
    assert len(source.skipped) == 1
    assert source.skipped[0].startswith(str(root / "train/cat/1.png") + ": ")


def test_a_class_with_nothing_but_corrupt_images_is_an_error(root, open_in):
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no image of class 'cat' in split 'train'"):
        open_in("train", on_corrupt="skip")


def test_a_misspelt_on_corrupt_is_refused(root, open_in):
    with pytest.raises(ValueError, match="got on_corrupt='ignore'"):
        open_in("train", on_corrupt="ignore")


def test_files_are_verified_once_and_not_at_all_on_request(root, open_in, tmp_path, monkeypatch):
    options = OpenOptions(data_dir=tmp_path / "other", verify=False)
    (root / "train/cat/0.png").write_bytes(b"no image")
    assert len(open_with_options(f"folder:{root}", "train", options)) == 6
    assert not (tmp_path / "other").exists()
    for _ in range(2):
        with pytest.raises(decode.CorruptImageError):
            open_in("train")
    (root / "train/cat/0.png").unlink()
    monkeypatch.setattr(decode, "decode", lambda path: pytest.fail(f"{path} was decoded again"))
    assert len(open_in("train")) == 5


def test_split_names_are_those_of_the_folders(root, tmp_path, save_image):
    assert split_names(f"folder:{root}") == ("train", "val")
    save_image(tmp_path / "flat/a/0.png")
    assert split_names(f"folder:{tmp_path}/flat") == ("train", "validation")
    with pytest.raises(FileNotFoundError, match="no folder"):
        split_names(f"folder:{tmp_path}/nowhere")


def test_slices_are_random_parts_of_a_split_and_complete(flat, open_in):
    whole = open_in("train")
    parts = [open_in("train[:50%]"), open_in("train[50%:]")]
    assert [len(part) for part in parts] == [9, 9]
    assert sorted(parts[0].paths + parts[1].paths) == sorted(whole.paths)
    assert parts[0].paths == tuple(path for path in whole.paths if path in parts[0].paths)
    # Not the first half, which would be nearly all cats.
    assert parts[0].paths != whole.paths[:9]
    for part in parts:
        assert part.class_names == ("cat", "dog")
        assert [whole.class_names[i] for i in part.labels()] == [p.parent.name for p in part.paths]


def test_slices_do_not_depend_on_where_the_folder_is(flat, open_in, tmp_path):
    first = [path.relative_to(flat) for path in open_in("train[:50%]").paths]
    (tmp_path / "other").mkdir()
    moved = flat.rename(tmp_path / "other" / "images")
    again = open_source(
        f"folder:{moved}", "train[:50%]", validation_fraction=0.25, data_dir=tmp_path
    )
    assert [path.relative_to(moved) for path in again.paths] == first


def test_splits_can_be_added(root, open_in):
    source = open_in("train+validation[:50%]")
    assert (len(source), source.split) == (8, "train+validation[:50%]")
    assert source[7]["path"].startswith(str(root / "val"))


def test_a_split_may_have_any_name(root, save_image, open_in):
    for name in ("cat", "dog"):
        save_image(root / "неделя 1+2" / name / "0.png")
    assert len(open_in("неделя 1+2")) == 2


@pytest.mark.parametrize("split", ["train[:0]", "validation[:10%]"])
def test_an_empty_slice_is_refused(root, open_in, split):
    with pytest.raises(ValueError, match="holds no example"):
        open_in(split)


def test_a_folder_with_the_name_of_an_image_is_named(root, open_in, save_image):
    save_image(root / "train/cat/x.jpg/0.png")
    with pytest.raises(decode.CorruptImageError, match=r"train/cat/x\.jpg: "):
        open_in("train")
    source = open_in("train", on_corrupt="skip")
    assert len(source) == 6
    assert source.skipped[0].startswith(f"{root / 'train/cat/x.jpg'}: ")

"""Image folders: both layouts, seeded splits, and a clear error for everything that is wrong."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.source import check_trainable
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
    with pytest.raises(
        ValueError, match=r"no split 'tran'.*train, validation \(val\); did you mean"
    ):
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


def test_a_class_missing_from_a_split_is_said(root, open_in):
    for path in (root / "val/cat").iterdir():
        path.unlink()
    (root / "val/cat").rmdir()
    source = open_in("val")
    assert (source.class_names, source.labels().tolist()) == (("cat", "dog"), [1, 1])
    assert "split 'validation' has no image of the classes 'cat'" in source.notes


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
    assert set(held.classes) == set(train.classes) == {0, 1}
    assert 2 <= len(held) <= 11
    assert "about 0.25 of each class is held out as 'validation'" in held.notes[0]


def test_what_is_held_out_stays_held_out_when_the_folder_grows(flat, save_image, open_in):
    before = set(open_in("validation").paths), set(open_in("train").paths)
    for i in range(30):
        save_image(flat / "cat" / f"more {i}.png", seed=i)
        save_image(flat / "dog" / f"0 more {i}.png", seed=i)
    assert before[0] < set(open_in("validation").paths)
    assert before[1] < set(open_in("train").paths)


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
    with pytest.raises(
        ValueError, match="no split 'test' in .* no split folders; it has train, validation"
    ):
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
    assert re.search(r"^13 images in .* cannot be decoded:", message)
    assert message.count("cannot identify image file") == 10
    assert "and 3 more" in message
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
    assert split_names(f"folder:{root}") == ("train", "validation")
    save_image(tmp_path / "flat/a/0.png")
    assert split_names(f"folder:{tmp_path}/flat") == ("train", "validation")
    with pytest.raises(FileNotFoundError, match="no folder"):
        split_names(f"folder:{tmp_path}/nowhere")


def test_slices_are_random_parts_of_a_split_and_complete(flat, open_in):
    whole = open_in("train")
    parts = [open_in("train[:50%]"), open_in("train[50%:]")]
    assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert sorted(parts[0].paths + parts[1].paths) == sorted(whole.paths)
    assert parts[0].paths == tuple(path for path in whole.paths if path in parts[0].paths)
    # Not the first half, which would be nearly all cats.
    assert parts[0].paths != whole.paths[: len(parts[0])]
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


def test_corrupt_images_are_left_out_before_a_part_is_held_out(tmp_path, save_image, open_in):
    for name in ("cat", "dog"):
        for i in range(6):
            save_image(tmp_path / "images" / name / f"{i}.png", seed=i)
    bad = [tmp_path / "images/cat" / f"{i}.png" for i in range(4)]
    for path in bad:
        path.write_bytes(b"no image")
    parts = [open_in(split, on_corrupt="skip") for split in ("train", "validation")]
    assert all(set(part.classes) == {0, 1} for part in parts)
    assert sum(len(part) for part in parts) == 8
    assert sorted(text.split(": ")[0] for part in parts for text in part.skipped) == [
        str(path) for path in bad
    ]
    (tmp_path / "images/cat/4.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="class 'cat' in .* has one image that can be decoded"):
        open_in("train", on_corrupt="skip")


@pytest.fixture
def make(tmp_path, save_image):
    """Makes pictures below `tmp_path/images`, and returns that folder."""

    def write(*names):
        for seed, name in enumerate(names):
            save_image(tmp_path / "images" / name, seed=seed)
        return tmp_path / "images"

    return write


def pictures(*folders, count=2):
    return [f"{folder}/{name}/{i}.png" for folder in folders for name in "ab" for i in range(count)]


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("TRAIN", "Test"), ("train_set", "tst")]
)
def test_split_folders_are_known_in_any_spelling(make, open_in, train, test):
    root = make(*pictures(train, test))
    assert split_names(f"folder:{root}") == ("train", "test")
    for split in ("train", train, "test", "Testing", "test[:50%]"):
        source = open_in(split)
        assert source.class_names == ("a", "b")
        assert source.notes == (f"splits: train ({train}), test ({test})",)
    with pytest.raises(ValueError, match=rf"no split 'val' in .*; it has train \({train}\), test"):
        open_in("val")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (pictures("train", "Training"), "'Training', 'train' of .* all mean the split 'train'"),
        (pictures("train", "val", "valid"), "'val', 'valid' of .* all mean"),
        ([*pictures("train", "test"), "a/1.png"], "beside them, folders of images that .*'a'"),
        (
            [*pictures("Test"), "a/1.png", "b/1.png"],
            r"splits \('Test'\) and, beside them.*'a', 'b'",
        ),
        (["train/1.png", "test/1.png"], "'test', 'train' of .* are plainly splits"),
        (["my_train/1.png", "my_test/1.png", "x/1.png"], "'my_test', 'my_train' of .* plainly"),
        (pictures("seg_train/seg_train", "seg_test/seg_test"), "plainly splits"),
        (["a/train/1.png", "a/test/1.png", "b/train/1.png"], "expected the splits above the cl"),
        (pictures("set/train", "set/val"), "did you mean folder:.*/images/set"),
    ],
)
def test_splits_that_are_not_plain_are_refused(make, open_in, names, message):
    make(*names)
    with pytest.raises(ValueError, match=message):
        open_in("train")


def test_a_class_may_be_called_as_a_split(make, open_in):
    make(*(f"{name}/{i}.png" for name in ("car", "train", "tree") for i in range(3)))
    assert open_in("train").class_names == ("car", "train", "tree")


def test_folders_that_are_no_splits_are_said(make, open_in):
    root = make(*pictures("train", "week 1"), "test/1.png")
    (root / "annotations").mkdir()
    (root / "annotations/boxes.xml").write_text("x")
    assert split_names(f"folder:{root}") == ("train", "week 1")
    assert open_in("train").notes == (
        "splits: train, week 1",
        "passed over as splits, for they hold images but no class folders: 'test'",
        "passed over: folders without images 'annotations'",
    )
    with pytest.raises(ValueError, match=r"of split 'test' holds 1 images and no class folders"):
        open_in("test")


def test_a_set_with_a_test_split_alone_is_opened(make, open_in):
    make(*pictures("Testing"))
    assert len(open_in("test")) == 4


def test_one_of_several_split_folders_says_so(make, tmp_path):
    root = make(*pictures("train", "val", count=4))
    source = open_source(f"folder:{root / 'train'}", "train", data_dir=tmp_path / "data")
    assert any(f"folder:{root} has these splits" in note for note in source.notes)


def test_a_set_of_one_class_cannot_be_trained_on_and_says_where_others_are(make, open_in):
    root = make(*(f"photos/{name}/{i}.png" for name in "ab" for i in range(3)))
    with pytest.raises(
        ValueError,
        match=rf"(?s)one class to train on: all .* 'photos'.*did you mean folder:{root}/p",
    ):
        check_trainable(open_in("train"))


@pytest.mark.parametrize("folder", ["", "train"])
def test_images_that_a_table_lists_are_opened_by_it(make, open_in, folder):
    root = make(*(f"{folder}/{i}.png".lstrip("/") for i in range(8)))
    table = root / folder / "metadata.csv"
    table.write_text("file_name,label\n")
    with pytest.raises(ValueError, match=f"; or, if metadata.csv lists .*manifest:{table}"):
        check_trainable(open_in("train"))


def test_class_folders_with_the_same_folders_in_them_may_be_splits(make, open_in):
    make(*pictures("entrenamiento", "prueba", count=4))
    said = "holds the folders 'a', 'b': if these are the classes, and 'entrenamiento', 'prueba' are"
    assert any(said in note for note in open_in("train").notes)
    make("birds/0.png", "birds/1.png")
    assert not any("these are the classes" in note for note in open_in("train").notes)


def test_a_set_for_detection_is_recognised(make, open_in):
    root = make("images/0.jpg", "images/1.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(ValueError, match="'labels'; they hold 1 .txt .a set for detection"):
        open_in("train")


def test_an_archive_is_no_folder(tmp_path, open_in):
    (tmp_path / "images").write_bytes(b"PK")
    with pytest.raises(ValueError, match="images is a file; expected a folder .*unpack it"):
        open_in("train")


def test_a_link_to_itself_is_passed_over(flat, open_in):
    before = len(open_in("all"))
    (flat / "cat" / "loop").symlink_to(flat / "cat" / "loop")
    (flat / "loop").symlink_to(flat / "loop")
    assert len(open_in("all")) == before


def test_all_that_is_decoded_is_listed_and_the_rest_is_counted(make, open_in, save_image):
    suffixes = [".jfif", ".JPE", ".webp", ".avif", ".ppm", ".ico", ".jp2", ".TIFF", ".dib"]
    root = make(*(f"{name}/{i}{suffix}" for name in "ab" for i, suffix in enumerate(suffixes)))
    for name in ("x.heic", "y.heic", "z.pfm", "z.pdf", "README"):
        (root / "a" / name).write_text("x")
    for junk in (
        *("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", "@eaDir/1.png", "__MACOSX/1.png"),
        *(".ipynb_checkpoints/1.png", "lost+found/2.png", ".thumbnails/1.png"),
    ):
        for place in (root, root / "a"):
            (place / junk).parent.mkdir(exist_ok=True)
            (place / junk).write_text("x")
    save_image(root / "stray.png")
    whole = open_in("all")
    assert len(whole) == 2 * len(suffixes)
    assert whole.notes == (
        "passed over: 1 images of images outside class folders",
        "passed over: 2 .heic, 1 without a suffix, 1 .pdf, 1 .pfm",
    )
    (root / "heic").mkdir()
    (root / "heic/x.heic").write_text("x")
    with pytest.raises(ValueError, match=r"without images in .*: 'heic'; they hold 1 \.heic; add"):
        open_in("all")


def test_every_suffix_of_the_formats_that_are_decoded_is_listed():
    Image.init()
    formats = {*decode._formats(), "MPO"}
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    assert known - {".pfm"} <= set(decode.IMAGE_SUFFIXES)


def test_links_make_no_more_images(flat, open_in):
    (flat / "cat/loop").symlink_to(flat / "cat")
    (flat / "cat/up").symlink_to(flat)
    (flat / "dog/again.png").symlink_to(flat / "dog/1.png")
    os.link(flat / "dog/2.png", flat / "dog/hard.png")
    source = open_in("all")
    assert len(source) == 24
    assert flat / "dog/1.png" in source.paths
    assert source.notes == (
        "links to what is listed already were passed over, 4: "
        "cat/loop, cat/up, dog/again.png, dog/hard.png",
    )


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_in_two_classes_or_splits_is_refused(root, open_in, link):
    link(root / "train/cat/0.png", root / "val/cat/x.png")
    for split in ("train", "val"):
        with pytest.raises(
            ValueError, match=r"(?s)in two splits.*train/cat/0\.png and .*val/cat/x"
        ):
            open_in(split)
    (root / "val/cat/x.png").unlink()
    link(root / "train/cat/0.png", root / "train/dog/x.png")
    with pytest.raises(ValueError, match=r"(?s)in two classes.*cat/0\.png and .*dog/x\.png\nrem"):
        open_in("train")


def test_a_split_that_is_made_of_others_says_so(root, open_in):
    (root / "trainval/cat").mkdir(parents=True)
    (root / "trainval/cat/1.png").symlink_to(root / "train/cat/1.png")
    assert (
        "1 files of split 'trainval' are in other splits too, by links" in open_in("trainval").notes
    )
    assert len(open_in("train")) == 6


def test_class_names_in_two_normal_forms_are_one_class(make, open_in):
    make("train/\u00e9/1.png", "train/e\u0301/2.png", "train/a/1.png", "test/e\u0301/3.png")
    source = open_in("train")
    assert (source.class_names, len(source)) == (("a", "\u00e9"), 3)
    assert any("spellings joined to one class" in note for note in source.notes)
    assert open_in("test").labels().tolist() == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [("eel\nbig", "has a line break"), ("CAT", "'CAT' and 'cat' differ in case"),
     ("nan", "stands for a missing label")],
)  # fmt: skip
def test_names_that_cannot_be_those_of_classes_are_refused(
    flat, save_image, open_in, name, message
):
    for i in range(2):
        save_image(flat / name / f"{i}.png")
    with pytest.raises(ValueError, match=message):
        open_in("train")


def test_names_of_files_that_are_not_utf8_are_read(flat, open_in):
    odd = Path(os.fsdecode(os.fsencode(flat / "cat") + b"/caf\xe9.png"))
    (flat / "cat/0.png").rename(odd)
    source = open_in("all")
    index = source.paths.index(odd)
    assert source[index]["path"] == f"{flat}/cat/caf\\xe9.png"
    assert source.identities()[index] == "cat/caf\\xe9.png"
    odd.write_bytes(b"no image")
    skipped = open_in("train", on_corrupt="skip").skipped
    skipped += open_in("validation", on_corrupt="skip").skipped
    assert skipped[0].encode().startswith(f"{flat}/cat/caf\\xe9.png: ".encode())
    odd.unlink()
    (flat / os.fsdecode(b"\xe9")).mkdir()
    with pytest.raises(ValueError, match="is not UTF-8"):
        open_in("train")

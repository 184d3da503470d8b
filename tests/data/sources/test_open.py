"""Specifications of sources: each opens its kind, and a misspelt one names the nearest."""

import itertools

import pytest

from tl_jax.data.sources.open import open_source, own_splits, split_names


def test_a_folder_is_opened(tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(4):
            save_image(tmp_path / "in" / name / f"{i}.png", seed=i)
    spec = f"folder:{tmp_path / 'in'}"
    held = open_source(
        spec, "validation", data_dir=str(tmp_path / "d"), seed=3, validation_fraction=0.5
    )
    assert (held.name, held.class_names) == (spec, ("a", "b"))
    assert set(held.labels()) == {0, 1}
    assert list((tmp_path / "d").rglob("*.json"))


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("elpvv", "elpv"),
        ("folders:/x", "folder:"),
        ("tdfs:mnist", "tfds:"),
        ("folder:", "folder:"),
        ("folder", "folder:"),
        ("manifests:/x.csv", "manifest:"),
        ("elpv:defect", "elpv"),
        ("fashion-mnist", "fashion_mnist"),
    ],
)
def test_a_misspelt_source_names_the_nearest(spec, nearest):
    with pytest.raises(ValueError, match=f"unknown source '{spec}'.*did you mean '{nearest}'"):
        open_source(spec, "train")


@pytest.mark.parametrize(("name", "kind"), [("in", "folder"), ("t.csv", "manifest")])
def test_a_path_without_its_kind_is_completed(tmp_path, name, kind):
    (tmp_path / "in").mkdir()
    (tmp_path / "t.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match=f"did you mean '{kind}:{tmp_path}/{name}'"):
        open_source(f"{tmp_path}/{name}", "train")


def test_a_set_with_training_and_test_alone_says_how_a_run_validates(tmp_path, save_image):
    for split, name in itertools.product(("train", "test"), ("a", "b")):
        save_image(tmp_path / "in" / split / name / "0.png")
    with pytest.raises(ValueError, match=r"data\.carve 0\.2 .* or data\.eval_split 'test'"):
        open_source(f"folder:{tmp_path / 'in'}", "validation")


@pytest.mark.parametrize("spec", ["elpv", "tfds:mnist", "digits", "npz:x.npz", "prepared:x"])
def test_prepared_sets_take_no_skipping(spec, tmp_path):
    with pytest.raises(ValueError, match="got on_corrupt='skip'.* uses (none|only .*): leave"):
        open_source(spec, "train", data_dir=tmp_path, on_corrupt="skip")


@pytest.mark.parametrize(
    ("spec", "options", "used"),
    [
        ("digits", {"labels": ("a",)}, "none"),
        ("folder:x", {"labels": ("a",)}, "only on_corrupt and value_range"),
        ("elpv", {"image_column": "a"}, "only example_weights, labels, numbers and ordered"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(spec, options, used):
    with pytest.raises(ValueError, match=rf"got {next(iter(options))}=.* '{spec}' uses {used}: "):
        open_source(spec, "train", **options)


def test_a_misspelt_on_corrupt_is_refused():
    with pytest.raises(ValueError, match="got on_corrupt='ignore'; expected 'raise' or 'skip'"):
        open_source("folder:x", "train", on_corrupt="ignore")


@pytest.mark.parametrize("spec", ["folder:x", "manifest:x.csv"])
def test_results_of_checks_are_kept_on_this_machine(spec, tmp_path, save_image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for i in range(2):
            save_image(tmp_path / "x" / name / f"{i}.png")
    (tmp_path / "x.csv").write_text("image,label\nx/a/0.png,a\nx/a/1.png,a\n")
    with pytest.raises(ValueError, match="expected a folder of this machine"):
        open_source(spec, "train", data_dir="gs://bucket/sets")


def test_a_set_without_splits_has_none_of_its_own_and_is_opened_as_a_whole(tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(3):
            save_image(tmp_path / "in" / name / f"{i}.png", seed=i)
    save_image(tmp_path / "in" / "c" / "0.png")
    rows = [f"in/{name}/{i}.png,{name}" for name in "ab" for i in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows, "in/c/0.png,c"]))
    for spec in (f"folder:{tmp_path / 'in'}", f"manifest:{tmp_path / 't.csv'}"):
        assert own_splits(spec) == ()
        assert split_names(spec) == ("train", "validation")
        whole = open_source(spec, "all", data_dir=tmp_path / "d")
        assert (len(whole), whole.class_names) == (7, ("a", "b", "c"))
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *(f"{r},dev" for r in rows)]))
    assert own_splits(f"manifest:{tmp_path / 't.csv'}") == ("validation",)
    assert own_splits("digits") == ("train", "validation", "test")


def test_every_kind_is_listed():
    kinds = "digits elpv fashion_mnist folder manifest npz prepared tfds".split()
    with pytest.raises(ValueError, match=".*".join(f"'{kind}" for kind in kinds)):
        split_names("x")

"""Specifications of sources: each opens its kind, and a misspelt one names the nearest."""

import pytest

from tl_jax.data.open import open_source


def test_a_folder_is_opened(tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(4):
            save_image(tmp_path / "in" / name / f"{i}.png", seed=i)
    spec = f"folder:{tmp_path / 'in'}"
    held = open_source(
        spec, "validation", data_dir=str(tmp_path / "d"), seed=3, validation_fraction=0.5
    )
    assert (held.name, len(held), held.class_names) == (spec, 4, ("a", "b"))
    assert list((tmp_path / "d").rglob("*.json"))


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [("elpvv", "elpv"), ("folders:/x", "folder:"), ("tdfs:mnist", "tfds:"), ("folder:", "folder:")],
)
def test_a_misspelt_source_names_the_nearest(spec, nearest):
    with pytest.raises(ValueError, match=f"unknown source '{spec}'.*did you mean '{nearest}'"):
        open_source(spec, "train")


@pytest.mark.parametrize("spec", ["elpv", "tfds:mnist"])
def test_prepared_sets_take_no_skipping(spec, tmp_path):
    with pytest.raises(ValueError, match="only 'folder:' takes it"):
        open_source(spec, "train", data_dir=tmp_path, on_corrupt="skip")

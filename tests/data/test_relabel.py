"""Other data: their classes are matched to those of a run by name, in any order."""

import numpy as np
import pytest

from tl_jax.data.relabel import absent_classes, match_to
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source


def source_of(*labels, **options):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    return from_arrays(images, list(labels), **options)


def test_classes_are_matched_by_name_not_by_order():
    matched = match_to(source_of("dog", "cat", "dog"), ("emu", "dog", "cat"))
    assert matched.class_names == ("emu", "dog", "cat")
    assert matched.labels().tolist() == [1, 2, 1] == [matched[i]["label"] for i in range(3)]
    assert absent_classes(matched) == ["emu"]


def test_the_same_classes_change_nothing():
    source = source_of("dog", "cat")
    assert match_to(source, ("cat", "dog")) is source


def test_composed_and_decomposed_accents_are_one_name():
    source = source_of(0, 1, class_names=("caf\u00e9", "tea"))
    assert match_to(source, ("tea", "cafe\u0301")).labels().tolist() == [1, 0]


def test_images_of_other_classes_are_named_or_left_out():
    source = source_of("cat", "dgo", "cat", "yak", "yak")
    with pytest.raises(ValueError, match=r"'dgo' \(1\), 'yak' \(2\); did you mean 'dog'\? Rename"):
        match_to(source, ("cat", "dog"))
    kept = match_to(source, ("cat", "dog"), unknown="skip")
    assert [int(kept[i]["image"][0, 0, 0]) for i in range(len(kept))] == [0, 2]
    assert "left out 3 images of other classes: 'dgo' (1), 'yak' (2)" in kept.notes
    with pytest.raises(ValueError, match="expected 'raise' or 'skip'"):
        match_to(source, ("cat", "dog"), unknown="ignore")


def test_a_class_without_images_is_no_other_class():
    source = source_of(0, 0, class_names=("cat", "yak"))
    assert match_to(source, ("dog", "cat")).labels().tolist() == [1, 1]


def test_classes_of_which_none_is_known_are_refused_even_if_they_may_be_left_out():
    with pytest.raises(ValueError, match="'0', '1', none of .*'cat', 'dog'; .*under these names$"):
        match_to(source_of(0, 1), ("cat", "dog"), unknown="skip")
    with pytest.raises(ValueError, match="under these names; did you mean 'cat'"):
        match_to(source_of("Cat", "Dog"), ("cat", "dog"), unknown="skip")


def test_numbers_of_an_npz_file_may_get_names(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1])
    with pytest.raises(ValueError, match="an array `class_names` in the file names its numbers"):
        match_to(open_source(f"npz:{tmp_path / 'a.npz'}", "train"), ("cat", "dog"))

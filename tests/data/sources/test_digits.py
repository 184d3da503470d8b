"""Digits: scikit-learn's own pictures, in fixed splits."""

import importlib.util
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tl_jax.data.sources import digits
from tl_jax.data.sources.open import open_source

SPLITS = {"train": 1078, "validation": 269, "test": 450}


def test_the_splits_hold_every_digit_once_and_are_stratified():
    table = load_digits()
    parts = digits.split_digits(table.target)
    assert {name: len(part) for name, part in parts.items()} == SPLITS
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    for name, part in parts.items():
        share = np.bincount(table.target[part]) / np.bincount(table.target)
        np.testing.assert_allclose(share, digits.SHARES[name], atol=1 / 170)


def test_images_and_labels_are_scikit_learns():
    table = load_digits()
    places = digits.split_digits(table.target)["test"]
    source = open_source("digits", "test")
    assert (source.name, source.class_names) == ("digits", tuple("0123456789"))
    np.testing.assert_array_equal(source.labels(), table.target[places])
    for i in (0, 100, 449):
        image = source[i]["image"]
        assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
        np.testing.assert_allclose(image[..., 2], table.images[places[i]] * 255 / 16, atol=0.51)


def test_splits_are_pinned():
    # Recorded results compare only as long as the splits stay the same.
    first = {name: open_source("digits", name).labels()[:8].tolist() for name in SPLITS}
    assert first == FIRST


def test_slices_can_be_opened():
    assert len(open_source("digits", "train[:10%]+test")) == 108 + 450


def test_scikit_learn_is_not_imported(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    open_source("digits", "train")
    assert not [name for name in sys.modules if name.partition(".")[0] == "sklearn"]


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        open_source("digits", "train")


FIRST = {
    "train": [2, 3, 4, 7, 8, 9, 0, 4],
    "validation": [0, 6, 2, 4, 7, 8, 9, 1],
    "test": [1, 5, 1, 3, 6, 2, 0, 5],
}

"""The digits that come with scikit-learn: 1,797 gray pictures of 8x8 pixels in ten classes.

They are the test set of "Optical Recognition of Handwritten Digits" of the UCI repository (Alpaydin
and Kaynak 1998, doi:10.24432/C50P49, CC-BY-4.0). For trying things out: a run takes seconds.
"""

import importlib.util
from pathlib import Path

import numpy as np

from tl_jax.data.partition import partition
from tl_jax.data.source import Task
from tl_jax.data.sources import arrays

SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_SEED = 0


def open_digits(split: str) -> arrays.ArraySource:
    """Opens a split of the digits; the splits are fixed and stratified by class.

    Args:
      split: "train" (60 %), "validation" (15 %) or "test" (25 %), a slice of one, or a sum.

    Raises:
      ModuleNotFoundError: if scikit-learn is not installed.
      ValueError: if the split is unknown.
    """
    table = np.loadtxt(_file(), delimiter=",")
    # The pictures count dots in 4x4 fields: 0 to 16.
    pictures = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int32)
    parts = split_digits(labels)
    return arrays.open_splits(
        {name: pictures[part] for name, part in parts.items()},
        {name: labels[part] for name, part in parts.items()},
        split,
        task=Task("label", tuple("0123456789")),
        name="digits",
    )


def split_digits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Deals the pictures out to the splits, class by class; returns their places, in order."""
    splits: dict[str, list[int]] = {name: [] for name in SHARES}
    for label in range(10):
        names = [str(i) for i in np.flatnonzero(labels == label)]
        parts = partition(names, shares=list(SHARES.values()), seed=_SEED)
        for split, part in zip(SHARES, parts, strict=True):
            splits[split] += [int(name) for name in part]
    return {split: np.sort(places) for split, places in splits.items()}


def _file() -> Path:
    """Returns scikit-learn's file: its code, and all that this would import, is not needed."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the images of `digits` come with scikit-learn, which is not installed: "
            "`pip install scikit-learn`"
        )
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"

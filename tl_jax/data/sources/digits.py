"""The digits that come with scikit-learn: 1,797 gray pictures of 8x8 pixels in ten classes.

They are the test set of "Optical Recognition of Handwritten Digits" of the UCI repository (Alpaydin
and Kaynak 1998, doi:10.24432/C50P49, CC-BY-4.0). For trying things out: a run takes seconds.
"""

import importlib.util
from pathlib import Path

import numpy as np

from tl_jax.data import splits
from tl_jax.data.source import Task
from tl_jax.data.sources import arrays
from tl_jax.data.sources.options import OpenOptions

OPTIONS: frozenset[str] = frozenset()
SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}

_SEED = 0


def open(address: str, split: str, options: OpenOptions) -> arrays.ArraySource:
    """Opens a split of the digits; the splits are fixed and stratified by class.

    Args:
      address: "", as there is one set.
      split: "train" (60 %), "validation" (15 %) or "test" (25 %), a slice of one, or a sum.
      options: none of them is used.

    Raises:
      ModuleNotFoundError: if scikit-learn is not installed.
      ValueError: if the split is unknown.
    """
    del address, options
    # Only scikit-learn's file is read: importing the library would take seconds.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "the images of `digits` come with scikit-learn, which is not installed: "
            "`pip install scikit-learn`"
        )
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    # The pictures count the dots in fields of 4x4: 0 to 16.
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int32)
    indices = split_digits(labels)
    return arrays.select_split(
        {name: images[chosen] for name, chosen in indices.items()},
        {name: labels[chosen] for name, chosen in indices.items()},
        split,
        task=Task("label", tuple("0123456789")),
        name="digits",
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the three splits."""
    del address, options
    return tuple(SHARES)


def split_digits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Divides the pictures into the splits, class by class; returns their indices, in order."""
    strata = [[str(i) for i in np.flatnonzero(labels == label)] for label in range(10)]
    parts = splits.partition_strata(strata, shares=SHARES, seed=_SEED)
    return {split: np.sort([int(name) for name in part]) for split, part in parts.items()}

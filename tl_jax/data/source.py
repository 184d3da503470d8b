"""The protocol of a source: a split of labelled images that can be read in any order."""

from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np


class Example(TypedDict):
    """One labelled image; a source may add keys of its own."""

    image: np.ndarray
    """uint8 RGB [H, W, 3], at the file's own size."""
    label: int
    """Index into the source's `class_names`."""


class Source(Protocol):
    """One split of a set of labelled images."""

    @property
    def name(self) -> str:
        """What the source was opened by."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the labels."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images left out because they cannot be decoded, each with the reason."""

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes example `index`, 0 <= index < len; safe to call from threads."""


def cache_dir() -> Path:
    """Returns the folder where prepared sets and results of checks are kept between runs."""
    return Path.home() / ".cache" / "tl_jax"

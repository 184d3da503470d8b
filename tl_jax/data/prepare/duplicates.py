"""Finds images that are the same to the last pixel, within a split and across splits."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from tl_jax.data.prepare.inspection import Facts


@dataclasses.dataclass(frozen=True)
class Group:
    """Images with the same pixels, two at least, in the order they were given in."""

    members: tuple[Facts, ...]

    @property
    def identical_bytes(self) -> bool:
        """Whether the files are the same too, and not only what they show."""
        return len({one.file_digest for one in self.members}) == 1

    @property
    def across_splits(self) -> bool:
        """Whether the group lies in several splits: what is tested on was trained on."""
        return len({one.split for one in self.members}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether the labels contradict each other; a missing one contradicts nothing."""
        return any(
            _contradict([np.atleast_1d(one.labels[task]) for one in self.members])
            for task in self.members[0].labels
        )


def find(images: Iterable[Facts]) -> list[Group]:
    """Returns the groups of images that decode to the same pixels."""
    by_pixels: dict[bytes, list[Facts]] = defaultdict(list)
    for one in images:
        by_pixels[one.pixel_digest].append(one)
    return [Group(tuple(members)) for members in by_pixels.values() if len(members) > 1]


def _contradict(labels: list[np.ndarray]) -> bool:
    columns = np.stack(labels, axis=1)
    return any(len(set(column[column >= 0])) > 1 for column in columns)

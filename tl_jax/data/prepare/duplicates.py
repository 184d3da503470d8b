"""Finds images with the same pixels, within a split and across splits."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from tl_jax.data.prepare.inspection import ImageInfo


@dataclasses.dataclass(frozen=True)
class Group:
    """Images with the same pixels, two or more, in the order in which they were given."""

    members: tuple[ImageInfo, ...]

    @property
    def identical_bytes(self) -> bool:
        """Whether the files are equal too, and not only their pixels."""
        return len({image.file_digest for image in self.members}) == 1

    @property
    def across_splits(self) -> bool:
        """Whether the images are in several splits, so that test images were trained on."""
        return len({image.split for image in self.members}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether the labels contradict each other; missing labels are ignored."""
        for task in self.members[0].labels:
            for values in zip(*(image.labels[task] for image in self.members), strict=True):
                if len({value for value in values if value >= 0}) > 1:
                    return True
        return False


def find(images: Iterable[ImageInfo]) -> list[Group]:
    """Returns the groups of images that decode to the same pixels."""
    by_pixels: dict[bytes, list[ImageInfo]] = defaultdict(list)
    for image in images:
        by_pixels[image.pixel_digest].append(image)
    return [Group(tuple(members)) for members in by_pixels.values() if len(members) > 1]

"""The cells of the study of defaults, and their pictures: .npz files that both sides read.

Solar cells (ELPV, CC-BY-NC-SA-4.0) and stamps (Tux Paint; see `experiments.strategies_stamps`) are
kept at 96 x 96 pixels, Fashion-MNIST (MIT) at its own 28 x 28. A subset has 20, 100 or 1,000
training pictures of each class, or all of a class that has fewer. The subsets are nested. The
pictures for validation and testing are the same in all subsets of a set.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import strategies_stamps as stamps
from tl_jax.data.source import Source
from tl_jax.data.sources.open import open_source

_SEED = 0


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """A set, and the subsets that are trained on.

    Attributes:
      title: its name in tables.
      image_size: side of the pictures that the networks see.
      sizes: the subsets: pictures per class.
      side: of the pictures as they are stored.
      splits: its splits for training, validation and testing, and how many pictures are taken of
        each class of the last two; None for all.
    """

    title: str
    image_size: int
    sizes: tuple[int, ...]
    side: int = 96
    splits: tuple[str, str, str] = ("train", "validation", "test")
    counts: tuple[int | None, int | None] = (None, None)


SETS = {
    # Of two classes with 1,082 and 493 pictures: 1,000 a class are nearly all of them.
    "elpv": PictureSet("Solar cells (ELPV)", 64, (20, 100, 1000), counts=(100, None)),
    # Of eight classes with 15 to 111 pictures: 100 a class are nearly all of them.
    "stamps": PictureSet("Stamps (Tux Paint)", 64, (20, 100)),
    "fashion": PictureSet(
        "Fashion-MNIST",
        48,
        (20, 100, 1000),
        28,
        ("train[:50000]", "train[50000:]", "test"),
        (20, 100),
    ),
}


# Epochs of each subset: about as many as a core trains in a minute.
EPOCHS = {
    ("elpv", 20): 20,
    ("elpv", 100): 12,
    ("elpv", 1000): 4,
    ("stamps", 20): 12,
    ("stamps", 100): 10,
    ("fashion", 20): 12,
    ("fashion", 100): 6,
    ("fashion", 1000): 2,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
      set, size: the subset.
      network: "lite0" or "lite1".
      batch_size: images of a step.
    """

    set: str
    size: int
    network: str = "lite0"
    batch_size: int = 32

    @property
    def name(self) -> str:
        """Its name in rows."""
        return f"{self.set}-{self.size}-{self.network}-{self.batch_size}"

    @property
    def subset(self) -> tuple[str, int]:
        """The subset."""
        return self.set, self.size


def write(name: str, size: int, folder: Path, packages: dict[str, Path]) -> Path:
    """Writes a subset, unless it exists, and returns its file.

    Args:
      name: key of `SETS`.
      size: training pictures per class.
      folder: where to write.
      packages: the package or folder of "stamps" and of "fashion", where they are not installed.
    """
    path = folder / f"{name}-{size}.npz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    chosen = SETS[name]
    arrays: dict[str, np.ndarray] = {}
    limits = (size, *chosen.counts)
    for key, split, limit in zip(("train", "val", "test"), chosen.splits, limits, strict=True):
        source = _open(name, split, folder, packages)
        labels = source.labels()
        indices = _few_of_each(labels, limit)
        arrays[f"x_{key}"] = np.stack([
            _pixels(source[int(i)]["image"], chosen.side) for i in indices
        ])  # fmt: skip
        arrays[f"y_{key}"] = labels[indices].astype(np.int32)
        arrays["class_names"] = np.array(source.class_names, dtype=str)
    np.savez(path, **arrays)
    return path


def _open(name: str, split: str, folder: Path, packages: dict[str, Path]) -> Source:
    if name == "stamps":
        pictures = stamps.write_pictures(packages.get(name, stamps.INSTALLED), folder / "stamps")
        return open_source(f"folder:{pictures}", split)
    if name == "fashion":
        return open_source(
            f"fashion_mnist:{packages[name]}" if name in packages else "fashion_mnist", split
        )
    return open_source(name, split)


def _few_of_each(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Returns the indices of at most `limit` examples of each class; fewer are among more."""
    order = np.random.default_rng(_SEED).permutation(len(labels))
    by_class = [order[labels[order] == label][:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(by_class))


def _pixels(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture as it is stored: uint8 [side, side, 3]."""
    if image.shape[:2] == (side, side):
        return image
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)

"""A set of images in folders, good and corrupt ones, prepared once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import digests
from tl_jax.data.prepare.pack import PreparedSet, prepare_source

CLASSES = ("dog", "крас ный", "写真 1")
SUFFIXES = ("jpg", "png", "webp", "bmp")


def write_set(root: Path) -> Path:
    """Writes three classes in train and val, 4 and 2 images each, of several formats and sizes."""
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                path = root / split / name / f"é {i}.{SUFFIXES[i]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng(100 * number + 10 * (split == "val") + i)
                pixels = rng.integers(0, 256, (30 + number, 20 + i, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of good images, to be changed."""
    return write_set(tmp_path / "set")


@pytest.fixture(scope="session")
def faulty_root(tmp_path_factory) -> Path:
    """A folder of good images, two corrupt ones and two copies; not to be changed."""
    root = write_set(tmp_path_factory.mktemp("faulty") / "set")
    dog = root / "train/dog"
    (dog / "empty.png").write_bytes(b"")
    (dog / "text.jpg").write_text("no image")
    (dog / "twin.png").write_bytes((dog / "é 1.png").read_bytes())
    Image.open(dog / "é 1.png").save(root / "val/dog/copy.bmp")
    return root


@pytest.fixture(scope="session")
def prepared(faulty_root) -> PreparedSet:
    """`faulty_root`, prepared with the defaults."""
    before = digests(faulty_root)
    prepared = prepare_source(f"folder:{faulty_root}", faulty_root.parent / "out", progress=False)
    assert digests(faulty_root) == before
    return prepared

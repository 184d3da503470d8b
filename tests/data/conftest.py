"""What the tests of the data share: a writer of pictures, and ELPV in record files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.sources import elpv


@pytest.fixture(scope="session")
def elpv_dir(tmp_path_factory) -> Path:
    """A folder of prepared sets with ELPV in it."""
    data_dir = tmp_path_factory.mktemp("tfds")
    elpv.build(data_dir)
    return data_dir


@pytest.fixture
def save_image():
    """Writes a picture of random pixels, decided by the seed, and makes its folder."""

    def save(path: Path, *, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save

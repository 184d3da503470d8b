"""A few pictures in the forms of Fashion-MNIST and of Tux Paint, for composed sets."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.composed_sets import Packages


def write_packages(root: Path) -> Packages:
    """Writes articles, each with a pattern of its own, and stamps with sentences."""
    for prefix, count in (("train", 250), ("t10k", 60)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 4:24, 6:22] = 150
        images[:, 5, 6:14] = 255 * ((np.arange(count)[:, None] >> np.arange(8)) & 1)
        _write_idx(root / f"{prefix}-images-idx3-ubyte.gz", images)
        _write_idx(root / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype("u1"))
    for label, count in {"animals": 30, "food": 20, "space": 3}.items():
        folder = root / "stamps" / label / "kind"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.new("RGBA", (20, 20), (i, 0, 0, 255)).save(folder / f"{i}.png")
            if i:
                sentence = f"A {label} {i}.\nde.utf8=Ein Ding.\n"
                (folder / f"{i}.txt").write_text(sentence)
    return Packages(root, root / "stamps")


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), 1))

"""Fashion-MNIST: 70,000 gray pictures of articles of clothing, from the files Debian ships.

28x28 pixels, ten classes, 60,000 for training and 10,000 for testing, under the MIT licence. Cite
Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", arXiv:1708.07747.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from tl_jax.data import slices
from tl_jax.data.source import Task
from tl_jax.data.sources import arrays, debian

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
_HOW = (
    "install Debian's package dataset-fashion-mnist, or fetch it (`apt-get download "
    "dataset-fashion-mnist`, 31 MB) and open 'fashion_mnist:dataset-fashion-mnist_VERSION_all.deb'"
    "; a folder of the four *-ubyte.gz files does too"
)


def open_fashion_mnist(split: str, path: Path | None = None) -> arrays.ArraySource:
    """Opens a split of Fashion-MNIST.

    Args:
      split: "train" or "test", a slice such as "train[:90%]", which counts in the files' order (it
        is random), or a sum of these.
      path: the folder of the files, or the Debian package; the default is where it is installed.

    Raises:
      FileNotFoundError: if the files are not there; the message says how to get them.
      ValueError: if a file is damaged, or the split is unknown.
    """
    place = path or INSTALLED
    name = "fashion_mnist" if path is None else f"fashion_mnist:{path}"
    files = _files(place)
    targets = {
        key: read_idx(files[_LABELS.format(prefix)], f"{prefix} labels of {place}").astype(np.int32)
        for key, prefix in PREFIXES.items()
    }
    wanted = {part.split for part in slices.parse(split, PREFIXES)} & set(PREFIXES)
    images = {
        key: read_idx(files[_IMAGES.format(PREFIXES[key])], f"{key} images of {place}")
        for key in wanted
    }
    task = Task("label", CLASS_NAMES)
    return arrays.open_splits(images, targets, split, task=task, name=name)


def _files(place: Path) -> dict[str, bytes]:
    """Returns the four files' contents by their names."""
    names = [form.format(prefix) for prefix in PREFIXES.values() for form in (_IMAGES, _LABELS)]
    if place.is_dir():
        found = {name: (place / name).read_bytes() for name in names if (place / name).is_file()}
    elif place.is_file():
        found = _packed(place, names)
    else:
        raise FileNotFoundError(f"there is no Fashion-MNIST at {place}: {_HOW}")
    missing = [name for name in names if name not in found]
    if missing:
        raise FileNotFoundError(f"{place} lacks {', '.join(missing)}: {_HOW}")
    return found


def _packed(package: Path, names: list[str]) -> dict[str, bytes]:
    found = {}
    with debian.data_archive(package) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if name in names and member.isfile():
                found[name] = archive.extractfile(member).read()
    return found


def read_idx(data: bytes, name: str) -> np.ndarray:
    """Reads a gzipped idx file of bytes, the format of MNIST, to a uint8 array.

    Args:
      data: the file's content: 0, 0, 8 (the type), the number of axes, the length of each as a
        big-endian 32-bit number, and the values.
      name: what messages call it.

    Raises:
      ValueError: if it is something else, or damaged.
    """
    try:
        raw = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot unpack the {name}: {error}; fetch the file again") from error
    axes = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", raw[4:start]) if len(raw) >= start else ()
    if not shape or len(raw) != start + math.prod(shape):
        raise ValueError(
            f"the {name} are no whole idx file of bytes ({len(raw)} bytes, beginning with "
            f"{raw[:4].hex()}); fetch the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)

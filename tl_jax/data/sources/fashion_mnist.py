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

from tl_jax import files
from tl_jax.data import splits
from tl_jax.data.source import Task
from tl_jax.data.sources import arrays, debian
from tl_jax.data.sources.options import OpenOptions

OPTIONS: frozenset[str] = frozenset()
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

_PREFIXES = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
_HOW_TO_GET_IT = (
    "install Debian's package dataset-fashion-mnist, or download it (`apt-get download "
    "dataset-fashion-mnist`, 31 MB) and open 'fashion_mnist:dataset-fashion-mnist_VERSION_all.deb'"
    "; a folder of the four *-ubyte.gz files works too"
)


def open(address: str, split: str, options: OpenOptions) -> arrays.ArraySource:
    """Opens a split of Fashion-MNIST.

    Args:
      address: the folder of the files, or the Debian package; "" is where the package installs
        them.
      split: "train" or "test", a slice such as "train[:90%]", in the order of the files (which is
        random), or a sum of these.
      options: none of them is used.

    Raises:
      FileNotFoundError: if files are missing; the message says how to get them.
      ValueError: if a file is damaged, or the split is unknown.
    """
    del options
    path = files.user_path(address) if address else INSTALLED
    contents = _read_files(path)
    targets = {
        name: read_idx(contents[_LABELS.format(prefix)], f"{prefix} labels of {path}").astype(
            np.int32
        )
        for name, prefix in _PREFIXES.items()
    }
    wanted = {each.split for each in splits.parse(split, _PREFIXES)} & _PREFIXES.keys()
    images = {
        name: read_idx(contents[_IMAGES.format(_PREFIXES[name])], f"{name} images of {path}")
        for name in wanted
    }
    return arrays.select_split(
        images,
        targets,
        split,
        task=Task("label", CLASS_NAMES),
        name=f"fashion_mnist:{path}" if address else "fashion_mnist",
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the two splits."""
    del address, options
    return tuple(_PREFIXES)


def _read_files(path: Path) -> dict[str, bytes]:
    """Returns the content of the four files by their names."""
    names = [form.format(prefix) for prefix in _PREFIXES.values() for form in (_IMAGES, _LABELS)]
    if path.is_dir():
        files = {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    elif path.is_file():
        packed = debian.read_files(path, lambda name: PurePosixPath(name).name in names)
        files = {PurePosixPath(name).name: content for name, content in packed.items()}
    else:
        raise FileNotFoundError(f"there is no Fashion-MNIST at {path}: {_HOW_TO_GET_IT}")
    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}: {_HOW_TO_GET_IT}")
    return files


def read_idx(data: bytes, name: str) -> np.ndarray:
    """Reads a gzipped idx file of bytes, the format of MNIST, as a uint8 array.

    Args:
      data: the file's content: 0, 0, 8 (the type), the number of axes, the length of each as a
        big-endian 32-bit number, and the values.
      name: what messages call it.

    Raises:
      ValueError: if it has another format, or is damaged.
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
            f"the {name} are not a complete idx file of bytes ({len(raw)} bytes, beginning with "
            f"{raw[:4].hex()}); fetch the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)

"""Says which splits a source has, before any of them is opened."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tl_jax.data.sources import arrays, digits, fashion_mnist, folder
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.tfds import TfdsSource


def split_names(spec: str, *, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Returns the names of all splits of a source, in its own order.

    Args:
      spec: as `open_source` takes it.
      data_dir: folder of prepared sets, as there.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `open_source`.
    """
    kind, _, rest = spec.partition(":")
    if kind in _IN_FILES and rest:
        return tuple(_IN_FILES[kind](Path(rest).expanduser()))
    if kind in _FIXED:
        return _FIXED[kind]
    source = open_source(spec, "all", data_dir=data_dir)
    if not isinstance(source, TfdsSource):
        raise ValueError(f"the splits of {spec!r} are not known; name them")
    return tuple(source.records.dataset_info.splits)


def _of_folder(path: Path) -> list[str]:
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}; expected one with images in labelled folders")
    return folder.split_names_of(path)


def _of_manifest(path: Path) -> list[str]:
    from tl_jax.data.sources import manifest, tables  # As in `open`: only tables need pyarrow.

    columns = tables.read(path).columns
    if manifest.SPLIT_COLUMN not in columns:
        return ["train", "validation"]
    named = (str(value).strip() for value in columns[manifest.SPLIT_COLUMN] if value)
    return list(dict.fromkeys(folder.split_called(name) for name in named))


def _of_npz(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as archive:
        return list(arrays.find_keys(archive.files, path))


_IN_FILES: dict[str, Callable[[Path], list[str]]] = {
    "folder": _of_folder,
    "manifest": _of_manifest,
    "npz": _of_npz,
}
_FIXED = {"digits": tuple(digits.SHARES), "fashion_mnist": tuple(fashion_mnist.PREFIXES)}

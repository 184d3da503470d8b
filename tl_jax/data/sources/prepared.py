"""The source of a folder of any name that TFDS or `python -m tl_jax prepare` wrote."""

import os

import tensorflow_datasets as tfds

from tl_jax import messages
from tl_jax.data.sources import tfds as tfds_source
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"labels"})

_MAX_DEPTH = 3


def open(address: str, split: str, options: OpenOptions) -> tfds_source.TfdsSource:
    """Opens a split of a prepared folder.

    Args:
      address: the folder with `dataset_info.json`, or one with a single such folder at most three
        levels below (NAME/CONFIG/VERSION); on any file system that TFDS reads.
      split: in TFDS's syntax, such as `train[:90%]`.
      options: `labels` is used as in `tfds.from_builder`.

    Raises:
      FileNotFoundError: if there is no prepared set.
      ValueError: if there are several; otherwise as `tfds.open`.
    """
    return tfds_source.from_builder(
        _builder(address), split, name=f"prepared:{address}", labels=options.labels
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the set's splits."""
    del options
    return tuple(_builder(address).info.splits)


def _builder(address: str) -> tfds.core.DatasetBuilder:
    root = tfds.core.Path(tfds_source.expanded(address))
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {address}; expected one that TFDS prepared")
    for depth in range(_MAX_DEPTH + 1):
        files = sorted(root.glob("*/" * depth + "dataset_info.json"))
        if len(files) > 1:
            folders = [os.fspath(file.parent) for file in files]
            raise ValueError(
                f"several prepared sets in {address}: {messages.some(folders)}; name one"
            )
        if files:
            return tfds.builder_from_directory(os.fspath(files[0].parent))
    raise FileNotFoundError(
        f"no prepared set in {address}: there is no dataset_info.json; prepare it there "
        "(`python -m tl_jax prepare SOURCE FOLDER`), or open images by 'folder:'"
    )

"""The source of sets prepared by TensorFlow Datasets in array_record files, without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from tl_jax import trees
from tl_jax.data import decode
from tl_jax.data.source import Example


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split of a prepared set; examples hold `image`, `label` and the set's other features.

    Attributes:
      name, split, class_names, skipped: as in `Source`; nothing is skipped.
      records: random access to the split; `image` still encoded.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    records: Sequence[dict[str, Any]]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self.records[index]
        name = f"{index} of split {self.split!r} of {self.name}"
        return {
            **record,
            "image": decode.decode(bytes(record["image"]), name=name),
            "label": int(np.asarray(record["label"])),
        }


def open_tfds(name: str, split: str, *, data_dir: Path | None = None) -> TfdsSource:
    """Opens a split of a set that TFDS has prepared in array_record files.

    The set's own code is not loaded, only its files; so TensorFlow is never needed.

    Args:
      name: `NAME[/CONFIG][:VERSION]`.
      split: in TFDS's syntax, such as `train[:90%]`.
      data_dir: folder of prepared sets; the default is TFDS's own (`TFDS_DATA_DIR`, or
        `~/tensorflow_datasets`).

    Raises:
      FileNotFoundError: if the set is not prepared there.
      ValueError: if the split is unknown, the files are of another format, or the features are
        not an image `image` and a class `label`.
    """
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(_how_to_prepare(name, data_dir)) from error
    return from_builder(builder, split, name=f"tfds:{name}")


def from_builder(builder: tfds.core.DatasetBuilder, split: str, *, name: str) -> TfdsSource:
    """Opens a split of a prepared builder; errors as in `open_tfds`, except for a missing set."""
    _check_features(name, builder.info.features)
    _check_split(name, split, builder.info.splits)
    try:
        records = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise ValueError(
            f"{name} is prepared as {builder.info.file_format.value} files; expected "
            "array_record. Convert them: `tfds convert_format --out_file_format=array_record "
            f"--dataset_dir={builder.data_dir}`"
        ) from error
    return TfdsSource(name, split, tuple(builder.info.features["label"].names), records)


def _check_features(name: str, features: tfds.features.FeaturesDict) -> None:
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for key, kind in kinds.items():
        if key not in features or not isinstance(features[key], kind):
            raise ValueError(
                f"{name} has the features {', '.join(features)}; expected `{key}` of type "
                f"{kind.__name__}: prepare it under that name, or write the images to folders"
            )


def _check_split(name: str, split: str, splits: tfds.core.splits.SplitDict) -> None:
    try:
        empty = splits[split].num_examples == 0
    except (KeyError, ValueError) as error:
        known = sorted(splits)
        raise ValueError(
            f"no split {split!r} in {name}; it has {', '.join(known)}"
            f"{trees.hint(split.split('[')[0], known)} (slices are written `train[:90%]`)"
        ) from error
    if empty:
        raise ValueError(f"split {split!r} of {name} holds no example; choose a larger slice")


def _how_to_prepare(name: str, data_dir: Path | None) -> str:
    where = data_dir or tfds.core.constants.DATA_DIR
    return (
        f"tfds:{name} is not prepared in {where}. Prepare it once, where its builder runs (some "
        f"need TensorFlow): `python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'"
        f", data_dir='{where}').download_and_prepare(file_format='array_record')\"`, or name the "
        "folder where it lies as data_dir"
    )

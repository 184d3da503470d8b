"""The source of sets prepared by TensorFlow Datasets in array_record files, without TensorFlow."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from tl_jax import messages
from tl_jax.data.images import decode
from tl_jax.data.source import RESERVED, Example, Task, check_tasks

_DEPTH = 3
_READ_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split of a prepared set; examples hold `image`, `label` and the set's other features.

    Attributes:
      name, split, tasks, skipped: as in `Source`; nothing is skipped.
      image_key: name of the feature that holds the image.
      records: random access to the split; images still encoded.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    image_key: str
    records: Sequence[dict[str, Any]]
    skipped: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in `Source`."""
        return self.tasks[0].class_names

    def labels(self) -> np.ndarray:
        """As in `Source`; reads every record, and decodes no image."""
        task, count = self.tasks[0], len(self)
        found = [
            _encode(task, record[task.name])
            for start in range(0, count, _READ_AT_ONCE)
            for record in self.records.__getitems__(range(start, min(start + _READ_AT_ONCE, count)))
        ]
        return np.asarray(found, np.int8 if task.multi_label else np.int32)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        data, facts = self.encoded(index)
        name = f"{index} of split {self.split!r} of {self.name}"
        return {"image": decode.decode(data, name=name), **facts}

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """As in `EncodedSource`."""
        record = dict(self.records[index])
        data = bytes(record.pop(self.image_key))
        labels = {task.name: _encode(task, record[task.name]) for task in self.tasks}
        if isinstance(path := record.get("path"), bytes):
            record["path"] = path.decode("utf-8", "backslashreplace")
        return data, {**record, **labels, "label": labels[self.tasks[0].name]}


def _encode(task: Task, value: Any) -> int | np.ndarray:
    if not task.multi_label:
        return int(np.asarray(value))
    indices = np.asarray(value, np.int64).reshape(-1)
    known = not (indices < 0).any()
    labels = np.full(len(task.class_names), 0 if known else -1, np.int8)
    labels[indices[indices >= 0]] = 1
    return labels


def open_tfds(
    name: str, split: str, *, labels: Sequence[str] = (), data_dir: str | Path | None = None
) -> TfdsSource:
    """Opens a split of a set that TFDS has prepared in array_record files.

    The set's own code is not loaded, only its files; so TensorFlow is never needed.

    Args:
      name: `NAME[/CONFIG][:VERSION]`.
      split: in TFDS's syntax, such as `train[:90%]`.
      labels: features to learn, as in `from_builder`.
      data_dir: folder of prepared sets, on any file system that TFDS reads ("gs://..."); the
        default is TFDS's own (`TFDS_DATA_DIR`, or `~/tensorflow_datasets`).

    Raises:
      FileNotFoundError: if the set is not prepared there.
      ValueError: if the split is unknown, the files are of another format, or the set has no
        image, or nothing that classifies it.
    """
    where = _expanded(data_dir or tfds.core.constants.DATA_DIR)
    try:
        # Without a folder, TFDS looks in those that were registered with it besides.
        builder = read_only_builder.builder_from_files(
            name, data_dir=None if data_dir is None else where
        )
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(_how_to_prepare(name, where)) from error
    return from_builder(builder, split, name=f"tfds:{name}", labels=labels)


def open_prepared(path: str | Path, split: str, *, labels: Sequence[str] = ()) -> TfdsSource:
    """Opens a split of a folder that TFDS prepared, whatever the set is called.

    Args:
      path: the folder with `dataset_info.json`, or one that holds a single such folder at most
        three levels below (NAME/CONFIG/VERSION); on any file system that TFDS reads.
      split, labels: as in `from_builder`.

    Raises:
      FileNotFoundError: if no prepared set is there.
      ValueError: if several are; else as `open_tfds`.
    """
    root = tfds.core.Path(_expanded(path))
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {path}; expected one that TFDS prepared")
    levels = ("*/" * depth + "dataset_info.json" for depth in range(_DEPTH + 1))
    found = next((hits for level in levels if (hits := sorted(root.glob(level)))), [])
    if not found:
        raise FileNotFoundError(
            f"no prepared set in {path}: there is no dataset_info.json; prepare it there "
            "(`python -m tl_jax prepare SOURCE FOLDER`), or open images by 'folder:'"
        )
    if len(found) > 1:
        places = [os.fspath(hit.parent) for hit in found]
        raise ValueError(f"several prepared sets in {path}: {messages.some(places)}; name one")
    builder = tfds.builder_from_directory(os.fspath(found[0].parent))
    return from_builder(builder, split, name=f"prepared:{path}", labels=labels)


def _expanded(path: str | Path) -> str:
    # TFDS's own kind of path: pathlib would make "gs:/" of "gs://".
    return os.fspath(tfds.core.Path(path).expanduser())


def from_builder(
    builder: tfds.core.DatasetBuilder, split: str, *, name: str, labels: Sequence[str] = ()
) -> TfdsSource:
    """Opens a split of a prepared builder.

    Args:
      builder: the prepared set.
      split: in TFDS's syntax.
      name: of the source.
      labels: the features to learn, classes or lists of classes, the main one first. By default
        the main one is `label`, or what the set names as supervised, or its only such feature;
        all others follow, by name.

    Raises:
      ValueError: as `open_tfds`.
    """
    features = builder.info.features
    supervised = builder.info.supervised_keys or (None, None)
    image_key = _find_image(name, features, supervised[0])
    tasks = _find_tasks(name, features, supervised[1], labels)
    _check_split(name, split, builder.info.splits)
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    try:
        records = builder.as_data_source(
            split=split, decoders={key: tfds.decode.SkipDecoding() for key in images}
        )
    except NotImplementedError as error:
        raise ValueError(
            f"{name} is prepared as {builder.info.file_format.value} files; expected "
            "array_record. Convert them: `tfds convert_format --out_file_format=array_record "
            f"--dataset_dir={builder.data_dir}`"
        ) from error
    return TfdsSource(name, split, tasks, image_key, records)


def _find_image(name: str, features: tfds.features.FeaturesDict, supervised: object) -> str:
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    for key in ("image", supervised, *(images if len(images) == 1 else ())):
        if key in images:
            return key
    raise ValueError(
        f"{name} has the features {', '.join(sorted(features))}; expected one image, or "
        f"`image` among several (it has {len(images)}): prepare it under that name, or write the "
        "images to folders"
    )


def _find_tasks(
    name: str,
    features: tfds.features.FeaturesDict,
    supervised: object,
    labels: Sequence[str],
) -> tuple[Task, ...]:
    # Sorted, for TFDS reads the features of a set in another order each time.
    tasks = {key: task for key in sorted(features) if (task := _task(key, features[key]))}
    for key in labels:
        if key not in tasks:
            raise ValueError(
                f"{name} has no feature {key!r} of classes; it has "
                f"{', '.join(tasks) or 'none'}{messages.hint(key, tasks)}"
            )
    chosen = tuple(tasks[key] for key in labels) or _default_tasks(tasks, supervised)
    if not chosen:
        raise ValueError(
            f"{name} has the features {', '.join(sorted(features))}; expected a class `label`, "
            f"or to be told which to learn by labels ({', '.join(tasks) or 'none is a class'})"
        )
    check_tasks(name, chosen)
    return chosen


def _default_tasks(tasks: dict[str, Task], supervised: object) -> tuple[Task, ...]:
    for key in ("label", supervised, *(tasks if len(tasks) == 1 else ())):
        if key in tasks:
            further = (tasks[name] for name in tasks if name not in (key, *RESERVED))
            return (tasks[key], *further)
    return ()


def _task(key: str, feature: tfds.features.FeatureConnector) -> Task | None:
    """Returns the task of a feature that is a class, or a list of classes."""
    several = isinstance(feature, tfds.features.Sequence)
    of = feature.feature if several else feature
    if not isinstance(of, tfds.features.ClassLabel) or not of.names:
        return None
    return Task(key, tuple(of.names), multi_label=several)


def _check_split(name: str, split: str, splits: tfds.core.splits.SplitDict) -> None:
    try:
        empty = splits[split].num_examples == 0
    except (KeyError, ValueError) as error:
        known = sorted(splits)
        raise ValueError(
            f"no split {split!r} in {name}; it has {', '.join(known)}"
            f"{messages.hint(split.split('[')[0], known)} (slices are written `train[:90%]`)"
        ) from error
    if empty:
        raise ValueError(f"split {split!r} of {name} holds no example; choose a larger slice")


def _how_to_prepare(name: str, where: str) -> str:
    folder = tfds.core.Path(where)
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return (
        f"tfds:{name} is not prepared in {where}{messages.hint(name.split('/')[0], present)}. Prepare "
        "it once, where its builder runs (some "
        f"need TensorFlow): `python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'"
        f", data_dir='{where}').download_and_prepare(file_format='array_record')\"`, or name the "
        "folder where it lies as data_dir"
    )

"""The source of sets that TensorFlow Datasets wrote to array_record files; needs no TensorFlow."""

import contextlib
import dataclasses
import fractions
import functools
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from tl_jax import files, messages
from tl_jax.data import splits
from tl_jax.data.images import decode
from tl_jax.data.source import RESERVED, WEIGHT, Example, Source, Task, check_tasks, label_keys
from tl_jax.data.sources import tfds_files
from tl_jax.data.sources.options import LabelKinds, OpenOptions
from tl_jax.data.sources.weights import checked_weights

OPTIONS = frozenset({"labels", "value_range", "numbers", "ordered", "example_weights"})

_RECORDS_AT_ONCE = 256
_TOLERANCE = 1e-3  # Of a number in a record that means a level such as 1/3.


class Records(Protocol):
    """Random access to the records of a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    def __getitems__(self, indices: Sequence[int], /) -> Sequence[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True)
class TfdsSource(Source):
    """One split of a prepared set; examples hold `image`, `label` and the set's other features.

    Further images stay encoded.

    Attributes:
      name, split, tasks, skipped, value_range: as in `Source`; nothing is skipped.
      image_key: name of the feature that holds the image.
      records: the records of the split, their images encoded.
      files: the files that they are in.
      levels: the numbers in the records that mean the levels of an ordered task, by its name.
      weight_key: name of the feature that holds the weights of the examples' losses, if any does.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    image_key: str
    records: Records
    value_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    levels: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    weight_key: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        data, example = self.encoded(index)
        name = f"{index} of split {self.split!r} of {self.name}"
        image = decode.decode(data, name=name, value_range=self.value_range)
        return {"image": image, **example}

    def labels(self) -> np.ndarray:
        """As in `Source`; the first call reads every record, and decodes no image."""
        return self._scanned.labels[0].copy()

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`; the first call reads every record, and decodes no image."""
        labels = zip(label_keys(self.tasks), self._scanned.labels, strict=True)
        return {key: each.copy() for key, each in labels}

    @property
    def has_weights(self) -> bool:
        """As in `Source`."""
        return self.weight_key is not None

    def example_weights(self) -> np.ndarray:
        """As in `Source`; the first call reads every record, as `labels`."""
        return self._scanned.weights.copy()

    def identities(self) -> Sequence[str]:
        """As in `Source`: hashes of the encoded images; reads every record, as `labels`."""
        return self._scanned.hashes

    @functools.cached_property
    def _scanned(self) -> "_Scanned":
        """What one pass over all records finds."""
        count = len(self)
        labels: list[list[Any]] = [[] for _ in self.tasks]
        hashes, weights = list[str](), list[float]()
        for start in range(0, count, _RECORDS_AT_ONCE):
            indices = range(start, min(start + _RECORDS_AT_ONCE, count))
            with self._damage_named():
                records = self.records.__getitems__(indices)
                self._check_filled(records)
            for task, values in zip(self.tasks, labels, strict=True):
                values += [self._encode(task, record[task.name]) for record in records]
            hashes += [hashlib.sha256(record[self.image_key]).hexdigest() for record in records]
            if self.weight_key is not None:
                weights += [float(np.asarray(record[self.weight_key])) for record in records]
        arrays = [
            np.asarray(values, task.dtype).reshape(-1, *task.shape)
            for task, values in zip(self.tasks, labels, strict=True)
        ]
        return _Scanned(arrays, tuple(hashes), self._checked(weights))

    def _checked(self, weights: Sequence[float]) -> np.ndarray:
        if self.weight_key is None:
            return np.ones(len(self), np.float32)
        name = f"the numbers {self.weight_key!r} in split {self.split!r} of {self.name}"
        place = "record {}".format
        return checked_weights(weights, name=name, count=len(self), place=place)

    def _encode(self, task: Task, value: Any) -> float | int | np.ndarray:
        """Returns the label that a record's value stands for.

        Raises:
          ValueError: if a number is none of the levels.
        """
        if task.kind == "regression":
            return float(np.asarray(value))
        if task.name not in self.levels:
            return _encode(task, value)
        distances = np.abs(np.asarray(self.levels[task.name]) - float(np.asarray(value)))
        if np.isnan(distances).all():
            return -1
        if distances.min() > _TOLERANCE:
            raise ValueError(
                f"a record of split {self.split!r} of {self.name} has the number "
                f"{float(np.asarray(value)):g} as {task.name!r}; expected one of the levels "
                f"{', '.join(task.class_names)}: name all of them in `ordered`"
            )
        return int(distances.argmin())

    def _check_filled(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises RuntimeError for records without content, which a file that was cut off gives."""
        if any(record[self.image_key] is None for record in records):
            raise RuntimeError("there is nothing in some records")

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Replaces array_record's errors, which name no file, by one that does."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(
                f"cannot read the records of split {self.split!r} of {self.name}: {error}; "
                f"{messages.some(_damaged(self.files))} is damaged or was not copied whole: copy "
                "it again, or prepare the set again"
            ) from error

    def encoded(self, index: int) -> tuple[bytes, Example]:
        """As in `Source`."""
        with self._damage_named():
            example = dict(self.records[index])
            self._check_filled([example])
        data = bytes(example.pop(self.image_key))
        labels = [self._encode(task, example[task.name]) for task in self.tasks]
        example.update(zip([task.name for task in self.tasks], labels, strict=True))
        if isinstance(path := example.get("path"), bytes):
            example["path"] = path.decode("utf-8", "backslashreplace")
        if self.weight_key is not None:
            example[WEIGHT] = float(np.asarray(example[self.weight_key]))
        return data, {**example, "label": labels[0]}


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """What is known of all records: labels of each task, hashes of the images, weights."""

    labels: list[np.ndarray]
    hashes: tuple[str, ...]
    weights: np.ndarray


def _damaged(paths: Sequence[str]) -> list[str]:
    """Returns those of some files that cannot be opened; all if each can."""
    from array_record.python import array_record_module  # type: ignore[import-untyped]

    damaged = []
    for path in paths:
        try:
            array_record_module.ArrayRecordReader(path).close()
        except RuntimeError:
            damaged.append(path)
    return damaged or list(paths)


def _encode(task: Task, value: Any) -> int | np.ndarray:
    """Returns the label that a record's value stands for: a list of classes becomes a vector."""
    if not task.multi_label:
        return int(np.asarray(value))
    indices = np.asarray(value, np.int64).reshape(-1)
    has_unknown = (indices < 0).any()
    labels = np.full(len(task.class_names), -1 if has_unknown else 0, np.int8)
    labels[indices[indices >= 0]] = 1
    return labels


def open(address: str, split: str, options: OpenOptions) -> TfdsSource:
    """Opens a split of a set that TFDS wrote to array_record files.

    Only the set's files are read, not its code, so TensorFlow is never needed.

    Args:
      address: `NAME[/CONFIG][:VERSION]`.
      split: in TFDS's syntax, such as `train[:90%]`.
      options: `labels`, `label_kinds` and `example_weights` are used as in `from_builder`;
        `data_dir` is the folder of
        prepared sets, on any file system that TFDS reads ("gs://..."), by default TFDS's own
        (`TFDS_DATA_DIR`, or `~/tensorflow_datasets`).

    Raises:
      FileNotFoundError: if the set is not prepared there.
      ValueError: if the split is unknown, the files have another format, or the set has no image or
        no classes.
    """
    builder = _builder(address, options)
    source = from_builder(
        builder,
        split,
        name=f"tfds:{address}",
        labels=options.labels,
        kinds=options.label_kinds,
        weights=options.example_weights,
    )
    return dataclasses.replace(source, value_range=options.value_range)


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the set's splits."""
    return tuple(_builder(address, options).info.splits)


def write(builder: tfds.core.DatasetBuilder) -> None:
    """Lets TFDS write a set, without its bars and its lines of unknown sizes."""
    tfds.display_progress_bar(enable=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    finally:
        tfds.display_progress_bar(enable=True)


def _builder(address: str, options: OpenOptions) -> tfds.core.DatasetBuilder:
    folder = expanded(options.data_dir or tfds.core.constants.DATA_DIR)
    # Without a folder, TFDS also looks in those that were registered with it.
    data_dir = None if options.data_dir is None else folder
    tfds_files.check_found(address, data_dir)
    try:
        return read_only_builder.builder_from_files(address, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        root = tfds.core.Path(folder)
        present = [path.name for path in root.iterdir()] if root.is_dir() else []
        raise FileNotFoundError(
            f"tfds:{address} is not prepared in {folder}"
            f"{messages.hint(address.split('/')[0], present)}. Prepare it once, where its builder "
            'runs (some need TensorFlow): `python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{address}', data_dir='{folder}')"
            ".download_and_prepare(file_format='array_record')\"`, or give its folder as data_dir"
        ) from error


def expanded(path: str | Path) -> str:
    """Returns a path with the home folder filled in; "gs://..." stays as it is."""
    # TFDS's own kind of path: pathlib would make "gs:/" of "gs://".
    return files.user_address(path)


def from_builder(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    name: str,
    labels: Sequence[str] = (),
    kinds: LabelKinds | None = None,
    weights: str | None = None,
) -> TfdsSource:
    """Opens a split of a prepared builder.

    Args:
      builder: the prepared set.
      split: in TFDS's syntax.
      name: name of the source.
      labels: the features to learn, classes or lists of classes, the main one first. By default
        the main one is `label`, or the set's supervised key, or its only such feature; all others
        follow, sorted by name.
      kinds: which of `labels` are numbers or levels. The levels of a feature of numbers are
        numbers or fractions, such as "1/3"; those of classes are the classes in their order.
      weights: feature that holds the weights of the examples' losses; None: there are none.

    Raises:
      ValueError: as `open`.
    """
    features = builder.info.features
    supervised = builder.info.supervised_keys or (None, None)
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    candidates = ("image", supervised[0], *(images if len(images) == 1 else ()))
    image_key = next((key for key in candidates if key in images), None)
    if image_key is None:
        raise ValueError(
            f"{name} has the features {', '.join(sorted(features))}, {len(images)} of them images; "
            "expected one image, or one called `image`: prepare it under that name, or write the "
            "images to folders"
        )
    kinds = kinds or LabelKinds()
    tasks = _select_tasks(name, features, supervised[1], labels, kinds)
    check_tasks(name, tasks)
    own_split = _own_split(name, split, builder.info.splits)
    parts = builder.info.splits[own_split].file_instructions
    files = tuple(dict.fromkeys(os.fspath(part.filename) for part in parts))
    tfds_files.check_inside(builder.data_path, files)
    try:
        records = builder.as_data_source(split=own_split, decoders=tfds_files.undecoded(features))
    except NotImplementedError as error:
        raise ValueError(
            f"{name} is prepared as {builder.info.file_format.value} files; expected "
            "array_record. Convert them: `tfds convert_format --out_file_format=array_record "
            f"--dataset_dir={builder.data_dir}`"
        ) from error
    levels = {
        task.name: tuple(float(fractions.Fraction(level)) for level in task.class_names)
        for task in tasks
        if task.ordered and not isinstance(features[task.name], tfds.features.ClassLabel)
    }
    if weights is not None:
        _check_weight_feature(name, features, weights)
    return TfdsSource(
        name, split, tasks, image_key, records, files=files, levels=levels, weight_key=weights
    )


def _select_tasks(
    name: str,
    features: Mapping[str, tfds.features.FeatureConnector],
    supervised: str | None,
    labels: Sequence[str],
    kinds: LabelKinds,
) -> tuple[Task, ...]:
    """Returns the tasks of the features to learn."""
    if unnamed := [key for key in (*kinds.numbers, *kinds.levels) if key not in labels]:
        raise ValueError(
            f"got numbers or levels of {messages.some(unnamed)}, none of the labels "
            f"{list(labels)} of {name}; name them in `labels` too"
        )
    tasks = {}
    for key in sorted(features):  # TFDS reads the features of a set in another order each time.
        multi_label = isinstance(features[key], tfds.features.Sequence)
        feature = features[key].feature if multi_label else features[key]
        if isinstance(feature, tfds.features.ClassLabel) and feature.names:
            tasks[key] = Task(key, tuple(feature.names), multi_label)
        if key in kinds.numbers or key in kinds.levels:
            tasks[key] = _of_kind(name, key, features[key], kinds)
    if labels:
        unknown = next((key for key in labels if key not in tasks), None)
        if unknown is not None:
            raise ValueError(
                f"{name} has no feature {unknown!r} of classes; it has "
                f"{', '.join(tasks) or 'none'}{messages.hint(unknown, tasks)}"
            )
        return tuple(tasks[key] for key in labels)
    candidates = ("label", supervised, *(tasks if len(tasks) == 1 else ()))
    main = next((key for key in candidates if key in tasks), None)
    if main is None:
        raise ValueError(
            f"{name} has the features {', '.join(sorted(features))}; expected a class `label`: "
            f"name those to learn by labels ({', '.join(tasks) or 'none is a class'})"
        )
    others = [tasks[key] for key in tasks if key not in (main, *RESERVED)]
    return (tasks[main], *others)


def _of_kind(
    name: str, key: str, feature: tfds.features.FeatureConnector, kinds: LabelKinds
) -> Task:
    """Returns the task of a feature whose labels are numbers or levels."""
    is_number = _is_number(feature)
    levels = kinds.levels.get(key, ())
    if key in kinds.numbers and is_number:
        return Task(key, ())
    if key in kinds.levels and isinstance(feature, tfds.features.ClassLabel):
        if levels not in ((), tuple(feature.names)):
            raise ValueError(
                f"got the levels {list(levels)} of {key!r} of {name}; expected its classes in "
                f"their order, {feature.names}"
            )
        return Task(key, tuple(feature.names), ordered=True)
    try:
        values = [float(fractions.Fraction(level)) for level in levels]
    except (ValueError, ZeroDivisionError):
        values = []
    if key in kinds.levels and is_number and values and values == sorted(set(values)):
        return Task(key, levels, ordered=True)
    raise ValueError(
        f"the feature {key!r} of {name} is {type(feature).__name__}, and its levels are "
        f"{list(levels)}; expected a feature of numbers, and of levels also the numbers from low "
        'to high, such as "0", "1/3", "1"'
    )


def _is_number(feature: tfds.features.FeatureConnector) -> bool:
    return (
        isinstance(feature, tfds.features.Tensor)
        and not isinstance(feature, tfds.features.ClassLabel)
        and feature.shape == ()
        and np.issubdtype(feature.np_dtype, np.number)
    )


def _check_weight_feature(
    name: str, features: Mapping[str, tfds.features.FeatureConnector], weights: str
) -> None:
    numbers = [key for key in sorted(features) if _is_number(features[key])]
    if weights not in numbers:
        raise ValueError(
            f"{name} has no feature {weights!r} of numbers, to weight the losses by; it has "
            f"{', '.join(numbers) or 'none (`prepare` writes images and labels alone)'}"
            f"{messages.hint(weights, numbers)}"
        )


def _own_split(name: str, split: str, known: tfds.core.splits.SplitDict) -> str:
    """Returns a split's specification as the set itself spells it."""
    try:
        count = known[split].num_examples
    except (KeyError, ValueError):
        split = splits.respelled(split, sorted(known), name=name)
        count = known[split].num_examples
    splits.check_not_empty(split, count, name=name)
    return split

"""The source of a folder of any name that TFDS or `python -m tl_jax prepare` wrote."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from tl_jax import files, messages
from tl_jax.data.images.values import Range
from tl_jax.data.source import Task
from tl_jax.data.sources import tfds as tfds_source
from tl_jax.data.sources import tfds_files
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"labels", "value_range", "numbers", "ordered", "example_weights"})
LABELS = "labels.json"
"""File of a set that `prepare` wrote: its tasks, and the values of black and white."""

_MAX_DEPTH = 3


def write_labels(folder: Path, tasks: Sequence[Task], value_range: Range | None) -> None:
    """Writes what `open` reads beside the records, of which TFDS's own files keep not all.

    TFDS stores the names of classes a line each, so that one with a line break becomes two.
    """
    content = {
        "tasks": [dataclasses.asdict(task) for task in tasks],
        "value_range": value_range,
    }
    files.write_text(folder / LABELS, json.dumps(content, indent=1) + "\n")


def stored_names(class_names: Sequence[str]) -> list[str]:
    """Returns names that TFDS reads as it wrote them, for classes of these names."""
    names = [name if _survives(name) else json.dumps(name) for name in class_names]
    if len(set(names)) < len(names):
        names = [json.dumps(name) for name in class_names]
    return names


def _survives(name: str) -> bool:
    is_unicode = name == name.encode("utf-8", "replace").decode()
    return bool(name) and is_unicode and name == name.strip() and not set(name) & set("\r\n")


def open(address: str, split: str, options: OpenOptions) -> tfds_source.TfdsSource:
    """Opens a split of a prepared folder.

    Args:
      address: the folder with `dataset_info.json`, or one with a single such folder at most three
        levels below (NAME/CONFIG/VERSION); on any file system that TFDS reads.
      split: in TFDS's syntax, such as `train[:90%]`.
      options: `labels` and `example_weights` are used as in `tfds.from_builder`; by default a set
        that `prepare` wrote has its tasks in the order in which it was prepared, and the
        `value_range` that it was prepared with. Such a set has no weights.

    Raises:
      FileNotFoundError: if there is no prepared set.
      ValueError: if there are several, or its `labels.json` is damaged; otherwise as `tfds.open`.
    """
    builder, name = _builder(address), f"prepared:{address}"
    tasks, value_range = _read_labels(tfds.core.Path(builder.data_path))
    source = tfds_source.from_builder(
        builder,
        split,
        name=name,
        labels=options.labels or tuple(tasks),
        kinds=options.label_kinds,
        weights=options.example_weights,
    )
    kinds = (*options.label_kinds.numbers, *options.label_kinds.levels)
    for task in source.tasks:
        if task.name in kinds or task.name not in tasks:
            continue
        if len(tasks[task.name].class_names) != len(task.class_names):
            raise ValueError(
                f"{builder.data_path}/{LABELS} names {len(tasks[task.name].class_names)} classes "
                f"of {task.name!r}, and the records have {len(task.class_names)}; prepare the set "
                "again"
            )
    return dataclasses.replace(
        source,
        tasks=tuple(
            task if task.name in kinds or task.name not in tasks else tasks[task.name]
            for task in source.tasks
        ),
        value_range=options.value_range or value_range,
    )


def _read_labels(folder: tfds.core.Path) -> tuple[dict[str, Task], Range | None]:
    """Returns the tasks by name and the range that `write_labels` wrote; none for other sets."""
    file = folder / LABELS
    if not file.exists():
        return {}, None
    try:
        content = files.parse_json(file.read_text())
        tasks = [
            Task(
                each["name"],
                tuple(each["class_names"]),
                each["multi_label"],
                each.get("ordered", False),  # Sets of earlier versions have no levels.
            )
            for each in content["tasks"]
        ]
        value_range = content["value_range"]
        return {t.name: t for t in tasks}, None if value_range is None else (*value_range,)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); prepare the set again") from error


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the set's splits."""
    del options
    return tuple(_builder(address).info.splits)


def _builder_at(folder: tfds.core.Path) -> tfds.core.DatasetBuilder:
    if not (folder / "features.json").exists():
        raise ValueError(f"{folder} lacks features.json; copy the whole set, or prepare it again")
    tfds_files.check_features(folder)
    try:
        return tfds.builder_from_directory(os.fspath(folder))
    except Exception as error:  # TFDS lets errors of JSON and of protocol buffers through.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"cannot read dataset_info.json and features.json of {folder}: {reason}; copy the "
            "whole set, or prepare it again"
        ) from error


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
            return _builder_at(files[0].parent)
    raise FileNotFoundError(
        f"no prepared set in {address}: there is no dataset_info.json; prepare it there "
        "(`python -m tl_jax prepare SOURCE FOLDER`), or open images by 'folder:'"
    )

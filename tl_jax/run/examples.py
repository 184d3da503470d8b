"""The list of a run's examples, by which a later start sees that its data have changed."""

import dataclasses
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax import files
from tl_jax.data.source import WEIGHT, Source, Task, label_keys


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split in their order.

    Attributes:
      names: `Source.identities`; None if they are only numbered.
      labels: of the main task: index of each one's class, the numbers of a regression, or a list
        for each of a multi-label task.
      marks: `Source.content_marks`; [] without names.
      digest: SHA-256 of identities, labels and marks, and of further inputs and weights. No path of
        the source is in it, so a set that was moved or copied has the same.
      weights: `Source.example_weights`; [] without names, or if the source has none.
    """

    names: list[str] | None
    labels: list[Any]
    marks: list[str]
    digest: str
    weights: list[float] = dataclasses.field(default_factory=list)


def of_source(source: Source, tasks: Sequence[Task] | None = None) -> Examples:
    """Returns the examples of a split.

    Args:
      source: the split.
      tasks: those of its first tasks that are learned; None for the main one.
    """
    names, marks, labels = source.identities(), source.content_marks(), source.labels()
    learned = source.tasks[: 1 if tasks is None else len(tasks)]
    digest = hashlib.sha256()
    for words in (names, marks):
        digest.update("\n".join(words).encode() + b"\0")
    if [task.kind for task in learned] == ["multi_class"] and source.inputs.is_one_image:
        digest.update(labels.astype("<i8").tobytes())
    else:
        _add_arrays(digest, source, learned)
    weights = source.example_weights() if source.has_weights else np.zeros(0, np.float32)
    if source.has_weights:
        digest.update(WEIGHT.encode() + b"\0" + weights.astype("<f4").tobytes())
    if all(name == str(index) for index, name in enumerate(names)):
        return Examples(None, labels.tolist(), [], digest.hexdigest())
    return Examples(list(names), labels.tolist(), list(marks), digest.hexdigest(), weights.tolist())


def _add_arrays(digest: Any, source: Source, tasks: Sequence[Task]) -> None:
    """Adds the labels of tasks and the further inputs of all examples to a hash."""
    every = source.task_labels()
    arrays = {key: every[key] for key in label_keys(tasks)} | source.input_arrays()
    for key, array in arrays.items():
        little_endian = array.astype(array.dtype.newbyteorder("<"))
        digest.update(f"{key} {little_endian.dtype.str} {array.shape}".encode() + b"\0")
        digest.update(little_endian.tobytes())


def overlaps(by_split: Mapping[str, Examples], train: str) -> list[str]:
    """Returns a sentence for each split that shares named examples with the training split.

    Examples:
      >>> splits = {s: Examples(["a", s], [0, 1], [], "") for s in ("train", "test")}
      >>> overlaps(splits, "train")
      ["1 of 2 examples of 'test' are in 'train' too: their metrics measure what was trained on"]
    """
    trained = set(by_split[train].names or ())
    sentences = []
    for split, listed in by_split.items():
        count = sum(name in trained for name in listed.names or ())
        if split != train and count:
            sentences.append(
                f"{count} of {len(listed.labels)} examples of {split!r} are in {train!r} too: "
                "their metrics measure what was trained on"
            )
    return sentences


def write(path: Path, by_split: Mapping[str, Examples]) -> None:
    """Writes the examples of all splits as compressed JSON."""
    values = {split: dataclasses.asdict(listed) for split, listed in by_split.items()}
    # Without a time in it, the same examples are the same bytes.
    content = gzip.compress(json.dumps(values).encode(), compresslevel=1, mtime=0)
    with files.replacing(path) as part:
        part.write_bytes(content)


def read(path: Path) -> dict[str, Examples]:
    """Reads what `write` wrote; {} if the file is missing or damaged.

    Without it a difference is still found, by the digests of `run.json`, but not by name.
    """
    try:
        values = files.parse_json(gzip.decompress(path.read_bytes()))
        return {split: Examples(**fields) for split, fields in values.items()}
    except (OSError, EOFError, ValueError, TypeError, AttributeError):
        return {}


def differences(
    split: str, before: Examples, now: Examples, class_names: Sequence[str]
) -> list[str]:
    """Lists how the named examples of a split differ, with the first three names of each kind."""
    names_before, names_now = before.names or [], now.names or []
    # Counted, because a table may list a picture twice.
    more = list((Counter(names_now) - Counter(names_before)).elements())
    fewer = list((Counter(names_before) - Counter(names_now)).elements())
    label_then = dict(zip(names_before, before.labels, strict=True))
    relabelled = [
        f"{name} is {_label(label, class_names)} now, was {_label(label_then[name], class_names)}"
        for name, label in zip(names_now, now.labels, strict=True)
        if str(label_then.get(name, label)) != str(label)  # NaN, a missing number, is not NaN.
    ]
    mark_then = dict(zip(names_before, before.marks, strict=False))
    replaced = [
        name
        for name, mark in zip(names_now, now.marks, strict=False)
        if mark_then.get(name, mark) != mark
    ]
    weight_then = dict(zip(names_before, before.weights, strict=False))
    reweighted = [
        f"{name} weighs {weight:g} now, was {weight_then[name]:g}"
        for name, weight in zip(names_now, now.weights, strict=False)
        if weight_then.get(name, weight) != weight
    ]
    kinds = {
        "more": more,
        "gone": fewer,
        "with another label": relabelled,
        "with another content": replaced,
        "with another weight": reweighted,
    }
    lines = [
        f"{split}: {len(names):,} image{'s' * (len(names) != 1)} {kind}: {_first(names)}"
        for kind, names in kinds.items()
        if names
    ]
    if lines or names_before != names_now:
        return lines or [f"{split}: the same images in another order"]
    return [f"{split}: the labels of other tasks, or further inputs, differ"]


def _label(label: Any, class_names: Sequence[str]) -> str:
    """Returns a label as a person reads it: the name of a class, a number, or a list."""
    if isinstance(label, int) and 0 <= label < len(class_names):
        return repr(class_names[label])
    return "without a label" if label == -1 else str(label)


def count_difference(split: str, before: int, now: int) -> list[str]:
    """Says how the number of examples of a split differs, if it does."""
    if before == now:
        return []
    return [f"{split}: {before:,} images then, {now:,} now"]


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

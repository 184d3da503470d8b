"""Checks the labels and inputs of the splits of a run before it trains, and says what is odd.

What would make training or a metric mean nothing is an error; what has a sensible meaning (missing
labels, classes that one split alone has) is a sentence of the result.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tl_jax import messages
from tl_jax.data.source import Source, Task, label_keys


def check_splits(splits: Mapping[str, Source], train: str) -> tuple[str, ...]:
    """Checks that all splits of a run have the same tasks and inputs, and usable labels of each.

    Args:
      splits: the splits by name.
      train: name of the one that is trained on.

    Returns:
      What is odd, a sentence each: labels and classes that are missing in a split.

    Raises:
      ValueError: if splits have different tasks or inputs; labels have another form than their
        task, or are out of its range; the training split has no label of a task, or a single class
        or number; another split has no label at all.

    Examples:
      >>> from tl_jax.data.sources.arrays import from_arrays
      >>> images = np.zeros((3, 8, 8), np.uint8)
      >>> train = from_arrays(images, [0, 1, 2], ["a", "b", "c"])
      >>> test = from_arrays(images, [0, 1, -1], ["a", "b", "c"], split="test")
      >>> for sentence in check_splits({"train": train, "test": test}, "train"):
      ...     print(sentence)
      1 of 3 examples of split 'test' have no 'label'
      split 'test' has no example of the classes 'c' of 'label'
    """
    first = splits[train]
    for split in splits.values():
        _check_same(first, split)
    labels = {name: split.task_labels() for name, split in splits.items()}
    said = list[str]()
    for key, task in zip(label_keys(first.tasks), first.tasks, strict=True):
        for name, split in splits.items():
            _check_form(split, task, labels[name][key])
        _check_learnable(first, task, labels[train][key])
        for name in splits:
            said += _missing(name, task, labels[name][key])
        if task.class_names:
            said += _absent({name: labels[name][key] for name in splits}, task, train)
    for name, split in splits.items():
        keyed = zip(label_keys(first.tasks), first.tasks, strict=True)
        if all(task.missing(labels[name][key]).all() for key, task in keyed):
            raise ValueError(
                f"split {name!r} of {split.name} has no label of "
                f"{messages.some([task.name for task in first.tasks])}, so nothing can be measured "
                "on it; name another split, or label it"
            )
    return tuple(said)


def _check_same(first: Source, other: Source) -> None:
    if other.tasks != first.tasks:
        raise ValueError(
            f"splits {first.split!r} and {other.split!r} have different tasks: {first.tasks} of "
            f"{first.name} and {other.tasks} of {other.name}; expected the same names, kinds and "
            "classes in the same order"
        )
    if other.inputs != first.inputs:
        ours, theirs = dataclasses.asdict(first.inputs), dataclasses.asdict(other.inputs)
        differ = [name for name in ours if ours[name] != theirs[name]]
        raise ValueError(
            f"splits {first.split!r} and {other.split!r} of {first.name} have different inputs "
            f"({', '.join(differ)}); open the second with inputs=... of the first, which fixes "
            "what the numbers mean"
        )


def _check_form(source: Source, task: Task, labels: np.ndarray) -> None:
    """Checks that the labels of a task have its form and range."""
    place = f"split {source.split!r} of {source.name}"
    shape = (len(source), *task.shape)
    kind = "f" if task.kind == "regression" else "iu"
    if labels.shape != shape or labels.dtype.kind not in kind:
        raise ValueError(
            f"got labels {labels.dtype}{list(labels.shape)} of {task.name!r} in {place}; expected "
            f"{task.dtype}{list(shape)}, as its kind is {task.kind!r}"
        )
    if task.kind == "regression":
        bad, expected = np.isinf(labels), "finite numbers, NaN where one is missing"
    else:
        highest = 1 if task.multi_label else len(task.class_names) - 1
        bad, expected = (labels < -1) | (labels > highest), f"-1 (missing) to {highest}"
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(labels), -1).any(axis=1))
        names = source.identities()
        shown = [f"{names[row]}: {labels[row].tolist()}" for row in rows.tolist()]
        raise ValueError(
            messages.report(
                f"{len(rows)} labels of {task.name!r} in {place} are out of range:",
                shown,
                f"expected {expected}",
            )
        )


def _check_learnable(source: Source, task: Task, labels: np.ndarray) -> None:
    """Checks that the training split has two classes or numbers of a task."""
    is_missing = task.missing(labels)
    known = labels[~is_missing]
    place = f"split {source.split!r} of {source.name}, which is trained on"
    if not len(known):
        raise ValueError(
            f"no example of {place}, has a label of {task.name!r}; leave the task out, or label "
            "some of them"
        )
    # The main task of one class has an error of its own, which knows where others may be.
    if task.multi_label or task == source.tasks[0] or len(np.unique(known)) > 1:
        return
    only = f"{known[0]:g}" if task.kind == "regression" else repr(task.class_names[known[0]])
    raise ValueError(
        f"all labels of {task.name!r} in {place}, are {only}; expected two or more to learn from"
    )


def _missing(split: str, task: Task, labels: np.ndarray) -> list[str]:
    if count := int(task.missing(labels).sum()):
        return [f"{count} of {len(labels)} examples of split {split!r} have no {task.name!r}"]
    return []


def _absent(by_split: Mapping[str, np.ndarray], task: Task, train: str) -> list[str]:
    """Says which classes a split has no example of, if another has."""
    places = np.arange(len(task.class_names))
    has = {
        split: (labels == 1).any(axis=0) if task.multi_label else np.isin(places, labels)
        for split, labels in by_split.items()
    }
    anywhere = np.any(list(has.values()), axis=0)
    said = []
    for split, present in has.items():
        absent = [task.class_names[place] for place in np.flatnonzero(anywhere & ~present)]
        if absent and present.any():
            what = "levels" if task.ordered else "classes"
            note = ", so they cannot be learned" if split == train else ""
            said.append(
                f"split {split!r} has no example of the {what} {messages.some(absent)} of "
                f"{task.name!r}{note}"
            )
    return said

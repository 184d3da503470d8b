"""Turns labels in arrays, be they indices, names or vectors, into a task and encoded labels."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names as spellings
from tl_jax.data.source import Task

Labels = np.ndarray | Sequence[int] | Sequence[str]
Encoded = tuple[Task, np.ndarray, tuple[str, ...]]


def encode_tasks(
    labels: Labels | Mapping[str, Labels],
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None,
    *,
    numbers: Collection[str],
    ordered: Collection[str],
    name: str,
) -> tuple[tuple[Task, ...], tuple[np.ndarray, ...], tuple[str, ...]]:
    """Returns the tasks, their encoded labels, and notes, of all that `from_arrays` takes.

    Raises:
      ValueError: as `encode_labels` and `encode_kind`; if a name is that of no labels.
    """
    by_name = labels if isinstance(labels, Mapping) else {"label": labels}
    names_of = class_names if isinstance(class_names, Mapping) else {}
    if class_names is not None and not isinstance(class_names, Mapping):
        names_of = {next(iter(by_name)): class_names}
    for key in (*numbers, *ordered, *names_of):
        if key not in by_name:
            raise ValueError(
                f"got numbers, ordered or class_names of {key!r} in {name}; expected names of the "
                f"labels, {messages.some(list(by_name))}{messages.hint(key, by_name)}"
            )
    encoded = [
        encode_kind(
            values,
            names_of.get(key),
            key=key,
            are_numbers=key in numbers,
            is_ordered=key in ordered,
            name=name if len(by_name) == 1 else f"{key!r} of {name}",
        )
        for key, values in by_name.items()
    ]
    if not encoded:
        raise ValueError(f"got no labels in {name}; expected those of one task at least")
    tasks, targets, notes = zip(*encoded, strict=True)
    return tasks, targets, tuple(note for each in notes for note in each)


def encode_kind(
    labels: Labels,
    class_names: Sequence[str] | None,
    *,
    key: str,
    are_numbers: bool,
    is_ordered: bool,
    name: str,
) -> Encoded:
    """Returns the task of this name and kind, its encoded labels, and notes.

    Raises:
      ValueError: as `encode_labels`; if labels that are numbers are not finite or not one each, or
        levels are names whose order is not given.
    """
    if are_numbers:
        if class_names is not None or is_ordered:
            raise ValueError(f"got class names or an order for the numbers {key!r}; leave them out")
        return Task(key, ()), _checked_numbers(labels, name), ()
    task, encoded, notes = encode_labels(labels, class_names, name=name)
    are_words = any(spellings.number(each) is None for each in task.class_names)
    if is_ordered and class_names is None and are_words:
        raise ValueError(
            f"the order of the levels {messages.some(task.class_names)} in {name} is not known; "
            "give them from low to high as class_names"
        )
    return dataclasses.replace(task, name=key, ordered=is_ordered), encoded, notes


def _checked_numbers(labels: Labels, name: str) -> np.ndarray:
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"got labels of type {values.dtype} and shape {list(values.shape)} in {name}; expected "
            "a number each [N], NaN where one is missing"
        )
    numbers = values.astype(np.float32)
    if np.isinf(numbers).any() or np.isnan(numbers).all():
        raise ValueError(
            f"got {int(np.isinf(numbers).sum())} infinite and {int(np.isnan(numbers).sum())} "
            f"missing of {len(numbers)} numbers in {name}; expected finite ones, NaN where one is "
            "missing"
        )
    return numbers


def encode_labels(
    labels: Labels, class_names: Sequence[str] | None = None, *, name: str
) -> Encoded:
    """Returns the task and the encoded labels of the labels that `from_arrays` takes, and notes.

    Raises:
      ValueError: if the labels have another form, or do not match the class names.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    classes = None if class_names is None else _checked(class_names, name)
    if values.ndim == 1 and values.dtype.kind in "US":
        return _of_names(values, classes, name)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return _of_numbers(values.astype(np.int64), classes, name)
    if values.ndim == 2 and values.dtype.kind in "iub":
        return _of_vectors(values.astype(np.int64), classes, name)
    if values.dtype.kind == "O":
        remedy = "names as np.array(labels, dtype=str), without None"
    elif values.ndim == 1:
        remedy = (
            "labels.astype(int), -1 where one is missing, or numbers=('label',) if they are "
            "quantities to be regressed"
        )
    else:
        remedy = "labels.argmax(axis=1) of probabilities or one-hot vectors"
    raise ValueError(
        f"got labels of type {values.dtype} and shape {list(values.shape)} in {name}; expected "
        f"whole numbers [N], names [N], or 0 and 1 for each class [N, classes]: {remedy}"
    )


def _checked(class_names: Sequence[str], name: str) -> tuple[str, ...]:
    classes = tuple(spellings.tidy(str(each)) for each in class_names)
    if len(set(classes)) < len(classes):
        raise ValueError(f"got the class names {list(classes)} for {name}; expected each once")
    spellings.check(classes, place=name)
    return classes


def _of_names(values: np.ndarray, classes: tuple[str, ...] | None, name: str) -> Encoded:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    names = values.tolist()
    class_of = spellings.joined(dict.fromkeys(names), numbers=classes is None)
    notes = spellings.notes(class_of) if classes is None else ()
    if classes is None:
        classes = spellings.in_order(set(class_of.values()))
        spellings.check(classes, place=name)
    indices = {each: index for index, each in enumerate(classes)}
    unknown = sorted(set(class_of.values()) - indices.keys())
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} in {name} is none of the {len(classes)} class names"
            f"{messages.hint(unknown[0], classes)}"
        )
    encoded = np.asarray([indices[class_of[each]] for each in names], np.int32)
    return Task("label", classes), encoded, notes


def _of_numbers(values: np.ndarray, classes: tuple[str, ...] | None, name: str) -> Encoded:
    present = np.unique(values[values >= 0])
    lowest, highest = values.min(initial=0), values.max(initial=-1)
    if not len(present):
        raise ValueError(f"{name} holds no label; expected at least one")
    if lowest < -1 or (classes is not None and highest >= len(classes)):
        limit = highest if classes is None else len(classes) - 1
        by_one = classes is not None and values.min() == 1 and highest == len(classes)
        raise ValueError(
            f"got labels from {values.min()} to {highest} in {name}; expected -1 (missing) to "
            f"{limit}{': subtract 1, the first class is 0' if by_one else ''}"
        )
    if classes is not None:
        return Task("label", classes), values.astype(np.int32), ()
    if set(np.unique(values).tolist()) == {-1, 1}:
        raise ValueError(
            f"got the labels -1 and 1 in {name}, where -1 stands for a missing label; write 0 and "
            "1 for two classes, or give class_names"
        )
    names = tuple(map(str, present.tolist()))
    if len(present) == highest + 1:
        return Task("label", names), values.astype(np.int32), ()
    # A class of every number up to the highest would have classes that no image has.
    encoded = np.where(values < 0, -1, np.searchsorted(present, values)).astype(np.int32)
    note = f"the classes are the numbers that occur as labels: {messages.some(names, quoted=False)}"
    return Task("label", names), encoded, (note,)


def _of_vectors(values: np.ndarray, classes: tuple[str, ...] | None, name: str) -> Encoded:
    if classes is None:
        classes = tuple(map(str, range(values.shape[1])))
    if len(classes) != values.shape[1]:
        raise ValueError(
            f"got {len(classes)} class names for labels {list(values.shape)} in {name}; expected "
            "one name per column"
        )
    if values.min(initial=0) < -1 or values.max(initial=0) > 1:
        raise ValueError(
            f"got labels from {values.min(initial=0)} to {values.max(initial=0)} in {name}; "
            "expected -1 (missing) to 1"
        )
    return Task("label", classes, multi_label=True), values.astype(np.int8), ()

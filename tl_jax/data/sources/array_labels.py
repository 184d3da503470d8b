"""Turns labels in arrays, be they indices, names or vectors, into a task and encoded labels."""

from collections.abc import Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names as spellings
from tl_jax.data.source import Task

Labels = np.ndarray | Sequence[int] | Sequence[str]
Encoded = tuple[Task, np.ndarray, tuple[str, ...]]


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
        remedy = "labels.astype(int), -1 where one is missing"
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

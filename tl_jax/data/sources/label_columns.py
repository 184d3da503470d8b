"""Turns the labels in a table's column, names or numbers or lists of them, into arrays."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data.source import Task
from tl_jax.data.sources import tables

_SEPARATOR = "|"
_INTEGER = re.compile(r"[+-]?\d+")


def encode(table: tables.Table, column: str) -> tuple[Task, np.ndarray]:
    """Returns the task of a column, and the labels of all rows.

    Returns:
      The task, with the column's name and its classes, sorted (as numbers, if all are whole
      numbers) or in the order that the file itself gives; and the labels, int32 [rows], or int8
      [rows, classes] if a cell holds a list; -1 where a cell is empty.

    Raises:
      ValueError: if cells are not labels, with a list of them; or if the whole column is empty.
    """
    values = table.columns[column]
    if table.path.suffix.lower() in (".csv", ".tsv") and any(_SEPARATOR in v for v in values if v):
        values = [v and [name for name in v.split(_SEPARATOR) if name.strip()] for v in values]
    known = table.class_names.get(column)
    names_by_row: list[tuple[str, ...] | None] = []
    problems = []
    for row, value in enumerate(values):
        try:
            names_by_row.append(_names(value, known))
        except ValueError as error:
            problems.append(f"{table.place(row)}: {error}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} labels in column {column!r} of {table.path} cannot be read:",
                problems,
                "expected a name, a whole number, a list of these, or nothing",
            )
        )
    classes = known or _sorted({name for names in names_by_row for name in names or ()})
    if not classes:
        raise ValueError(f"column {column!r} of {table.path} holds no label; expected at least one")
    indices = {name: index for index, name in enumerate(classes)}
    if not any(isinstance(value, list) for value in values):
        labels = [indices[names[0]] if names else -1 for names in names_by_row]
        return Task(column, classes), np.asarray(labels, np.int32)
    vectors = np.zeros((len(names_by_row), len(classes)), np.int8)
    for vector, names in zip(vectors, names_by_row, strict=True):
        if names is None:
            vector[:] = -1
        else:
            vector[[indices[name] for name in names]] = 1
    return Task(column, classes, multi_label=True), vectors


def present(task: Task, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns for each class whether any of the rows has it."""
    labels = targets[rows]
    if task.multi_label:
        return (labels == 1).any(axis=0)
    return np.isin(np.arange(len(task.class_names)), labels)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    in_order = sorted(names)
    if all(_INTEGER.fullmatch(name) for name in in_order):
        in_order.sort(key=int)
    return tuple(in_order)


def _names(value: Any, known: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns the names of the classes in a cell, or None if it is empty.

    `known` are the classes that the file itself names; numbers are then indices of these.
    """
    if isinstance(value, list):
        names: list[str] = []
        for entry in value:
            entry_names = _names(entry, known)
            if entry_names is None:
                raise ValueError(f"{value!r} has an empty entry")
            names += entry_names
        return tuple(names)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None  # `value != value` is true of NaN alone.
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns integers into floats where some are missing.
    if not isinstance(value, str | int):
        raise ValueError(f"got {value!r} of type {type(value).__name__}")
    if known is None:
        return (str(value).strip(),)
    if isinstance(value, str):
        if value not in known:
            raise ValueError(f"got {value!r}, none of the file's {len(known)} classes")
        return (value,)
    if value == -1:
        return None
    if not 0 <= value < len(known):
        raise ValueError(f"got {value}; expected -1 to {len(known) - 1}, the file's classes")
    return (known[value],)

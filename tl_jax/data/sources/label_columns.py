"""Turns the labels in a table's column, names or numbers or lists of them, into arrays."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names
from tl_jax.data.source import Task
from tl_jax.data.sources import tables

_SEPARATOR = "|"
_LIST = re.compile(r"[\[({]([^,]+,.*|\s*['\"].*['\"]\s*|\s*|\s*\d+\s*)[\])}]", re.DOTALL)


def encode_all(
    table: tables.Table, columns: Sequence[str]
) -> tuple[list[tuple[Task, np.ndarray]], tuple[str, ...]]:
    """Returns the tasks of columns with the labels of all rows, and notes on what was decided.

    Several columns of 0 and 1, with a single 1 in each row, are one task: the columns are classes.

    Raises:
      ValueError: as `encode`.
    """
    if (labels := _one_hot(table, columns)) is not None:
        note = f"the columns {messages.some(columns)} are one-hot: each is a class"
        class_names.check(columns, place=str(table.path))
        return [(Task("label", tuple(columns)), labels)], (note,)
    encoded = list[tuple[Task, np.ndarray]]()
    notes = list[str]()
    for column in columns:
        task, labels, said = encode(table, column)
        encoded.append((task, labels))
        notes += said
    if len(columns) > 1:
        notes.append(
            f"the main labels are those of {columns[0]!r}; {messages.some(columns[1:])} follow"
        )
    return encoded, tuple(notes)


def _one_hot(table: tables.Table, columns: Sequence[str]) -> np.ndarray | None:
    """Returns the place of the only 1 in each row, int32 [rows], -1 in empty rows, or None."""
    if len(columns) < 2:
        return None
    values = np.full((len(table), len(columns)), np.nan)
    for place, column in enumerate(columns):
        for row, cell in enumerate(table.columns[column]):
            if cell is None or cell == "":
                continue
            number = class_names.number(str(cell)) if isinstance(cell, str | int | float) else None
            if isinstance(cell, bool):
                number = float(cell)
            if number not in (0.0, 1.0):
                return None
            values[row, place] = number
    is_empty = np.isnan(values).all(axis=1)
    if is_empty.all() or np.isnan(values[~is_empty]).any() or (values[~is_empty].sum(1) != 1).any():
        return None
    return np.where(is_empty, -1, np.nan_to_num(values).argmax(axis=1)).astype(np.int32)


def encode(table: tables.Table, column: str) -> tuple[Task, np.ndarray, tuple[str, ...]]:
    """Returns the task of a column, the labels of all rows, and notes on what was decided.

    Returns:
      The task, with the column's name and its classes, sorted (as numbers, if all are numbers) or
      in the order that the file itself gives; the labels, int32 [rows], or int8 [rows, classes] if
      a cell holds a list, -1 where a cell is empty; and notes, such as which spellings of a class
      were joined.

    Raises:
      ValueError: if cells are not labels, with a list of them; if names cannot be those of classes;
        or if the whole column is empty.
    """
    values = table.columns[column]
    _refuse_lists_as_text(table, column, values)
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
    notes: tuple[str, ...] = ()
    classes = known or ()
    if known is None:
        spelled = dict.fromkeys(name for names in names_by_row for name in names or ())
        class_of = class_names.joined(spelled, numbers=True)
        notes = class_names.notes(class_of)
        names_by_row = [names and tuple(class_of[name] for name in names) for names in names_by_row]
        classes = class_names.in_order(set(class_of.values()))
        class_names.check(classes, place=f"column {column!r} of {table.path}")
    if not classes:
        raise ValueError(f"column {column!r} of {table.path} holds no label; expected at least one")
    indices = {name: index for index, name in enumerate(classes)}
    if not any(isinstance(value, list) for value in values):
        labels = [indices[names[0]] if names else -1 for names in names_by_row]
        return Task(column, classes), np.asarray(labels, np.int32), notes
    vectors = np.zeros((len(names_by_row), len(classes)), np.int8)
    for vector, names in zip(vectors, names_by_row, strict=True):
        if names is None:
            vector[:] = -1
        else:
            vector[[indices[name] for name in names]] = 1
    return Task(column, classes, multi_label=True), vectors, notes


def _refuse_lists_as_text(table: tables.Table, column: str, values: tables.Cells) -> None:
    """Refuses "['cat', 'dog']" and "[0, 1]", as programs write a list into a cell of text."""
    for row, value in enumerate(values):
        if isinstance(value, str) and _LIST.fullmatch(value.strip()):
            raise ValueError(
                f"{table.place(row)} of {table.path}: the label {value!r} in column {column!r} is "
                f"a list written as text; write the names with {_SEPARATOR!r} between them, or a "
                "name alone where an image has one class"
            )


def present(task: Task, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns for each class whether any of the rows has it."""
    labels = targets[rows]
    if task.multi_label:
        return (labels == 1).any(axis=0)
    return np.isin(np.arange(len(task.class_names)), labels)


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
        return (str(value),)
    if isinstance(value, str):
        if value not in known:
            raise ValueError(f"got {value!r}, none of the file's {len(known)} classes")
        return (value,)
    if value == -1:
        return None
    if not 0 <= value < len(known):
        raise ValueError(f"got {value}; expected -1 to {len(known) - 1}, the file's classes")
    return (known[value],)

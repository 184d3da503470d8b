"""Turns the labels in a table's column, names or numbers or lists of them, into arrays."""

import re
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data.source import Task
from tl_jax.data.sources import tables

_BETWEEN = "|"
_INTEGER = re.compile(r"[+-]?\d+")

# The names that one cell holds; None where it is empty.
_Cell = tuple[str, ...] | None


def encode(table: tables.Table, column: str) -> tuple[Task, np.ndarray]:
    """Returns the task of a column, and the encoded labels of all rows.

    Returns:
      The task, called as the column, its classes sorted (as numbers, if all are whole numbers) or
      in the order that the file itself gives them; and int32 [rows], or int8 [rows, classes] if
      a cell holds a list; -1 where a cell is empty.

    Raises:
      ValueError: if cells hold no labels; all are listed. Or if the whole column is empty.
    """
    cells, several = _cells(table, column)
    names = table.class_names.get(column) or _sorted({n for cell in cells for n in cell or ()})
    if not names:
        raise ValueError(f"column {column!r} of {table.path} holds no label; expected some")
    places = {name: place for place, name in enumerate(names)}
    if not several:
        codes = [places[cell[0]] if cell else -1 for cell in cells]
        return Task(column, names), np.asarray(codes, np.int32)
    codes = np.zeros((len(cells), len(names)), np.int8)
    for row, cell in enumerate(cells):
        codes[row, [places[name] for name in cell or ()]] = 1
    codes[[row for row, cell in enumerate(cells) if cell is None]] = -1
    return Task(column, names, multi_label=True), codes


def _sorted(names: set[str]) -> tuple[str, ...]:
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _cells(table: tables.Table, column: str) -> tuple[list[_Cell], bool]:
    """Returns the names in each cell of a column, and whether it is of lists."""
    values = table.columns[column]
    if table.path.suffix.lower() in (".csv", ".tsv") and any(_BETWEEN in v for v in values if v):
        values = [v and [name for name in v.split(_BETWEEN) if name.strip()] for v in values]
    several = any(isinstance(value, list) for value in values)
    cells: list[_Cell] = []
    problems = []
    for row, value in enumerate(values):
        try:
            cells.append(_names(value, table.class_names.get(column)))
        except ValueError as error:
            problems.append(f"{table.place(row)}: {error}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} labels in column {column!r} of {table.path} are none:",
                problems,
                "expected a name, a whole number, a list of these, or nothing",
            )
        )
    return cells, several


def _names(value: Any, known: tuple[str, ...] | None) -> _Cell:
    if isinstance(value, list):
        parts = [_names(part, known) for part in value]
        if None in parts:
            raise ValueError(f"{value!r} has an empty entry")
        return tuple(name for part in parts for name in part)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None  # Empty; of all values only NaN is not itself.
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of integers where some are missing.
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
        raise ValueError(f"got {value}, and the file names {len(known)} classes")
    return (known[value],)


def present(task: Task, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns for each class whether any of the rows has it."""
    labels = targets[rows]
    if task.multi_label:
        return (labels == 1).any(axis=0)
    return np.isin(np.arange(len(task.class_names)), labels)

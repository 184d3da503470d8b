"""Turns the labels in a table's column, names or numbers or lists of them, into arrays."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names
from tl_jax.data.source import Task
from tl_jax.data.sources import tables
from tl_jax.data.sources.options import LabelKinds

Encoded = tuple[Task, np.ndarray, tuple[str, ...]]

_SEPARATOR = "|"
_LARGEST = float(np.finfo(np.float32).max)  # Numbers are float32 in batches.
_LIST = re.compile(r"[\[({]([^,]+,.*|\s*['\"].*['\"]\s*|\s*|\s*\d+\s*)[\])}]", re.DOTALL)


def encode_all(
    table: tables.Table, columns: Sequence[str], kinds: LabelKinds | None = None
) -> tuple[list[tuple[Task, np.ndarray]], tuple[str, ...]]:
    """Returns the tasks of columns with the labels of all rows, and notes on what was decided.

    Several columns of 0 and 1, with a single 1 in each row, are one task: the columns are classes.

    Args:
      table: the table.
      columns: the columns of labels, the main one first.
      kinds: which of them are numbers, levels, or classes together; none by default.

    Raises:
      ValueError: as `encode`, `encode_numbers`, `encode_levels` and `encode_several`.
    """
    kinds = kinds or LabelKinds()
    _check_kinds(table, columns, kinds)
    if kinds == LabelKinds() and (labels := _one_hot(table, columns)) is not None:
        note = f"the columns {messages.some(columns)} are one-hot: each is a class"
        class_names.check(columns, place=str(table.path))
        return [(Task("label", tuple(columns)), labels)], (note,)
    encoded = list[tuple[Task, np.ndarray]]()
    notes = list[str]()
    for column in columns:
        if column in kinds.several[1:]:
            continue
        if column in kinds.several:
            task, labels, said = encode_several(table, kinds.several)
        elif column in kinds.numbers:
            task, labels, said = encode_numbers(table, column)
        elif column in kinds.levels:
            task, labels, said = encode_levels(table, column, kinds.levels[column])
        else:
            task, labels, said = encode(table, column)
        encoded.append((task, labels))
        notes += said
    if len(encoded) > 1:
        names = [task.name for task, _ in encoded]
        notes.append(
            f"the main labels are those of {names[0]!r}; {messages.some(names[1:])} follow"
        )
    return encoded, tuple(notes)


def _check_kinds(table: tables.Table, columns: Sequence[str], kinds: LabelKinds) -> None:
    """Checks that the columns of special kinds are columns of labels, each of one kind."""
    named = (*kinds.numbers, *kinds.levels, *kinds.several)
    others = [column for column in named if column not in columns]
    if others or len(set(named)) < len(named):
        raise ValueError(
            f"got numbers {list(kinds.numbers)}, ordered {list(kinds.levels)} and several "
            f"{list(kinds.several)} for the labels {list(columns)} of {table.path}; expected some "
            "of these columns, each at most once"
        )


def encode_numbers(table: tables.Table, column: str) -> Encoded:
    """Returns the task of a column of numbers, its numbers, float32 [rows], and notes.

    An empty cell, and NaN where the file has it, is a missing number.

    Raises:
      ValueError: if a cell holds something else, infinity too, or no cell holds a number.
    """
    values, said = read_numbers(table, column)
    if np.isnan(values).all():
        raise ValueError(f"column {column!r} of {table.path} holds no label; expected at least one")
    return Task(column, ()), values.astype(np.float32), said


def read_numbers(table: tables.Table, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the numbers of a column, float64 [rows], NaN where a cell is empty, and a note.

    Raises:
      ValueError: if a cell holds something else; the rows are listed.
    """
    values, problems, num_nan = np.full(len(table), np.nan), [], 0
    for row, cell in enumerate(table.columns[column]):
        try:
            value = _number(cell)
        except ValueError as error:
            problems.append(f"{table.place(row)}: {error}")
            continue
        if value is not None:
            num_nan += math.isnan(value)
            values[row] = value
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} cells in column {column!r} of {table.path} are no numbers:",
                problems,
                "expected a finite number, or nothing where it is missing",
            )
        )
    note = f"{num_nan} cells NaN in the column {column!r} count as missing"
    return values, (note,) if num_nan else ()


def _number(cell: Any) -> float | None:
    """Returns the number in a cell, NaN too, or None if it is empty."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    is_number = isinstance(cell, str | int | float) and not isinstance(cell, bool)
    try:
        value = float(cell) if is_number and "_" not in str(cell) else None
    except (ValueError, OverflowError):
        value = None
    if value is None or abs(value) > _LARGEST:
        raise ValueError(f"got {cell!r}")
    return value


def encode_levels(table: tables.Table, column: str, levels: Sequence[str]) -> Encoded:
    """Returns the task of a column of levels, the level of each row, int32 [rows], and notes.

    Args:
      table: the table.
      column: the column.
      levels: from low to high; none: the numbers that occur.

    Raises:
      ValueError: as `encode`; if a cell holds a list or none of the levels; if there are no levels
        and the cells are not all numbers.
    """
    task, labels, said = encode(table, column, fractions=True)
    if task.multi_label:
        raise ValueError(
            f"column {column!r} of {table.path} holds lists; expected one level in each cell, as "
            "an image has one level"
        )
    if not levels:
        if any(class_names.number(name) is None for name in task.class_names):
            raise ValueError(
                f"the labels {messages.some(task.class_names)} in column {column!r} of "
                f"{table.path} are not all numbers, so their order is not known; give the levels "
                f"from low to high, ordered={{{column!r}: (...)}}"
            )
        names = tuple(sorted(task.class_names, key=lambda name: class_names.number(name) or 0.0))
    else:
        names = tuple(class_names.tidy(str(level)) for level in levels)
    place = {_value(name): level for level, name in enumerate(names)}
    if len(place) < len(names):
        raise ValueError(f"got the levels {list(names)} of {column!r}; expected each once")
    unknown = [name for name in task.class_names if _value(name) not in place]
    if unknown:
        row = int((labels == task.class_names.index(unknown[0])).argmax())
        raise ValueError(
            f"{table.place(row)} of {table.path} has the label {unknown[0]!r} in column "
            f"{column!r}, none of the levels {messages.some(names)}"
            f"{messages.hint(unknown[0], names)}"
        )
    level_of = np.asarray([*(place[_value(name)] for name in task.class_names), -1], np.int32)
    said = (*said, f"the levels of {column!r}, from low to high: {messages.some(names)}")
    return Task(column, names, ordered=True), level_of[labels], said


def _value(name: str) -> float | str:
    """Returns the number that a name spells, or the name."""
    number = class_names.number(name)
    return name if number is None else number


def encode_several(table: tables.Table, columns: Sequence[str]) -> Encoded:
    """Returns one multi-label task of columns of 0 and 1, its labels, int8 [rows, columns], notes.

    Raises:
      ValueError: if a cell holds something else; an empty cell is not known.
    """
    class_names.check(columns, place=str(table.path))
    labels, problems = np.full((len(table), len(columns)), -1, np.int8), []
    for place, column in enumerate(columns):
        for row, cell in enumerate(table.columns[column]):
            if cell is None or (isinstance(cell, str) and not cell.strip()):
                continue
            number = float(cell) if isinstance(cell, bool) else class_names.number(str(cell))
            if number in (0.0, 1.0):
                labels[row, place] = number
            elif str(cell).lower() in ("true", "false"):
                labels[row, place] = str(cell).lower() == "true"
            elif cell == cell:  # NaN, of a missing integer in Parquet, is not known.
                problems.append(f"{table.place(row)}: got {cell!r} in column {column!r}")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} cells in the columns of classes of {table.path} cannot be read:",
                problems,
                "expected 1 where the image has the class, 0 where not, nothing if not known",
            )
        )
    note = f"the columns {messages.some(columns)} are the classes of one multi-label task"
    return Task("label", tuple(columns), multi_label=True), labels, (note,)


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


def encode(table: tables.Table, column: str, *, fractions: bool = False) -> Encoded:
    """Returns the task of a column, the labels of all rows, and notes on what was decided.

    Args:
      table: the table.
      column: the column.
      fractions: whether a number that is not whole may name a class; in text it always may.

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
            names_by_row.append(_names(value, known, fractions=fractions))
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
        notes = class_names.notes(class_of, are_levels=fractions)
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
    if task.kind == "regression":
        return np.ones(0, bool)
    if task.multi_label:
        return (labels == 1).any(axis=0)
    return np.isin(np.arange(len(task.class_names)), labels)


def _names(
    value: Any, known: tuple[str, ...] | None, *, fractions: bool = False
) -> tuple[str, ...] | None:
    """Returns the names of the classes in a cell, or None if it is empty.

    `known` are the classes that the file itself names; numbers are then indices of these.
    """
    if isinstance(value, list):
        names: list[str] = []
        for entry in value:
            entry_names = _names(entry, known, fractions=fractions)
            if entry_names is None:
                raise ValueError(f"{value!r} has an empty entry")
            names += entry_names
        return tuple(names)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None  # `value != value` is true of NaN alone.
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns integers into floats where some are missing.
    if fractions and isinstance(value, float) and math.isfinite(value):
        value = str(value)
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

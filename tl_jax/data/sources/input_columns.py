"""Reads the columns of a table that are inputs beside the image: numbers, names, texts, vectors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax import files, messages
from tl_jax.data import class_names, inputs
from tl_jax.data.sources import label_columns, manifest_columns, tables
from tl_jax.data.sources.options import InputColumns

_LARGEST = float(np.finfo(np.float32).max)


def existing(table: tables.Table, columns: InputColumns, used: Sequence[str]) -> InputColumns:
    """Returns the columns as the table spells their names.

    Args:
      table: the table.
      columns: the columns as they were named.
      used: the columns of images and labels.

    Raises:
      ValueError: if there is no such column, or it is used twice.
    """

    def found(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(manifest_columns.existing(table, name) for name in names)

    group = None if columns.group is None else found([columns.group])[0]
    spelled = dataclasses.replace(
        columns,
        group=group,
        numeric=found(columns.numeric),
        categorical=found(columns.categorical),
        text=found(columns.text),
        vector=found(columns.vector),
    )
    named = (*used, *spelled.named)
    if twice := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        raise ValueError(
            f"the columns {messages.some(twice)} of {table.path} are used twice; expected each to "
            "be an image, a label, a group or an input: what is to be predicted is no input"
        )
    return spelled


def read(table: tables.Table, columns: InputColumns) -> tuple[inputs.Columns, tuple[str, ...]]:
    """Returns the further inputs of all rows, and notes on what was decided.

    Raises:
      ValueError: if cells cannot be read; the rows are listed.
    """
    notes = list[str]()
    numeric = {}
    for name in columns.numeric:
        numeric[name], said = label_columns.read_numbers(table, name)
        notes += said
    categorical = {}
    for name in columns.categorical:
        categorical[name], said = _read_names(table, name)
        notes += said
    return (
        inputs.Columns(
            numeric={name: values.astype(np.float32) for name, values in numeric.items()},
            categorical=categorical,
            text=_read_texts(table, columns.text) if columns.text else None,
            vector=_read_vectors(table, columns.vector) if columns.vector else None,
        ),
        tuple(notes),
    )


def _read_names(table: tables.Table, column: str) -> tuple[list[str | None], tuple[str, ...]]:
    """Returns the names in a column, None in empty cells; spellings of one name are joined."""
    known = table.class_names.get(column)
    names: list[str | None] = []
    problems = []
    for row, cell in enumerate(table.columns[column]):
        is_index = known is not None and isinstance(cell, int) and not isinstance(cell, bool)
        if cell is None or cell != cell or (is_index and cell == -1):
            names.append(None)
        elif is_index and known is not None and 0 <= cell < len(known):
            names.append(known[cell])
        elif is_index or not isinstance(cell, str | int | float):
            problems.append(f"{table.place(row)}: got {cell!r}")
        else:
            names.append(str(cell) if str(cell).strip() else None)
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} cells in column {column!r} of {table.path} are no names:",
                problems,
                "expected a name or a number in each, or nothing where it is missing",
            )
        )
    class_of = class_names.joined(dict.fromkeys(n for n in names if n), numbers=True)
    joined = len(class_of) - len(set(class_of.values()))
    said = (f"{joined} spellings in the column {column!r} are joined to others",) if joined else ()
    return [name and class_of[name] for name in names], said


def _read_texts(table: tables.Table, columns: Sequence[str]) -> list[str | None]:
    """Returns the texts of columns, joined by a blank, None where all cells are empty."""
    cells = [table.columns[name] for name in columns]
    texts: list[str | None] = []
    problems = []
    for row in range(len(table)):
        parts = [column[row] for column in cells]
        wrong = [each for each in parts if not isinstance(each, str | int | float | None)]
        if wrong:
            problems.append(f"{table.place(row)}: got {wrong[0]!r}")
        kept = [str(each) for each in parts if each is not None and each == each]
        texts.append(" ".join(kept) if any(each.strip() for each in kept) else None)
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} cells in the columns {messages.some(columns)} of {table.path} "
                "are no texts:",
                problems,
                "expected text in each, or nothing where it is missing",
            )
        )
    return texts


def _read_vectors(table: tables.Table, columns: Sequence[str]) -> np.ndarray:
    """Returns the vectors of columns, joined: float32 [rows, length], NaN where all are missing."""
    parts = [_read_vector(table, name) for name in columns]
    missing = np.stack([np.isnan(part).all(axis=1) for part in parts])
    partly = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    if len(partly):
        raise ValueError(
            messages.report(
                f"{len(partly)} rows of {table.path} have a part of the vector alone:",
                [table.place(int(row)) for row in partly],
                f"fill all or none of {messages.some(columns)}",
            )
        )
    return np.concatenate(parts, axis=1)


def _read_vector(table: tables.Table, column: str) -> np.ndarray:
    """Returns the vectors of one column: float32 [rows, length], a row of NaN where it is empty."""
    rows: dict[int, np.ndarray] = {}
    problems = []
    for row, cell in enumerate(table.columns[column]):
        try:
            vector = _vector(cell)
        except ValueError as error:
            problems.append(f"{table.place(row)}: {error}")
            continue
        if vector is not None:
            rows[row] = vector
    length = len(next(iter(rows.values()))) if rows else 0
    problems += [
        f"{table.place(row)}: {len(vector)} numbers, where {table.place(next(iter(rows)))} has "
        f"{length}"
        for row, vector in rows.items()
        if len(vector) != length
    ]
    if problems or not length:
        raise ValueError(
            messages.report(
                f"{len(problems)} cells in column {column!r} of {table.path} are no vectors:"
                if problems
                else f"column {column!r} of {table.path} holds no vector:",
                problems,
                "expected finite numbers, as many in each cell, as a list or with blanks between "
                "them; nothing where it is missing",
            )
        )
    vectors = np.full((len(table), length), np.nan, np.float32)
    for row, vector in rows.items():
        vectors[row] = vector
    return vectors


def _vector(cell: Any) -> np.ndarray | None:
    """Returns the numbers in a cell, a list or text, or None if it is empty."""
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        return None
    shown = repr(cell) if len(repr(cell)) < 80 else f"{repr(cell)[:77]}..."
    try:
        if isinstance(cell, str):
            text = cell.strip()
            is_json = text.startswith("[")
            listed = files.parse_json(text) if is_json else text.replace(",", " ").split()
        else:
            listed = cell if isinstance(cell, list) else [cell]
        vector = np.asarray([float(each) for each in listed], np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"got {shown}") from error
    if not len(vector) or not (np.abs(vector) <= _LARGEST).all():
        raise ValueError(f"got {shown}, not all finite" if len(vector) else "got an empty list")
    return vector

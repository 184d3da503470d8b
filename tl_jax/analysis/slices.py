"""Metrics of parts of a split that a column of the data tells apart, such as a camera or a type."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.analysis.classes import quartiles
from tl_jax.analysis.measured import MAIN, TaskRows, label_text
from tl_jax.config import Config, TaskConfig
from tl_jax.data.source import Source, Task
from tl_jax.data.sources.open import uses
from tl_jax.objectives import bootstrap
from tl_jax.objectives.main_intervals import main_intervals
from tl_jax.run import tasks as run_tasks
from tl_jax.run.data import open_split
from tl_jax.run.folder import Run

MISSING = "missing"
_MOST = 50  # Slices of one column.


def of_column(run: Run, config: Config, examples: Source, column: str) -> dict[str, np.ndarray]:
    """Returns the slices of a split that a column makes.

    The column is a task of the run, an input beside the image, or another column of labels of the
    same data, for which the split is opened once more. Numbers make quartiles.

    Args:
      run: the run.
      config: how the split was opened (`run_data.config_of`).
      examples: the split.
      column: name of the column.

    Returns:
      Which examples are in each slice, bool [N], by its name; those without a value are "missing".

    Raises:
      ValueError: if the data have no such column, or its examples are others.
    """
    found = _of_inputs(examples, column) or _of_tasks(examples, column)
    if found is None:
        found = _of_tasks(_with_column(run, config, examples, column), column)
    if found is None:
        raise ValueError(
            f"{examples.name} has no column {column!r} that tells examples apart"
            f"{messages.hint(column, [task.name for task in examples.tasks])}; name a task of the "
            "run, a column of its inputs, or another column of labels"
        )
    if len(found) > _MOST:
        raise ValueError(
            f"the column {column!r} makes {len(found)} slices; expected {_MOST} at most, such as a "
            "type or a place"
        )
    return found


def of_values(values: Sequence[Any] | np.ndarray) -> dict[str, np.ndarray]:
    """Returns the slices that one value for each example makes: texts by name, numbers by quartile.

    >>> {name: chosen.tolist() for name, chosen in of_values(["a", "b", "a"]).items()}
    {'a': [True, False, True], 'b': [False, True, False]}
    """
    array = np.asarray(values)
    if array.dtype.kind == "f":
        missing = np.isnan(array)
        return quartiles(array) | ({MISSING: missing} if missing.any() else {})
    texts = np.array([str(value) for value in array])
    return {name: texts == name for name in dict.fromkeys(sorted(texts.tolist()))}


def measure_slices(rows: TaskRows, groups: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns the metrics of each slice, and how far it is from the others.

    Args:
      rows: of one task.
      groups: which examples are in each slice, bool [N].

    Returns:
      For each slice with labels `name`, `count`, `metrics` (the main ones of the task),
      `intervals` (`main_intervals`), `error` (`TaskRows.errors`, its mean), and `gap`, the error in
      the slice minus that of all other examples, with its 95% `gap_interval` (bootstrap of both;
      None if there are no others).
    """
    errors, labelled = rows.errors, rows.is_labelled
    found = []
    for name, chosen in groups.items():
        inside, outside = chosen & labelled, ~chosen & labelled
        if not inside.any():
            continue
        part = rows.part(inside)
        metrics = part.metrics()
        gap = None
        if outside.any():
            gap = float(errors[inside].mean() - errors[outside].mean())
        found.append(
            {
                "name": name,
                "count": int(inside.sum()),
                "metrics": {key: metrics.get(key) for key in MAIN[rows.task.kind]},
                "intervals": main_intervals(part.objective, part.rows),
                "error": float(errors[inside].mean()),
                "gap": gap,
                "gap_interval": bootstrap.difference_interval(errors[inside], errors[outside]),
            }
        )
    return found


def _of_inputs(examples: Source, column: str) -> dict[str, np.ndarray] | None:
    """Returns the slices of a column of names or numbers beside the image, if there is one."""
    inputs = examples.inputs
    if column in inputs.numeric:
        return of_values(examples.input_arrays()["numeric"][:, inputs.numeric.index(column)])
    names = {each.name: (place, each.values) for place, each in enumerate(inputs.categorical)}
    if column not in names:
        return None
    place, known = names[column]
    values = examples.input_arrays()["categorical"][:, place]
    return of_values([known[value] if value >= 0 else MISSING for value in values])


def _of_tasks(examples: Source, column: str) -> dict[str, np.ndarray] | None:
    """Returns the slices of a column of labels, if the source has it."""
    for task, labels in zip(examples.tasks, examples.task_labels().values(), strict=True):
        if task.name == column:
            return _of_labels(task, labels)
    return None


def _of_labels(task: Task, labels: np.ndarray) -> dict[str, np.ndarray]:
    if task.kind == "regression":
        return of_values(labels)
    if task.multi_label:  # An example may be in several of these slices.
        return {name: labels[:, index] == 1 for index, name in enumerate(task.class_names)}
    return of_values([label_text(task, label) for label in labels])


def _with_column(run: Run, config: Config, examples: Source, column: str) -> Source:
    """Opens a split once more, with another column of labels beside the run's."""
    opened = open_split(config, examples.split, inputs=run.info.inputs)
    if column not in [task.name for task in opened.tasks] and uses(config.data.source, "labels"):
        if run_tasks.is_plain(config):
            own = config.data.labels or tuple(task.name for task in opened.tasks)
            data = dataclasses.replace(config.data, labels=(*own, column))
            config = dataclasses.replace(config, data=data)
        else:
            tasks = (*config.tasks, TaskConfig(column))
            config = dataclasses.replace(config, tasks=tasks)
        opened = open_split(config, examples.split, inputs=run.info.inputs)
    if list(opened.identities()) != list(examples.identities()):
        raise ValueError(
            f"with the column {column!r} split {examples.split!r} of {examples.name} has other "
            "examples than without it; pass the values of the slices as arrays"
        )
    return opened

"""What a network says of an example: its class, labels, level or number for each task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.config.tasks import TaskKind
from tl_jax.data.source import Task

Arrays = Mapping[str, np.ndarray]
"""One example's part of what `TaskObjective.predictions` returns."""


@dataclasses.dataclass(frozen=True)
class ClassPrediction:
    """One of several classes.

    Attributes:
      predicted: the most probable class.
      probabilities: of all classes, in the order of the network's outputs.
    """

    predicted: str
    probabilities: Mapping[str, float]
    kind: TaskKind = dataclasses.field(default="multi_class", init=False)


@dataclasses.dataclass(frozen=True)
class LabelsPrediction:
    """Any number of several classes.

    Attributes:
      predicted: the classes whose probability is at least their threshold, which may be none.
      probabilities: of all classes, in the order of the network's outputs.
      thresholds: probability of each class from which on it is predicted.
    """

    predicted: tuple[str, ...]
    probabilities: Mapping[str, float]
    thresholds: Mapping[str, float]
    kind: TaskKind = dataclasses.field(default="multi_label", init=False)


@dataclasses.dataclass(frozen=True)
class LevelPrediction:
    """One of several levels.

    Attributes:
      predicted: the median level.
      probabilities: of all levels, from low to high.
      expected: the mean level as a number, of which 0 is the lowest level.
    """

    predicted: str
    probabilities: Mapping[str, float]
    expected: float
    kind: TaskKind = dataclasses.field(default="ordinal", init=False)


@dataclasses.dataclass(frozen=True)
class ValuePrediction:
    """A number.

    Attributes:
      predicted: the number, in the unit of the training labels.
    """

    predicted: float
    kind: TaskKind = dataclasses.field(default="regression", init=False)


TaskPrediction = ClassPrediction | LabelsPrediction | LevelPrediction | ValuePrediction


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of one example.

    Attributes:
      paths: the file of its image, or of each view of an object, "" where a view is missing or is
        no file. Images in a table are called by their row.
      tasks: what is said, by the task's name.
      error: why the example could not be read, in which case nothing is said of it; else None.

    Examples:
      >>> said = {"kind": ClassPrediction("cat", {"cat": 0.75, "dog": 0.25})}
      >>> Prediction(("a.png",), said).as_json()["tasks"]["kind"]["predicted"]
      'cat'
    """

    paths: tuple[str, ...]
    tasks: Mapping[str, TaskPrediction]
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the prediction as JSON values: `paths`, `tasks` and `error`.

        Each task has its `kind` and the attributes of its class here.
        """
        tasks = {name: _as_json(task) for name, task in self.tasks.items()}
        return {"paths": list(self.paths), "tasks": tasks, "error": self.error}


def _as_json(task: TaskPrediction) -> dict[str, Any]:
    values = {
        field.name: vars(task)[field.name]
        for field in dataclasses.fields(task)
        if field.name != "kind"
    }
    return {
        "kind": task.kind,
        **{
            name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        },
    }


def of_task(task: Task, arrays: Arrays, thresholds: Sequence[float]) -> TaskPrediction:
    """Returns what is said of one example for a task.

    Args:
      task: the task.
      arrays: one row of each array of `TaskObjective.predictions`.
      thresholds: of the classes of a multi-label task; none of the others.

    Examples:
      >>> arrays = {"probabilities": np.array([0.1, 0.7, 0.2]), "predicted": np.array(1)}
      >>> of_task(Task("kind", ("ant", "bee", "cow")), arrays, ()).predicted
      'bee'
    """
    names, predicted = task.class_names, arrays["predicted"]
    if task.kind == "regression":
        return ValuePrediction(float(predicted))
    probabilities = dict(zip(names, arrays["probabilities"].tolist(), strict=True))
    if task.kind == "multi_label":
        chosen = tuple(names[place] for place in np.flatnonzero(predicted))
        return LabelsPrediction(chosen, probabilities, dict(zip(names, thresholds, strict=True)))
    if task.kind == "ordinal":
        return LevelPrediction(names[int(predicted)], probabilities, float(arrays["expected"]))
    return ClassPrediction(names[int(predicted)], probabilities)

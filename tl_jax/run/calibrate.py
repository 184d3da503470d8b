"""What a run chooses on its evaluation split after training: temperatures and thresholds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.data.source import Task
from tl_jax.objectives import calibration
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import Objective, Rows, example_rows
from tl_jax.objectives.single_label import SingleLabel

Chosen = dict[str, dict[str, Any]]


def choose(objective: Objective, statistics: Rows, tasks: Sequence[Task]) -> Chosen:
    """Returns the temperature of classes and the thresholds of multi-label tasks, by task.

    A temperature makes the log-loss the least, thresholds the F1 of each class the best. Tasks of
    levels and numbers have neither, nor have those of more than 2,000 classes, whose logits are not
    kept.

    Args:
      objective: of the run.
      statistics: of `Objective.statistics`, of a split that was not trained on.
      tasks: what the run learns.
    """
    found: Chosen = {}
    if isinstance(objective, MultiTask):
        for name, of_one in objective.tasks.items():
            found |= _of_task(name, of_one, objective.task_statistics(statistics, name))
        return found
    return _of_task(tasks[0].name, objective, statistics)


def apply(objective: Objective, chosen: Mapping[str, Mapping[str, Any]]) -> Objective:
    """Returns the objective with what was chosen, as it should predict and be measured on others.

    Args:
      objective: of the run.
      chosen: of `choose`, or read from a report.
    """
    if isinstance(objective, MultiTask):
        tasks = {
            name: _with(of_one, chosen[name]) if name in chosen else of_one
            for name, of_one in objective.tasks.items()
        }
        return dataclasses.replace(objective, tasks=tasks)
    return _with(objective, next(iter(chosen.values()))) if chosen else objective


def _of_task(name: str, objective: Any, statistics: Rows) -> Chosen:
    rows = example_rows(statistics)
    if not isinstance(objective, SingleLabel | MultiLabel) or "logits" not in rows:
        return {}
    is_labelled = rows["label"] >= 0
    if not is_labelled.any() or not np.isfinite(rows["logits"]).all():
        return {}
    if isinstance(objective, SingleLabel):
        return {name: {"temperature": calibration.temperature(rows["logits"], rows["label"])}}
    thresholds = calibration.f1_thresholds(rows["logits"], rows["label"])
    return {name: {"thresholds": list(thresholds)}}


def _with(objective: Any, chosen: Mapping[str, Any]) -> Any:
    if "temperature" in chosen:
        return dataclasses.replace(objective, temperature=chosen["temperature"])
    return dataclasses.replace(objective, thresholds=tuple(chosen["thresholds"]))

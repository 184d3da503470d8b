"""The objective of several tasks on the same examples: a weighted sum of their losses."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import messages
from tl_jax.objectives import metric_names
from tl_jax.objectives.objective import (
    MASK,
    Batch,
    Mixing,
    Rows,
    TaskObjective,
    masked_mean,
    weighted,
)
from tl_jax.objectives.single_label import SingleLabel

LOG_VARIANCES = "log_variances"


@dataclasses.dataclass(frozen=True)
class MultiTask:
    """Several tasks; the outputs are a dict of each task's outputs [B, K] by its name.

    The loss is the weighted sum of the tasks' mean losses, each over the examples that have the
    task's label; a task without any label in a batch adds 0. Weights of examples, where a batch
    holds them, are those of all tasks.

    With learned weights the outputs also have `log_variances`, a parameter of the network [T], in
    the order of the tasks, zeros at first. Task t then adds exp(-s) L + s / 2, where s is its log
    variance and L its loss, or exp(-s) L / 2 + s / 2 for a squared error: a task whose loss stays
    high is weighted less. Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to
    Weigh Losses" (2018).

    Attributes:
      tasks: the objective of each task, by name. Labels may be missing in each: a `SingleLabel` is
        taken as `partly_labelled`.
      weights: factor of a task's part, by name; 1 for those without.
      learned_weights: whether the weights are learned as well.

    Raises:
      ValueError: on construction, if there is no task, two have their labels under the same key, a
        weight is of no task or out of range, or a task is called "log_variances".

    Examples:
      >>> from tl_jax.objectives.regression import Regression
      >>> from tl_jax.objectives.single_label import SingleLabel
      >>> objective = MultiTask({"cell": SingleLabel(2), "age": Regression(label_key="age")})
      >>> outputs = {"cell": jnp.zeros((2, 2)), "age": jnp.zeros((2, 1))}
      >>> batch = {"label": jnp.array([0, 1]), "age": jnp.array([1.0, jnp.nan])}
      >>> loss, parts = objective.loss(outputs, batch)
      >>> round(float(loss), 4), round(float(parts["cell"]), 4), float(parts["age"])
      (1.6931, 0.6931, 1.0)
      >>> found = objective.metrics(jax.device_get(objective.statistics(outputs, batch)))
      >>> found["count"], found["tasks"]["age"]["count"], found["tasks"]["cell"]["accuracy"]
      (2, 1, 0.5)
    """

    tasks: Mapping[str, TaskObjective]
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    learned_weights: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("got no tasks; expected one objective or more")
        # Frozen, so set as dataclasses does itself.
        object.__setattr__(
            self, "tasks", {name: _partly(task) for name, task in self.tasks.items()}
        )
        keys = [objective.label_key for objective in self.tasks.values()]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"got the label keys {', '.join(map(repr, keys))}; expected a key of its own for "
                "each task (label_key)"
            )
        if LOG_VARIANCES in self.tasks:
            raise ValueError(f"got a task named {LOG_VARIANCES!r}; expected another name")
        for name, weight in self.weights.items():
            if name not in self.tasks:
                hint = messages.hint(name, self.tasks)
                raise ValueError(
                    f"got a weight of {name!r}; expected the tasks {', '.join(self.tasks)}{hint}"
                )
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"got the weight {weight} of {name!r}; expected a finite number, 0 or more"
                )

    @property
    def mixes(self) -> frozenset[Mixing]:
        """As in `Objective`: what all tasks allow."""
        return frozenset.intersection(*(objective.mixes for objective in self.tasks.values()))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As in `Objective`: "loss", and "TASK.METRIC" for each metric of each task."""
        of_tasks = (
            metric_names.of_task(name, objective.metric_names)
            for name, objective in self.tasks.items()
        )
        return ("loss", *(name for names in of_tasks for name in names))

    def loss(
        self, outputs: Mapping[str, jax.Array], batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As in `Objective`; the parts are the tasks' mean losses before they are weighted."""
        self._check(outputs)
        total, parts = jnp.float32(0.0), {}
        for index, (name, objective) in enumerate(self.tasks.items()):
            values, mask = objective.example_losses(outputs[name], batch)
            parts[name] = part = masked_mean(weighted(values, batch), mask)
            if self.learned_weights:
                log_variance = outputs[LOG_VARIANCES].astype(jnp.float32)[index]
                part = objective.likelihood_scale * jnp.exp(-log_variance) * part + log_variance / 2
                part = jnp.where(mask.any(), part, 0.0)
            total += self.weights.get(name, 1.0) * part
        return total, parts

    def batch_metrics(self, outputs: Mapping[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`, each as "TASK.METRIC"."""
        return {
            f"{name}.{metric}": value
            for name, objective in self.tasks.items()
            for metric, value in objective.batch_metrics(outputs[name], batch).items()
        }

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: those of all tasks."""
        found: dict[str, jax.Array] = {}
        for objective in self.tasks.values():
            found |= objective.targets(batch)
        return found

    def statistics(self, outputs: Mapping[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: `mask`, and "TASK.ROW" for each row of each task."""
        self._check(outputs)
        found: dict[str, jax.Array] = {}
        for name, objective in self.tasks.items():
            rows = objective.statistics(outputs[name], batch)
            found[MASK] = rows.pop(MASK)
            found |= {f"{name}.{row}": values for row, values in rows.items()}
        return found

    def task_statistics(self, statistics: Rows, task: str) -> Rows:
        """Returns the statistics of one task, as its own objective has them."""
        rows = {MASK: statistics[MASK]}
        for name, values in statistics.items():
            of_task, _, row = name.rpartition(".")
            if of_task == task and row != name:
                rows[row] = values
        return rows

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """As in `Objective`.

        Returns:
          `count`, the number of examples; `loss`, the sum of the tasks' losses times the given
          weights, not the learned ones, so that it is comparable over the epochs (a task without
          labels adds 0); and `tasks`, the metrics of each task by its name.
        """
        tasks = {
            name: objective.metrics(
                self.task_statistics(statistics, name),
                costly=None if costly is None else metric_names.within(name, costly),
            )
            for name, objective in self.tasks.items()
        }
        parts = [
            self.weights.get(name, 1.0) * found["loss"]
            for name, found in tasks.items()
            if found["count"] and found["loss"] is not None
        ]
        is_finite = all(found["loss"] is not None for found in tasks.values() if found["count"])
        return {
            "count": int(np.sum(statistics[MASK])),
            "loss": sum(parts) if parts and is_finite else None,
            "tasks": tasks,
        }

    def predictions(self, outputs: Mapping[str, jax.Array]) -> dict[str, Any]:
        """As in `Objective`: those of each task, by its name."""
        self._check(outputs)
        return {
            name: objective.predictions(outputs[name]) for name, objective in self.tasks.items()
        }

    def _check(self, outputs: Any) -> None:
        """Raises a ValueError unless the outputs have all tasks, and log variances if needed."""
        expected = [*self.tasks, *([LOG_VARIANCES] if self.learned_weights else [])]
        if not isinstance(outputs, Mapping):
            raise ValueError(
                f"got outputs of type {type(outputs).__name__}; expected a dict of arrays with the "
                f"keys {', '.join(expected)}"
            )
        missing = [name for name in expected if name not in outputs]
        if missing:
            raise ValueError(
                f"got outputs with the keys {', '.join(outputs)}; {messages.some(missing)} is "
                "missing: build the network with a head for each task, and log variances for "
                "learned weights"
            )


def _partly(objective: TaskObjective) -> TaskObjective:
    """Returns the objective, such that labels may be missing in training."""
    if isinstance(objective, SingleLabel):
        return dataclasses.replace(objective, partly_labelled=True)
    return objective

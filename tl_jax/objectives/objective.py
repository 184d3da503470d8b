"""The objective of training: the one interface to a task's loss, metrics and predictions."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import messages

Batch = Mapping[str, jax.Array]
Outputs = jax.Array | Mapping[str, jax.Array]
Rows = dict[str, np.ndarray]
Mixing = Literal["mixup", "cutmix"]

MASK = "mask"
WEIGHT = "example_weight"


class Objective(Protocol):
    """What a network's outputs are trained for, and how they are measured and read.

    The training step calls `loss`, the evaluation step `statistics`, the host `metrics`, and a user
    of the trained network `predictions`. All but `metrics` are pure functions of arrays, to be
    compiled by `jax.jit`. An objective holds plain numbers and no arrays.

    The outputs are float [B, K] for one task, and a dict of these by the task's name for several
    (`tl_jax.objectives.multi_task.MultiTask`). A batch is a dict with the labels of B examples and,
    in evaluation, `mask`, bool [B], which is False for examples that only fill up the batch. A
    label may be missing: -1, or NaN for a number. Such an example counts neither in the loss nor in
    the metrics of that task. In training a batch may also hold `example_weight`, float32 [B], by
    which the loss of each example is multiplied (`weighted`); evaluation knows no weights.
    """

    @property
    def mixes(self) -> frozenset[Mixing]:
        """The ways of mixing pairs of examples ("mixup", "cutmix") that its targets allow."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics with one number, by which checkpoints may be compared."""

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean loss of a batch, a float32 scalar, and its parts by task.

        It is the mean over the examples that have a label, and where the batch holds weights the
        mean of weight times loss, not divided by the weights: weights of 0.5 for all examples halve
        the loss. A single task has no parts. In place of the labels the batch may hold mixed
        `targets`.
        """

    def batch_metrics(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Returns cheap metrics of a training batch for its log, such as "accuracy": scalars."""

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns the labels in the form that can be mixed: float32 [B, K] by key of the batch.

        No known target is negative; the row of a missing label is -1, and so must its mixture with
        any other be. The loss of a batch with these in the labels' places is the same.

        Raises:
          ValueError: if `mixes` is empty.
        """

    def statistics(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Returns what the metrics need of a batch, as arrays that add up by concatenation.

        They are rows, [B, ...], one for each example, and possibly sums over the batch, [1, ...]
        (`SUMS`). The row `mask` is the batch's, so that its sum over a split is the number of
        examples, with labels or without.
        """

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """Returns the metrics of a split, JSON values, from the statistics of all its batches.

        A metric that does not exist is None, such as a mean of nothing or a kappa where chance
        always agrees. So is one that is not finite: a loss of None means outputs that overflow.

        Args:
          statistics: of all batches, concatenated along the first axis, as NumPy arrays.
          costly: names of metrics, "TASK.METRIC" of several tasks. Of the costly ones
            (`metric_names.Metric.is_costly`) only those of a task of which one is named are there;
            None for all.
        """

    def predictions(self, outputs: Any) -> dict[str, Any]:
        """Returns what a person reads of the outputs: probabilities, classes, levels or values."""


class TaskObjective(Objective, Protocol):
    """An objective of one task, which may be one of several."""

    @property
    def label_key(self) -> str:
        """The key of its labels in a batch: "label" for the main task, or the task's name."""

    @property
    def likelihood_scale(self) -> float:
        """The factor of the loss in a likelihood with learned variance: 0.5 for squared errors."""

    def example_losses(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the loss of each example, float32 [B], and whether its label is known, bool [B].

        The loss of an example without a label is 0, and so is its gradient.
        """


# Statistics that are sums over a batch, of shape [1, ...], rather than rows.
SUMS = ("loss_sum", "decision_counts")


def example_mask(batch: Batch, known: jax.Array) -> jax.Array:
    """Returns which examples count: those whose label is known and that are not filling, bool [B].

    Args:
      batch: with `mask` or without.
      known: bool [B], whether an example's label is known.
    """
    return known & batch[MASK] if MASK in batch else known


def weighted(losses: jax.Array, batch: Batch) -> jax.Array:
    """Returns the losses of examples [B] times the weights that the batch holds, if it holds any.

    >>> batch = {"label": jnp.array([0, 1]), "example_weight": jnp.array([1.0, 0.5])}
    >>> weighted(jnp.array([3.0, 3.0]), batch).tolist()
    [3.0, 1.5]
    """
    return losses * batch[WEIGHT] if WEIGHT in batch else losses


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of the values [B] where the mask [B] is True; 0 where it is nowhere.

    >>> float(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
    2.0
    """
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def without_masked(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the outputs [B, K] in float32 with zeros where the mask [B] is False.

    What is computed of such a row is finite, and so its gradient is 0 and not NaN.
    """
    return jnp.where(mask[:, None], outputs.astype(jnp.float32), 0.0)


def check_outputs(outputs: Any, columns: int, what: str) -> None:
    """Raises a ValueError unless the outputs are one array [B, columns].

    Args:
      outputs: of a network.
      columns: the outputs of each example.
      what: the columns, in words.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != columns:
        got = f"outputs of shape {shape}" if shape is not None else f"a {type(outputs).__name__}"
        raise ValueError(
            f"got {got}; expected an array [B, {columns}] ({what}): build the network for this "
            "task, or wrap the objectives of several tasks in MultiTask"
        )


def one_per_class(name: str, values: Sequence[float] | None, count: int) -> None:
    """Raises a ValueError unless there is a finite number, 0 or more, for each class, or None.

    Args:
      name: of the argument.
      values: what was given.
      count: how many are expected.
    """
    if values is None:
        return
    if len(values) != count:
        raise ValueError(f"got {len(values)} numbers as {name}; expected {count}, one for each")
    if not all(0 <= value < math.inf for value in values):
        raise ValueError(f"got {name}={tuple(values)}; expected finite numbers, 0 or more")


def check_positive(name: str, value: float) -> None:
    """Raises a ValueError unless a value is a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"got {name}={value}; expected a finite number above 0")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"got {name}={value!r}; expected one of {', '.join(choices)}"
            f"{messages.hint(value, choices)}"
        )


def labelled_rows(statistics: Mapping[str, np.ndarray], is_labelled: np.ndarray) -> Rows:
    """Returns the rows of the examples whose label is known, without `mask` and the sums.

    Args:
      statistics: of `Objective.statistics`, concatenated over the batches.
      is_labelled: bool [N].
    """
    rows = {name: values for name, values in statistics.items() if name not in (*SUMS, MASK)}
    if is_labelled.all():
        return rows
    return {name: values[is_labelled] for name, values in rows.items()}


def example_rows(statistics: Mapping[str, np.ndarray]) -> Rows:
    """Returns the rows of all examples, without filling and sums: what a bootstrap draws from.

    An objective's metrics of these are those of the statistics; only the loss is of rows and not
    of sums, which may differ in the last bits.

    Args:
      statistics: of `Objective.statistics`, concatenated over the batches; of several tasks too.

    Examples:
      >>> statistics = {"mask": np.array([True, False]), "label": np.array([1, -1])}
      >>> example_rows(statistics | {"loss_sum": np.array([0.5])})["label"].tolist()
      [1]
    """
    mask = statistics[MASK]
    return {
        name: values[mask]
        for name, values in statistics.items()
        if name.rpartition(".")[2] not in SUMS
    }


def loss_sum(statistics: Mapping[str, np.ndarray]) -> float:
    """Returns the sum of the losses of all examples, in 64 bits.

    It is that of the batches' sums where the statistics hold them, and else of the rows, of which
    there may be some of the examples only.
    """
    sums = statistics["loss_sum"] if "loss_sum" in statistics else statistics["loss"]
    return sum(sums.astype(np.float64).tolist())

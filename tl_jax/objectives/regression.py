"""The objective of one number per example: losses, metrics and predictions in its unit."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.objectives import value_losses
from tl_jax.objectives.metrics import finite_or_none, mean_or_none
from tl_jax.objectives.objective import (
    MASK,
    Batch,
    Mixing,
    Rows,
    check_outputs,
    check_positive,
    example_mask,
    labelled_rows,
    masked_mean,
    one_of,
    weighted,
    without_masked,
)

Loss = Literal["mse", "mae", "huber"]


@dataclasses.dataclass(frozen=True)
class Regression:
    """One number per example; the outputs are [B, 1], in standard deviations from the mean.

    So a network whose head starts at zero predicts the mean of the training labels. The loss is of
    standardised outputs and labels, the metrics and predictions are in the labels' unit. The
    labels are float [B], NaN where missing, or mixed `targets` [B, 2]. Mixup of two images has the
    mixture of their numbers as its target; a picture pasted together by CutMix has none.

    Attributes:
      loss_name: "mse", "mae" or "huber"; see `value_losses`.
      label_key: key of the labels in a batch: "label" for the main task, or the task's name.
      mean: of the training labels.
      std: their standard deviation.
      delta: of Huber's loss, in standard deviations.

    Raises:
      ValueError: on construction, if a field is out of range.

    Examples:
      >>> objective = Regression(mean=10.0, std=2.0)
      >>> outputs, batch = jnp.array([[0.0], [1.0]]), {"label": jnp.array([10.0, 14.0])}
      >>> float(objective.loss(outputs, batch)[0])
      0.5
      >>> objective.predictions(outputs)["predicted"].tolist()
      [10.0, 12.0]
      >>> objective.metrics(jax.device_get(objective.statistics(outputs, batch)))["mae"]
      1.0
    """

    loss_name: Loss = "mse"
    label_key: str = "label"
    mean: float = 0.0
    std: float = 1.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        one_of("loss_name", self.loss_name, get_args(Loss))
        check_positive("std", self.std)
        check_positive("delta", self.delta)
        if not math.isfinite(self.mean):
            raise ValueError(f"got mean={self.mean}; expected a finite number")

    @property
    def mixes(self) -> frozenset[Mixing]:
        """As in `Objective`: mixup alone."""
        return frozenset(("mixup",))

    @property
    def likelihood_scale(self) -> float:
        """As in `TaskObjective`: 0.5 for the squared error, 1 for the others."""
        return 0.5 if self.loss_name == "mse" else 1.0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As in `Objective`."""
        return ("loss", "mae", "rmse", "r2")

    def loss(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As in `Objective`; there are no parts."""
        values, mask = self.example_losses(outputs, batch)
        return masked_mean(weighted(values, batch), mask), {}

    def example_losses(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """As in `TaskObjective`."""
        check_outputs(outputs, 1, "the number")
        labels, mask = self._labels(batch)
        standardised = (labels - self.mean) / self.std
        values = without_masked(outputs, mask)[:, 0]
        if self.loss_name == "huber":
            losses = value_losses.huber(values, standardised, delta=self.delta)
        else:
            function = value_losses.squared if self.loss_name == "mse" else value_losses.absolute
            losses = function(values, standardised)
        return jnp.where(mask, losses, 0.0), mask

    def batch_metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the mean absolute error, in the labels' unit."""
        labels, mask = self._labels(batch)
        errors = jnp.abs(self.predictions(outputs)["predicted"] - labels)
        return {"mae": masked_mean(errors, mask)}

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the positive and the negative part of each number, [B, 2].

        Both are mixed in the same shares, so their difference is the mixture of the numbers.
        """
        labels = batch[self.label_key].astype(jnp.float32)
        parts = jnp.stack([jnp.maximum(labels, 0.0), jnp.maximum(-labels, 0.0)], -1)
        return {self.label_key: jnp.where(jnp.isnan(labels)[:, None], -1.0, parts)}

    def statistics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          Rows: `mask`; `label` float32, NaN where the example does not count; `predicted` float32,
          in the same unit; `loss` float32.
        """
        values, mask = self.example_losses(outputs, batch)
        labels, _ = self._labels(batch)
        return {
            MASK: batch.get(MASK, jnp.ones(mask.shape, bool)),
            "label": jnp.where(mask, labels, jnp.nan),
            "predicted": self.predictions(outputs)["predicted"],
            "loss": values,
        }

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """As in `Objective`.

        Returns:
          `count`, the examples with a label, and `metric_names`. `r2` does not exist where all
          labels are the same.
        """
        del costly  # There are none.
        rows = labelled_rows(statistics, ~np.isnan(statistics["label"]))
        labels = rows["label"].astype(np.float64)
        errors = rows["predicted"].astype(np.float64) - labels
        squares = errors**2
        variance = labels.var() if len(labels) else 0.0
        return {
            "count": len(labels),
            "loss": mean_or_none(rows["loss"]),
            "mae": mean_or_none(np.abs(errors)),
            "rmse": finite_or_none(np.sqrt(squares.mean())) if len(labels) else None,
            "r2": finite_or_none(1 - squares.mean() / variance) if variance else None,
        }

    def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          `predicted` float32 [B], in the labels' unit.
        """
        check_outputs(outputs, 1, "the number")
        return {"predicted": outputs.astype(jnp.float32)[:, 0] * self.std + self.mean}

    def _labels(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the labels [B], 0 where they do not count, and which do, bool [B]."""
        labels = batch[self.label_key].astype(jnp.float32)
        if labels.ndim == 2:
            is_missing = (labels < 0).any(-1)
            labels = jnp.where(is_missing, jnp.nan, labels[:, 0] - labels[:, 1])
        mask = example_mask(batch, ~jnp.isnan(labels))
        return jnp.where(mask, labels, 0.0), mask

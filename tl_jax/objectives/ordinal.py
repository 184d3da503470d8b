"""The objective of ordered levels: losses, metrics and predictions that know their order."""

import dataclasses
from collections.abc import Collection
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.objectives import metrics, ordinal_losses
from tl_jax.objectives.metrics import mean_or_none
from tl_jax.objectives.objective import (
    MASK,
    Batch,
    Mixing,
    Rows,
    check_outputs,
    example_mask,
    labelled_rows,
    masked_mean,
    one_of,
    one_per_class,
    weighted,
    without_masked,
)


@dataclasses.dataclass(frozen=True)
class Ordinal:
    """One of K ordered levels per example; the outputs are K - 1 logits, [B, K - 1].

    `ordinal_losses` says what the logits mean and how probabilities are made of them. The predicted
    level is the median of these; levels are mixed by nothing, since halfway between levels 0 and 2
    is not level 1. The labels are int [B], 0 to K - 1, -1 where missing.

    Attributes:
      num_levels: K.
      loss_name: "coral", for a head whose logits share one weight vector; or "corn", for any head.
      label_key: key of the labels in a batch: "label" for the main task, or the task's name.
      importance: factor of each of the K - 1 questions whether the level is higher than 0, 1, ...;
        None for 1. In evaluation it is 1.

    Raises:
      ValueError: on construction, if a field is out of range.

    Examples:
      >>> objective = Ordinal(3)
      >>> logits, batch = jnp.array([[4.0, -2.0], [4.0, 2.0]]), {"label": jnp.array([1, 0])}
      >>> found = objective.metrics(jax.device_get(objective.statistics(logits, batch)))
      >>> found["accuracy"], found["mae"]
      (0.5, 1.0)
      >>> objective.predictions(logits)["predicted"].tolist()
      [1, 2]
    """

    num_levels: int
    loss_name: ordinal_losses.Form = "coral"
    label_key: str = "label"
    importance: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        one_of("loss_name", self.loss_name, get_args(ordinal_losses.Form))
        if self.num_levels < 2:
            raise ValueError(f"got num_levels={self.num_levels}; expected 2 or more")
        one_per_class("importance", self.importance, self.num_levels - 1)

    @property
    def mixes(self) -> frozenset[Mixing]:
        """As in `Objective`: none."""
        return frozenset()

    @property
    def likelihood_scale(self) -> float:
        """As in `TaskObjective`."""
        return 1.0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As in `Objective`."""
        return (
            "loss", "accuracy", "balanced_accuracy", "macro_f1", "mae", "quadratic_kappa", "kappa",
            "log_loss",
        )  # fmt: skip

    def loss(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As in `Objective`; there are no parts."""
        values, mask = self.example_losses(outputs, batch)
        return masked_mean(weighted(values, batch), mask), {}

    def example_losses(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """As in `TaskObjective`."""
        return self._losses(outputs, batch, self.importance)

    def batch_metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the accuracy."""
        labels = batch[self.label_key]
        predicted = ordinal_losses.predicted_levels(outputs, self.loss_name)
        return {"accuracy": masked_mean(predicted == labels, example_mask(batch, labels >= 0))}

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """Raises a ValueError: ordered levels cannot be mixed."""
        raise self._mixing_error()

    def statistics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          Rows: `mask`; `label` int32, -1 where the example does not count; `predicted` int32;
          `loss` and `log_loss` float32; `probabilities` float32 [B, K]. A probability of less than
          1.2e-7 is taken as this for the log-loss, as in scikit-learn: contradicting answers give a
          level the probability 0.
        """
        values, mask = self._losses(outputs, batch, None)
        labels = jnp.where(mask, batch[self.label_key], -1).astype(jnp.int32)
        found = self.predictions(outputs)
        own = jnp.take_along_axis(found["probabilities"], jnp.maximum(labels, 0)[:, None], -1)[:, 0]
        return {
            MASK: batch.get(MASK, jnp.ones(mask.shape, bool)),
            "label": labels,
            "predicted": found["predicted"],
            "loss": values,
            "log_loss": -jnp.log(jnp.maximum(own, np.finfo(np.float32).eps)),
            "probabilities": found["probabilities"],
        }

    def confusion(self, statistics: Rows) -> metrics.Counts:
        """Returns the confusion matrix of a split, [K, K], true by predicted level."""
        return metrics.count(
            statistics["label"], statistics["predicted"], num_classes=self.num_levels
        )

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """As in `Objective`.

        Returns:
          The metrics of `tl_jax.objectives.metrics.summarize`, those of `metric_names`, and
          `confusion`, the matrix as lists.
        """
        del costly  # There are none.
        confusion = np.asarray(self.confusion(statistics))
        rows = labelled_rows(statistics, statistics["label"] >= 0)
        errors = np.abs(rows["predicted"].astype(np.int64) - rows["label"])
        found = metrics.summarize(confusion, 0.0) | {
            "loss": mean_or_none(rows["loss"]),
            "mae": mean_or_none(errors),
            "quadratic_kappa": metrics.cohen_kappa(confusion, quadratic=True),
            "kappa": metrics.cohen_kappa(confusion),
            "log_loss": mean_or_none(rows["log_loss"]),
            "confusion": confusion.tolist(),
        }
        return found if found["count"] else found | dict.fromkeys(self.metric_names)

    def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          `probabilities` of the levels, float32 [B, K]; `predicted`, the median level, int32 [B];
          `expected`, the mean level, float32 [B].
        """
        check_outputs(outputs, self.num_levels - 1, "one for each level but the lowest")
        higher = ordinal_losses.higher_probabilities(outputs, self.loss_name)
        return {
            "probabilities": ordinal_losses.level_probabilities(outputs, self.loss_name),
            "predicted": ordinal_losses.predicted_levels(outputs, self.loss_name),
            "expected": higher.sum(-1),
        }

    def _mixing_error(self) -> ValueError:
        return ValueError(
            f"got mixup or CutMix for the ordered levels of {self.label_key!r}; expected none: a "
            "mixture of two levels is no level between them. Turn mixing off, or train the levels "
            "as plain classes"
        )

    def _losses(
        self, outputs: jax.Array, batch: Batch, importance: tuple[float, ...] | None
    ) -> tuple[jax.Array, jax.Array]:
        check_outputs(outputs, self.num_levels - 1, "one for each level but the lowest")
        labels = batch[self.label_key]
        function = ordinal_losses.coral if self.loss_name == "coral" else ordinal_losses.corn
        if labels.ndim != 1 or jnp.issubdtype(labels.dtype, jnp.floating):
            raise self._mixing_error()
        mask = example_mask(batch, labels >= 0)
        values = function(without_masked(outputs, mask), labels, importance=importance)
        return jnp.where(mask, values, 0.0), mask

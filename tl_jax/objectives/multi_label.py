"""The objective of any number of classes per example: losses, metrics and predictions by class."""

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.objectives import metrics, multi_label_losses, ranking
from tl_jax.objectives.metric_names import is_needed
from tl_jax.objectives.metrics import mean_or_none
from tl_jax.objectives.multi_label_metrics import decisions, of_counts, of_ranking, ratio
from tl_jax.objectives.objective import (
    MASK,
    Batch,
    Mixing,
    Rows,
    check_outputs,
    example_mask,
    labelled_rows,
    loss_sum,
    masked_mean,
    one_of,
    one_per_class,
    weighted,
)

Loss = Literal["binary_cross_entropy", "focal", "asymmetric"]

_COUNTED = (
    "loss", "macro_f1", "micro_f1", "macro_precision", "micro_precision", "macro_recall",
    "micro_recall", "exact_match", "hamming_loss",
)  # fmt: skip
_RANKED = (*ranking.MEANS, "micro_auc")


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Any number of C classes per example; the outputs are a logit for each class, [B, C].

    The labels are [B, C]: 1 where an example has the class, 0 where not, -1 where that is not
    known; after mixing a share between 0 and 1. The loss of an example is the mean over its known
    classes, and an example without any does not count. In evaluation the loss is without positive
    weights and smoothing.

    Attributes:
      num_classes: C.
      loss_name: "binary_cross_entropy", "focal" or "asymmetric"; see `multi_label_losses`.
      label_key: key of the labels in a batch: "label" for the main task, or the task's name.
      label_smoothing: of the binary cross-entropy.
      positive_weights: of the binary cross-entropy: factors of the positives of each class, C
        numbers (`class_weights.positive_weights`); None for 1.
      focal_gamma, focal_alpha: of the focal loss.
      gamma_positive, gamma_negative, margin: of the asymmetric loss.
      thresholds: probability from which on a class is predicted: one for all, or C of them
        (`calibration.f1_thresholds`).

    Raises:
      ValueError: on construction, if a field is out of range.

    Examples:
      >>> objective = MultiLabel(2, thresholds=(0.5, 0.2))
      >>> logits, batch = jnp.array([[2.0, -1.0]]), {"label": jnp.array([[1, 0]], jnp.int8)}
      >>> objective.predictions(logits)["predicted"].tolist()
      [[True, True]]
      >>> found = objective.metrics(jax.device_get(objective.statistics(logits, batch)))
      >>> found["hamming_loss"], found["exact_match"], found["recall"]
      (0.5, 0.0, [1.0, None])
    """

    num_classes: int
    loss_name: Loss = "binary_cross_entropy"
    label_key: str = "label"
    label_smoothing: float = 0.0
    positive_weights: tuple[float, ...] | None = None
    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    margin: float = 0.05
    thresholds: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        one_of("loss_name", self.loss_name, get_args(Loss))
        one_per_class("positive_weights", self.positive_weights, self.num_classes)
        if isinstance(self.thresholds, tuple):
            one_per_class("thresholds", self.thresholds, self.num_classes)
        for name in ("focal_gamma", "gamma_positive", "gamma_negative"):
            value = dataclasses.asdict(self)[name]
            if not value >= 0:
                raise ValueError(f"got {name}={value}; expected 0 or more")
        if not 0 <= self.margin < 1:
            raise ValueError(f"got margin={self.margin}; expected a number in [0, 1)")

    @property
    def mixes(self) -> frozenset[Mixing]:
        """As in `Objective`: both."""
        return frozenset(("mixup", "cutmix"))

    @property
    def likelihood_scale(self) -> float:
        """As in `TaskObjective`."""
        return 1.0

    @property
    def has_logits(self) -> bool:
        """Whether the statistics hold the logits; beyond 2,000 classes they do not."""
        return self.num_classes <= metrics.MAX_MATRIX_CLASSES

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As in `Objective`."""
        return _COUNTED + (_RANKED if self.has_logits else ())

    def loss(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As in `Objective`; there are no parts."""
        values, mask = self.example_losses(outputs, batch)
        return masked_mean(weighted(values, batch), mask), {}

    def example_losses(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """As in `TaskObjective`."""
        labels, mask = self._labels(outputs, batch)
        values = self._losses(outputs, labels, self.positive_weights, self.label_smoothing)
        return jnp.where(mask, values, 0.0), mask

    def batch_metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the share of known classes that are predicted rightly."""
        labels, _ = self._labels(outputs, batch)
        is_right = self.predictions(outputs)["predicted"] == (labels > 0.5)
        return {"class_accuracy": masked_mean(is_right.ravel(), (labels >= 0).ravel())}

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the labels as floats, [B, C]."""
        return {self.label_key: batch[self.label_key].astype(jnp.float32)}

    def statistics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          Rows: `mask`; `label` int8 [B, C], a row of -1 where the example does not count; `loss`
          float32; and `logits` float32 [B, C]. Beyond 2,000 classes these give way to `known` and
          `wrong`, the numbers of known and of wrongly predicted classes, int32 [B], and
          `decision_counts`, int32 [1, C, 3], sums over the batch: of examples with the class, those
          predicted to have it, and both.
        """
        labels, mask = self._labels(outputs, batch)
        rows = {
            MASK: batch.get(MASK, jnp.ones(mask.shape, bool)),
            "loss": jnp.where(mask, self._losses(outputs, labels, None, 0.0), 0.0),
        }
        if self.has_logits:
            logits = outputs.astype(jnp.float32)
            return rows | {"label": labels.astype(jnp.int8), "logits": logits}
        known, actual = labels >= 0, labels == 1
        predicted = self.predictions(outputs)["predicted"] & known
        counts = [values.sum(0) for values in (actual, predicted, actual & predicted)]
        return rows | {
            "known": known.sum(-1),
            "wrong": (actual != predicted).sum(-1),
            "decision_counts": jnp.stack(counts, -1)[None],
        }

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """As in `Objective`.

        Returns:
          `count`, the examples with a known class; `metric_names`; `precision`, `recall`, `f1`,
          `positives` by class and `thresholds`; and those of `ranking.summarize` if the classes are
          at most 2,000. A class without positives is left out of the means of F1, recall and the
          ranking, and has None in the lists; one that is never predicted has a precision of 0.
        """
        if self.has_logits:
            statistics = statistics | decisions(statistics, self.thresholds)
        rows = labelled_rows(statistics, statistics["known"] > 0)
        counts = statistics["decision_counts"].sum(0, dtype=np.int64)
        found = {
            "count": len(rows["known"]),
            "loss": metrics.finite_or_none(loss_sum(rows) / max(len(rows["known"]), 1)),
            **of_counts(counts),
            "exact_match": mean_or_none(rows["wrong"] == 0),
            "hamming_loss": ratio(int(rows["wrong"].sum()), int(rows["known"].sum())),
            "thresholds": np.broadcast_to(self.thresholds, self.num_classes).tolist(),
        }
        if self.has_logits and is_needed(costly, _RANKED):
            found |= of_ranking(rows["logits"], rows["label"])
        return found if found["count"] else found | dict.fromkeys(self.metric_names)

    def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          `probabilities` float32 [B, C] and `predicted` bool [B, C], from the thresholds on.
        """
        check_outputs(outputs, self.num_classes, "a logit for each class")
        probabilities = jax.nn.sigmoid(outputs.astype(jnp.float32))
        return {
            "probabilities": probabilities,
            "predicted": probabilities >= jnp.asarray(self.thresholds, jnp.float32),
        }

    def _labels(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the labels [B, C], -1 where they do not count, and which examples do, [B]."""
        check_outputs(outputs, self.num_classes, "a logit for each class")
        labels = batch[self.label_key]
        mask = example_mask(batch, (labels >= 0).any(-1))
        return jnp.where(mask[:, None], labels, -1), mask

    def _losses(
        self,
        logits: jax.Array,
        labels: jax.Array,
        positive_weights: tuple[float, ...] | None,
        label_smoothing: float,
    ) -> jax.Array:
        if self.loss_name == "binary_cross_entropy":
            return multi_label_losses.binary_cross_entropy(
                logits, labels, positive_weights=positive_weights, label_smoothing=label_smoothing
            )
        if self.loss_name == "focal":
            return multi_label_losses.focal(
                logits, labels, gamma=self.focal_gamma, alpha=self.focal_alpha
            )
        return multi_label_losses.asymmetric(
            logits,
            labels,
            gamma_positive=self.gamma_positive,
            gamma_negative=self.gamma_negative,
            margin=self.margin,
        )

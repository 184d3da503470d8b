"""The objective of one class per example: losses, metrics and predictions of a softmax."""

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.objectives import class_weights, losses, metrics, ranking, reliability
from tl_jax.objectives.metric_names import is_needed
from tl_jax.objectives.metrics import mean_or_none
from tl_jax.objectives.objective import (
    MASK,
    Batch,
    Mixing,
    Rows,
    check_outputs,
    check_positive,
    example_mask,
    labelled_rows,
    loss_sum,
    masked_mean,
    one_of,
    one_per_class,
    weighted,
    without_masked,
)

Loss = Literal["cross_entropy", "focal", "mse", "mse_logits"]

_SCALARS = (
    "loss", "accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "brier",
    "calibration_error",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SingleLabel:
    """One of C classes per example; the outputs are the logits of a softmax, [B, C].

    The labels are int [B], -1 where missing, or mixed targets, float [B, C], of which a row with
    a negative number is missing. In evaluation the loss is without smoothing, class weights and
    logit adjustment, so that it is comparable between them.

    Attributes:
      num_classes: C.
      loss_name: "cross_entropy", "focal" (`losses.focal`), "mse" of the softmax or "mse_logits" of
        the logits (`losses.squared_error`).
      label_key: key of the labels in a batch: "label" for the main task, or the task's name.
      label_smoothing: share of the target that is spread evenly over the classes.
      focal_gamma: of the focal loss.
      class_weights: factor of each class, C numbers, such as those of `class_weights`; the loss of
        a batch is the mean over its examples, not divided by their weights. None for 1.
      logit_adjustment: tau of `losses.adjusted_logits`; 0 for none.
      class_counts: training examples of each class, C numbers, for the logit adjustment.
      partly_labelled: whether labels may be missing in training; in evaluation they may always.
        With False a missing label would count as an example with a loss of 0. Where none is
        missing the loss is the same, up to its last bit.
      temperature: divides the logits for the probabilities of metrics and predictions
        (`calibration.temperature`), not for the loss.

    Raises:
      ValueError: on construction, if a field is out of range.

    Examples:
      >>> objective = SingleLabel(3)
      >>> logits, batch = jnp.array([[2.0, 0.0, 0.0]]), {"label": jnp.array([0])}
      >>> loss, _ = objective.loss(logits, batch)
      >>> rows = jax.device_get(objective.statistics(logits, batch))
      >>> round(float(loss), 3), objective.metrics(rows)["accuracy"]
      (0.24, 1.0)
      >>> objective.predictions(logits)["predicted"].tolist()
      [0]
    """

    num_classes: int
    loss_name: Loss = "cross_entropy"
    label_key: str = "label"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    class_weights: tuple[float, ...] | None = None
    logit_adjustment: float = 0.0
    class_counts: tuple[int, ...] | None = None
    partly_labelled: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("loss_name", self.loss_name, get_args(Loss))
        one_per_class("class_weights", self.class_weights, self.num_classes)
        one_per_class("class_counts", self.class_counts, self.num_classes)
        check_positive("temperature", self.temperature)
        if self.focal_gamma < 0:
            raise ValueError(f"got focal_gamma={self.focal_gamma}; expected 0 or more")
        if self.logit_adjustment and self.class_counts is None:
            raise ValueError(
                f"got logit_adjustment={self.logit_adjustment} without class_counts; pass the "
                "number of training examples of each class"
            )

    @property
    def has_logits(self) -> bool:
        """Whether the statistics hold the logits; beyond 2,000 classes they do not."""
        return self.num_classes <= metrics.MAX_MATRIX_CLASSES

    @property
    def mixes(self) -> frozenset[Mixing]:
        """As in `Objective`: both."""
        return frozenset(("mixup", "cutmix"))

    @property
    def likelihood_scale(self) -> float:
        """As in `TaskObjective`."""
        return 1.0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As in `Objective`."""
        return (
            *_SCALARS,
            *(("top5_accuracy",) if self.num_classes > 5 else ()),
            *(("macro_auc", "mean_average_precision", "kappa") if self.has_logits else ()),
        )

    def loss(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As in `Objective`; there are no parts."""
        check_outputs(outputs, self.num_classes, "a logit for each class")
        if self.partly_labelled or MASK in batch:
            values, mask = self.example_losses(outputs, batch)
            return masked_mean(weighted(values, batch), mask), {}
        return weighted(self._training_losses(outputs, batch[self.label_key]), batch).mean(), {}

    def example_losses(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """As in `TaskObjective`."""
        check_outputs(outputs, self.num_classes, "a logit for each class")
        labels = batch[self.label_key]
        mask = example_mask(batch, _is_known(labels))
        values = self._training_losses(without_masked(outputs, mask), labels)
        return jnp.where(mask, values, 0.0), mask

    def batch_metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: the accuracy."""
        labels = batch[self.label_key]
        is_right = jnp.argmax(outputs, -1) == labels
        if self.partly_labelled or MASK in batch:
            return {"accuracy": masked_mean(is_right, example_mask(batch, _is_known(labels)))}
        return {"accuracy": is_right.mean()}

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`: one-hot labels, [B, C]."""
        labels = batch[self.label_key]
        targets = jax.nn.one_hot(labels, self.num_classes)
        if self.partly_labelled:
            targets = jnp.where(_is_known(labels)[:, None], targets, -1.0)
        return {self.label_key: targets}

    def statistics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          Rows: `mask`; `label` int32, -1 where the example does not count; `predicted` int32;
          `loss` float32; `logits` float32 [B, C], or beyond 2,000 classes `rank`, `confidence`,
          `log_loss` and `brier` (`reliability.ClassScores`). And `loss_sum`, float32 [1].
        """
        check_outputs(outputs, self.num_classes, "a logit for each class")
        labels = batch[self.label_key]
        mask = example_mask(batch, _is_known(labels))
        loss = jnp.where(mask, self._losses(outputs, labels), 0.0)
        # The rows are computed apart from the sum: a program that returns what it adds up may do so
        # in another order, and the sum is to have the same bits as without them.
        apart = self._losses(jax.lax.optimization_barrier(outputs), labels)
        rows = {
            MASK: batch.get(MASK, jnp.ones(labels.shape, bool)),
            "label": jnp.where(mask, labels, -1).astype(jnp.int32),
            "predicted": jnp.argmax(outputs, -1).astype(jnp.int32),
            "loss": jnp.where(mask, apart, 0.0),
            "loss_sum": loss.sum()[None],
        }
        logits = outputs.astype(jnp.float32)
        if self.has_logits:
            return rows | {"logits": logits}
        return rows | _compact_scores(logits / self.temperature, labels)

    def confusion(self, statistics: Rows) -> metrics.Counts:
        """Returns the confusion matrix of a split; `ClassCounts` beyond 2,000 classes."""
        return metrics.count(
            statistics["label"], statistics["predicted"], num_classes=self.num_classes
        )

    def metrics(self, statistics: Rows, *, costly: Collection[str] | None = None) -> dict[str, Any]:
        """As in `Objective`.

        Returns:
          The metrics of `tl_jax.objectives.metrics.summarize`, those of `metric_names`, `f1` by
          class, `reliability` (`Reliability.as_json`), and `auc`, `average_precision` by class and
          `classes_without_positives` (`ranking.summarize`).
        """
        confusion = self.confusion(statistics)
        rows = labelled_rows(statistics, statistics["label"] >= 0)
        found = metrics.summarize(confusion, loss_sum(statistics))
        counts = metrics.by_class(confusion)
        f1 = 2 * counts.hits / np.maximum(counts.actual + counts.predicted, 1)
        found["loss"] = metrics.finite_or_none(found["loss"])
        found |= {"f1": f1.tolist(), "micro_f1": found["accuracy"]}
        if isinstance(confusion, np.ndarray):
            found["kappa"] = metrics.cohen_kappa(confusion)
        found |= self._probability_metrics(rows, is_ranked=is_needed(costly, ranking.MEANS))
        return found if found["count"] else found | dict.fromkeys(self.metric_names)

    def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
        """As in `Objective`.

        Returns:
          `probabilities` float32 [B, C] and `predicted`, the likeliest class, int32 [B].
        """
        check_outputs(outputs, self.num_classes, "a logit for each class")
        return {
            "probabilities": jax.nn.softmax(outputs.astype(jnp.float32) / self.temperature),
            "predicted": jnp.argmax(outputs, -1).astype(jnp.int32),
        }

    def _training_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        if self.logit_adjustment:
            priors = class_weights.log_priors(self.class_counts or ())
            logits = losses.adjusted_logits(logits, priors, tau=self.logit_adjustment)
        return self._losses(
            logits,
            labels,
            label_smoothing=self.label_smoothing,
            weights=self.class_weights,
        )

    def _losses(
        self,
        logits: jax.Array,
        labels: jax.Array,
        *,
        label_smoothing: float = 0.0,
        weights: tuple[float, ...] | None = None,
    ) -> jax.Array:
        if self.loss_name == "cross_entropy":
            return losses.example_cross_entropy(
                logits, labels, label_smoothing=label_smoothing, class_weights=weights
            )
        if self.loss_name == "focal":
            return losses.focal(
                logits,
                labels,
                gamma=self.focal_gamma,
                label_smoothing=label_smoothing,
                class_weights=weights,
            )
        return losses.squared_error(
            logits,
            labels,
            over="softmax" if self.loss_name == "mse" else "logits",
            label_smoothing=label_smoothing,
            class_weights=weights,
        )

    def _probability_metrics(self, rows: Rows, *, is_ranked: bool) -> dict[str, Any]:
        """Returns the metrics of probabilities, of rows whose label is known."""
        labels, rankings = rows["label"], {}
        if self.has_logits:
            logits = rows["logits"] / np.float32(self.temperature)
            scores = reliability.class_scores(logits, labels)
            scored = dataclasses.asdict(scores)
            if is_ranked:
                rankings = _rankings(logits, labels, scores.log_normalizer)
        else:
            scored = {name: rows[name].astype(np.float64) for name in _COMPACT}
        diagram = reliability.reliability(scored["confidence"], rows["predicted"] == labels)
        top5 = {"top5_accuracy": mean_or_none(scored["rank"] < 5)} if self.num_classes > 5 else {}
        return {
            "log_loss": mean_or_none(scored["log_loss"]),
            "brier": mean_or_none(scored["brier"]),
            "calibration_error": diagram.expected_error,
            "reliability": diagram.as_json(),
            **top5,
            **rankings,
        }


def _rankings(logits: np.ndarray, labels: np.ndarray, log_normalizer: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of how the probabilities of each class rank the examples."""
    by_class = np.ascontiguousarray(logits.T)

    def column(index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(by_class[index].astype(np.float64) - log_normalizer), labels == index

    return ranking.summarize(ranking.by_class(column, logits.shape[1]))


_COMPACT = ("rank", "confidence", "log_loss", "brier")


def _compact_scores(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Returns `reliability.ClassScores` as rows, computed on the device."""
    known = jnp.maximum(labels, 0)
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, known[:, None], -1)
    is_before = jnp.arange(logits.shape[1]) < known[:, None]
    own_logit = jnp.take_along_axis(logits, known[:, None], -1)
    ahead = (logits > own_logit) | ((logits == own_logit) & is_before)
    p = jnp.exp(log_p)
    return {
        "rank": ahead.sum(-1).astype(jnp.int32),
        "confidence": p.max(-1),
        "log_loss": -own[:, 0],
        "brier": (p**2).sum(-1) - 2 * jnp.exp(own[:, 0]) + 1,
    }


def _is_known(labels: jax.Array) -> jax.Array:
    """Returns whether each label is known, bool [B], of labels [B] or targets [B, C]."""
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(-1)

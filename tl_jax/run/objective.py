"""The objective of a run, made of its tasks, their options and counts of the training labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tl_jax import messages
from tl_jax.config import AugmentConfig, Config, TaskConfig
from tl_jax.config.tasks import LOSSES, check_choices
from tl_jax.data import inputs
from tl_jax.data.source import Task, label_keys
from tl_jax.objectives import class_weights, metric_names
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import Objective, TaskObjective
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run import tasks as run_tasks

Head = Literal["linear", "mlp", "cosine"]


@dataclasses.dataclass(frozen=True)
class LabelStatistics:
    """What the loss of a task needs of the training labels.

    Attributes:
      missing: examples without a label.
      counts: examples of each class or level; of a multi-label task those that have the class.
      negatives: of a multi-label task, those that are known not to have the class.
      mean: of the numbers of a regression.
      std: their standard deviation.
    """

    missing: int = 0
    counts: tuple[int, ...] = ()
    negatives: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, task: Task, labels: np.ndarray) -> "LabelStatistics":
        """Counts the labels of a task, in the form of `Source.task_labels`.

        Examples:
          >>> LabelStatistics.of(Task("kind", ("cat", "dog")), np.array([0, 1, 1, -1])).counts
          (1, 2)
        """
        missing = int(task.missing(labels).sum())
        if task.kind == "regression":
            (mean,), (std,) = inputs.moments(labels[:, None])
            return cls(missing, mean=mean, std=std or 1.0)
        if task.multi_label:
            positive, negative = ((labels == value).sum(0).tolist() for value in (1, 0))
            return cls(missing, tuple(positive), tuple(negative))
        counts = np.bincount(labels[labels >= 0], minlength=len(task.class_names))
        return cls(missing, tuple(counts.tolist()))


def label_statistics(
    tasks: Sequence[Task], labels: Mapping[str, np.ndarray]
) -> tuple[LabelStatistics, ...]:
    """Returns the statistics of the labels of each task, by key as in `Source.task_labels`."""
    return tuple(
        LabelStatistics.of(task, labels[key])
        for key, task in zip(label_keys(tasks), tasks, strict=True)
    )


def make_objective(
    config: Config, tasks: Sequence[Task], statistics: Sequence[LabelStatistics]
) -> Objective:
    """Returns the objective of a run: of its one task, or of several.

    Args:
      config: the experiment.
      tasks: what it learns.
      statistics: of the training labels of each task.

    Raises:
      ValueError: if an option is not for the kind of its task.

    Examples:
      >>> statistics = (LabelStatistics(counts=(5, 5)),)
      >>> make_objective(Config(), (Task("kind", ("cat", "dog")),), statistics).num_classes
      2
    """
    options = run_tasks.task_options(config, tasks)
    _check_smoothing(config, options, tasks)
    made = {
        task.name: _objective(config, option, task, counted, key)
        for task, option, counted, key in zip(
            tasks, options, statistics, label_keys(tasks), strict=True
        )
    }
    if len(made) == 1:
        if config.train.task_weighting != "fixed":
            raise ValueError(
                f"train.task_weighting {config.train.task_weighting!r} is for several tasks; the "
                f"run learns {tasks[0].name!r} alone: set it to 'fixed'"
            )
        return next(iter(made.values()))
    return MultiTask(
        made,
        weights={option.name: option.weight for option in options},
        learned_weights=config.train.task_weighting == "learned",
    )


def loss_of(config: Config, options: TaskConfig, task: Task) -> str:
    """Returns the loss of a task, that of its kind for "auto"."""
    if options.loss != "auto":
        return options.loss
    if task.kind == "ordinal" and head_of(config, options, task) != "linear":
        return "corn"
    return LOSSES[task.kind][0]


def head_of(config: Config, options: TaskConfig, task: Task) -> Head:
    """Returns the kind of a task's head: "linear", "mlp" or "cosine"."""
    if options.head != "auto":
        return options.head
    head = config.model.head
    is_of_classes = task.kind in ("multi_class", "multi_label")
    return head if is_of_classes or head != "cosine" else "linear"


def num_outputs(task: Task) -> int:
    """Returns the outputs of a task's head: classes, levels but one, or one for a number."""
    if task.kind == "regression":
        return 1
    return len(task.class_names) - (task.kind == "ordinal")


def check_metric(config: Config, objective: Objective) -> None:
    """Checks that the objective has the metric of `train.best_metric`, and that a target is one.

    Without an evaluation split there is nothing to check.

    Raises:
      ValueError: if not; the message names the nearest.
    """
    if config.data.eval_split is None:
        return
    best, target = config.train.best_metric, config.train.target
    try:
        metric = metric_names.metric(best, objective.metric_names)
    except ValueError as error:
        raise ValueError(f"train.best_metric: {error}") from None
    if target is not None and not metric.lower_is_better and not 0 <= target <= 1:
        raise ValueError(
            f"got train.target {target:g} for train.best_metric {best!r}, which is a share "
            "in [0, 1]: write 0.95 for 95 percent"
        )


def check_mixing(augment: AugmentConfig, objective: Objective) -> None:
    """Checks that the labels can be mixed in the configured ways.

    Raises:
      ValueError: if not.
    """
    wanted = {"mixup": augment.mixup, "cutmix": augment.cutmix}
    refused = [name for name, alpha in wanted.items() if alpha and name not in objective.mixes]
    if refused:
        raise ValueError(
            f"augment.{refused[0]} is {wanted[refused[0]]:g}, but the labels cannot be mixed so: "
            "ordered levels have no mixture, and numbers none of pasted pictures; set it to 0"
        )


def _objective(
    config: Config, options: TaskConfig, task: Task, counted: LabelStatistics, key: str
) -> TaskObjective:
    check_choices(options, task.kind)
    loss = loss_of(config, options, task)
    smoothing = _first_given(options.label_smoothing, config.train.label_smoothing)
    if task.kind == "multi_class":
        return SingleLabel(
            len(task.class_names),
            loss,  # type: ignore[arg-type]  # `check_choices` looked.
            key,
            label_smoothing=smoothing,
            focal_gamma=options.focal_gamma,
            class_weights=_class_weights(options, task, counted),
            logit_adjustment=options.logit_tau if options.balance == "logit_adjustment" else 0.0,
            class_counts=counted.counts if options.balance == "logit_adjustment" else None,
            partly_labelled=counted.missing > 0,
        )
    if task.kind == "multi_label":
        thresholds = options.thresholds or (0.5,)
        return MultiLabel(
            len(task.class_names),
            loss,  # type: ignore[arg-type]
            key,
            label_smoothing=smoothing,
            positive_weights=_class_weights(options, task, counted),
            focal_gamma=options.focal_gamma,
            focal_alpha=options.focal_alpha,
            gamma_positive=options.gamma_positive,
            gamma_negative=options.gamma_negative,
            margin=options.margin,
            thresholds=thresholds[0] if len(thresholds) == 1 else thresholds,
        )
    if task.kind == "ordinal":
        importance = _class_weights(options, task, counted)
        return Ordinal(len(task.class_names), loss, key, importance)  # type: ignore[arg-type]
    return Regression(loss, key, counted.mean, counted.std, options.huber_delta)  # type: ignore[arg-type]


def _class_weights(
    options: TaskConfig, task: Task, counted: LabelStatistics
) -> tuple[float, ...] | None:
    """Returns the weights of a task's classes: as given, or by their counts; None for none."""
    if options.class_weights:
        expected = num_outputs(task)
        if len(options.class_weights) != expected:
            raise ValueError(
                f"tasks.class_weights of {task.name!r} are {len(options.class_weights)} numbers; "
                f"expected {expected}, in the order of {messages.some(task.class_names)}"
            )
        return options.class_weights
    if options.balance == "inverse_frequency":
        return class_weights.inverse_frequency(counted.counts)
    if options.balance == "effective_number":
        return class_weights.effective_number(counted.counts, beta=options.effective_beta)
    if options.balance == "positive_weights":
        return class_weights.positive_weights(counted.counts, counted.negatives)
    return None


def _check_smoothing(config: Config, options: Sequence[TaskConfig], tasks: Sequence[Task]) -> None:
    """Refuses label smoothing that no task would use."""
    smoothed = [task.name for task in tasks if task.kind in ("multi_class", "multi_label")]
    asked = [each.name for each in options if each.label_smoothing and each.name not in smoothed]
    if asked or (config.train.label_smoothing and not smoothed):
        where = f"tasks.label_smoothing of {asked[0]!r}" if asked else "train.label_smoothing"
        raise ValueError(f"{where} is for classes, and not for levels and numbers; set it to 0")


def _first_given(*values: float | None) -> float:
    return next(value for value in values if value is not None)

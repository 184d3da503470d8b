"""The list `tasks`: what is learned of each image, with which loss, and how imbalance is met."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from tl_jax.config import checks

TaskKind = Literal["multi_class", "multi_label", "ordinal", "regression"]
LossName = Literal[
    "cross_entropy", "focal", "mse", "mse_logits", "binary_cross_entropy", "asymmetric", "coral",
    "corn", "mae", "huber",
]  # fmt: skip

LOSSES: dict[TaskKind, tuple[str, ...]] = {
    "multi_class": ("cross_entropy", "focal", "mse", "mse_logits"),
    "multi_label": ("binary_cross_entropy", "focal", "asymmetric"),
    "ordinal": ("coral", "corn"),
    "regression": ("mse", "mae", "huber"),
}
"""The losses of each kind of task; the first is the default."""

BALANCES: dict[TaskKind, tuple[str, ...]] = {
    "multi_class": ("inverse_frequency", "effective_number", "logit_adjustment"),
    "multi_label": ("positive_weights",),
    "ordinal": (),
    "regression": (),
}
"""What the loss of each kind of task can do about imbalance."""


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A task: its labels, its loss, its head and its weight among the tasks.

    Imbalance of classes is met in one of three ways (`docs/tasks.md`): by
    `data.sampling`, by weights in the loss (`balance` "inverse_frequency", "effective_number",
    "positive_weights", or `class_weights`), or by "logit_adjustment".
    """

    name: str = ""
    """Column or feature that holds the labels; the first task is the main one. Of a set with a
    single kind of label any name."""
    kind: TaskKind | Literal["auto"] = "auto"
    """"multi_class", "multi_label", "ordinal" (levels) or "regression" (a number); "auto": as the
    data say, which for a column of a table is classes."""
    levels: tuple[str, ...] = ()
    """Of an ordinal task: its levels from low to high; empty: those of the data, or the numbers
    that occur in the column."""
    columns: tuple[str, ...] = ()
    """Of a multi-label task: columns of 0 and 1, each a class, in place of one column."""
    loss: LossName | Literal["auto"] = "auto"
    """Classes: "cross_entropy", "focal", "mse" (of probabilities) or "mse_logits". Multi-label:
    "binary_cross_entropy", "focal" or "asymmetric". Ordinal: "coral" or "corn". Regression: "mse",
    "mae" or "huber". "auto": the first of these; "corn" for an ordinal task whose head is no
    linear one."""
    weight: float = 1.0
    """Factor of this task's loss in the sum of all tasks."""
    label_smoothing: float | None = None
    """Of classes; None: `train.label_smoothing`."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss."""
    focal_alpha: float | None = None
    """Weight of positives in the focal loss of a multi-label task, in [0, 1]; None: no weights."""
    gamma_positive: float = 0.0
    """Exponent of the asymmetric loss for positives."""
    gamma_negative: float = 4.0
    """Exponent of the asymmetric loss for negatives."""
    margin: float = 0.05
    """Probability below which the asymmetric loss ignores a negative."""
    huber_delta: float = 1.0
    """Distance from which on Huber's loss is linear, in standard deviations of the labels."""
    balance: Literal[
        "none", "inverse_frequency", "effective_number", "logit_adjustment", "positive_weights"
    ] = "none"
    """What the loss does about imbalance. Classes: "inverse_frequency" (weights as scikit-learn's
    "balanced"), "effective_number" (arXiv:1901.05555) or "logit_adjustment" (arXiv:2007.07314).
    Multi-label: "positive_weights", the negatives per positive of each class."""
    effective_beta: float = 0.999
    """Beta of "effective_number": near 1 the weights are those of "inverse_frequency"."""
    logit_tau: float = 1.0
    """Strength of "logit_adjustment"; 1 is for the balanced error."""
    class_weights: tuple[float, ...] = ()
    """Weights of the classes in place of `balance`, in the order of the classes; of a multi-label
    task those of the positives; of an ordinal one those of its levels but the lowest."""
    thresholds: tuple[float, ...] = ()
    """Probability from which on a class of a multi-label task is predicted: one, or one for each
    class; empty: 0.5."""
    head: Literal["auto", "linear", "mlp", "cosine"] = "auto"
    """Head of this task; "auto": `model.head`, but "linear" instead of "cosine" for levels and
    numbers."""
    hidden: tuple[int, ...] = ()
    """Widths of an "mlp" head; empty: `model.hidden`."""
    dropout: float | None = None
    """Dropout before this task's classifier; None: `model.head_dropout`."""

    def __post_init__(self) -> None:
        rules = {
            "weight": checks.at_least(0),
            "label_smoothing": checks.RATE,
            "focal_gamma": checks.at_least(0),
            "focal_alpha": checks.PROBABILITY,
            "gamma_positive": checks.at_least(0),
            "gamma_negative": checks.at_least(0),
            "margin": checks.RATE,
            "huber_delta": checks.POSITIVE,
            "effective_beta": checks.RATE,
            "logit_tau": checks.POSITIVE,
            "class_weights": checks.Rule("be 0 or more", lambda value: min(value, default=0) >= 0),
            "thresholds": checks.Rule(
                "be in [0, 1]", lambda value: all(0 <= each <= 1 for each in value)
            ),
            "hidden": checks.Rule(
                "be widths of 1 or more", lambda value: all(width > 0 for width in value)
            ),
            "dropout": checks.RATE,
        }
        checks.check("tasks", self, rules)
        self._check_kind()

    def _check_kind(self) -> None:
        """Checks the options that are for some kinds of task alone, where the kind is stated."""
        if self.class_weights and self.balance != "none":
            raise ValueError(
                f"tasks.class_weights and tasks.balance {self.balance!r} of {self.name!r} exclude "
                "each other: leave one out"
            )
        if self.kind == "auto":
            return
        for field, value, kind in (
            ("levels", self.levels, "ordinal"),
            ("columns", self.columns, "multi_label"),
            ("thresholds", self.thresholds, "multi_label"),
        ):
            if value and self.kind != kind:
                raise ValueError(
                    f"tasks.{field} of {self.name!r} is for the kind {kind!r}; got {self.kind!r}"
                )
        check_choices(self, self.kind)


def check_choices(task: TaskConfig, kind: TaskKind) -> None:
    """Checks that the loss and the balance of a task are among those of its kind.

    Raises:
      ValueError: if they are not.
    """
    for field, value, known in (
        ("loss", task.loss, ("auto", *LOSSES[kind])),
        ("balance", task.balance, ("none", *BALANCES[kind])),
    ):
        if value not in known:
            raise ValueError(
                f"tasks.{field} of {task.name!r}, whose kind is {kind!r}, must be one of "
                f"{', '.join(known)}; got {value!r}"
            )


def check_names(tasks: Sequence[TaskConfig]) -> None:
    """Checks that every task has a name of its own, and that only the first has `columns`.

    Raises:
      ValueError: if not.
    """
    names = [task.name for task in tasks]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"each of tasks must have a name of its own; got {names}")
    dotted = [name for name in names if "." in name or name == "log_variances"]
    if dotted and len(names) > 1:
        raise ValueError(
            f"a task among several cannot be called {dotted[0]!r}: a dot separates a task from its "
            "metric, and 'log_variances' is an output of the network; rename the column"
        )
    for task in tasks[1:]:
        if task.columns:
            raise ValueError(f"tasks.columns of {task.name!r} must be of the first task")

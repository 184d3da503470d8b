"""The section `train`: how long training lasts, and what is kept of it."""

import dataclasses
from typing import Literal

from tl_jax.config import checks
from tl_jax.objectives import metric_names

_METRIC = checks.Rule(
    "be a metric, or TASK.METRIC of several tasks",
    lambda value: value.rpartition(".")[2] in metric_names.METRICS,
    tuple(metric_names.METRICS),
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long training lasts, and what is kept of it."""

    head_epochs: int = 0
    """Epochs in which only the head is trained, before `epochs`."""
    epochs: int = 5
    """Epochs in which `transfer.trained` is trained."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    seed: int = 0
    """Seed of initialisation, order of the data, augmentation and dropout."""
    keep: int = 1
    """Number of newest checkpoints that are kept, beside the best one."""
    keep_every: int | None = None
    """Keep the checkpoints of every so many epochs too; None: of none."""
    save_every: int | None = None
    """Steps after which a checkpoint is written within an epoch, and kept until the next one; None:
    only at the end of epochs."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """If the loss or a gradient of a step is not finite: stop the run and name the step, or skip
    the step, which leaves everything as it was, and count it."""
    best_metric: str = "accuracy"
    """Metric of `data.eval_split` that chooses the best checkpoint and decides when to stop:
    "accuracy", "balanced_accuracy", "macro_f1", "loss", "macro_auc", "kappa", "mae" ...; of several
    tasks "loss" or "TASK.METRIC", such as "defect.quadratic_kappa". Without `data.eval_split` the
    last checkpoint is kept, whatever this is."""
    patience: int | None = None
    """Stop after this many epochs of the last phase without a better `best_metric`; None: never."""
    target: float | None = None
    """Stop when `best_metric` is as good as this; None: never."""
    task_weighting: Literal["fixed", "learned", "gradient_normalised"] = "fixed"
    """How the losses of several tasks are added up: by `tasks.weight` alone; by learned weights
    beside it (arXiv:1705.07115); or by it, with the tasks' gradients by the shared features scaled
    to one norm."""
    ema: float = 0.0
    """Decay of the moving average of the trained parameters; the average is what is evaluated and
    used. 0: no average."""
    log_every: int = 10
    """Steps between two records of the training loss."""
    log_grad_norm: bool = True
    """Record the norm of the gradient beside the loss. Small steps on an accelerator take a little
    longer with it; clipping does not depend on it."""

    def __post_init__(self) -> None:
        rules = {
            "head_epochs": checks.at_least(0),
            "epochs": checks.at_least(0),
            "label_smoothing": checks.RATE,
            "seed": checks.SEED,
            "keep": checks.at_least(1),
            "keep_every": checks.at_least(1),
            "save_every": checks.at_least(1),
            "best_metric": _METRIC,
            "patience": checks.at_least(1),
            "ema": checks.RATE,
            "log_every": checks.at_least(1),
        }
        checks.check("train", self, rules)
        if self.head_epochs + self.epochs == 0:
            raise ValueError(
                "train.head_epochs and train.epochs are both 0; one of them must be above 0"
            )

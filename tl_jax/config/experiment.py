"""The whole configuration of one experiment, and the rules between its sections."""

import dataclasses

from tl_jax.config import checks
from tl_jax.config.augment import AugmentConfig
from tl_jax.config.data import DataConfig
from tl_jax.config.inputs import InputsConfig
from tl_jax.config.model import RANDOM_WEIGHTS, ModelConfig
from tl_jax.config.optim import OptimConfig
from tl_jax.config.parallel import ParallelConfig
from tl_jax.config.tasks import TaskConfig, check_names
from tl_jax.config.train import TrainConfig
from tl_jax.config.transfer import TransferConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment: everything that decides its result.

    Examples:
      >>> config = Config(data=DataConfig(source="folder:photos"), train=TrainConfig(epochs=10))
      >>> dataclasses.replace(config, optim=OptimConfig(learning_rate=3e-4)).train.epochs
      10
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    inputs: InputsConfig = dataclasses.field(default_factory=InputsConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    tasks: tuple[TaskConfig, ...] = ()
    """What is learned, the main task first; empty: the labels of `data.labels`, or the main ones of
    the data. On the command line a word each: name=grade,kind=ordinal name=type,weight=0.5."""

    def __post_init__(self) -> None:
        checks.check("", self)
        self._check_tasks()
        self._check_weights()
        self._check_stopping()
        self._check_parallel()
        head, transfer = self.model.head, self.transfer
        pretrained = self.model.weights != RANDOM_WEIGHTS
        got = (
            f"; got model.head {head!r}, model.weights {self.model.weights!r}, "
            f"transfer.classifier {transfer.classifier!r}"
        )
        if transfer.classifier != "replace" and not (head == "linear" and pretrained):
            raise ValueError(
                "transfer.classifier 'load' and 'fuse' need model.head 'linear' and pretrained "
                f"weights{got}"
            )
        heads = {"class_means": ("linear", "cosine"), "small": ("linear", "mlp")}.get(
            transfer.head_init
        )
        if heads is not None and not (head in heads and transfer.classifier == "replace"):
            raise ValueError(
                f"transfer.head_init {transfer.head_init!r} needs model.head {heads[0]!r} or "
                f"{heads[1]!r} and transfer.classifier 'replace'{got}"
            )

    def _check_weights(self) -> None:
        """Refuses mixing of examples that have weights: a mixture has no weight of its own."""
        mixed = [name for name in ("mixup", "cutmix") if getattr(self.augment, name)]
        if self.data.example_weights is not None and mixed:
            raise ValueError(
                f"augment.{mixed[0]} and data.example_weights {self.data.example_weights!r} "
                "exclude each other, as the mixture of two images has no weight of its own: leave "
                "one out"
            )

    def _check_parallel(self) -> None:
        """Refuses a batch that cannot be cut into slices."""
        batch_size, slices = self.data.batch_size, self.parallel.accumulate
        if batch_size % slices:
            raise ValueError(
                f"data.batch_size {batch_size} does not divide into parallel.accumulate {slices} "
                f"slices; take a multiple, such as {-(-batch_size // slices) * slices}"
            )

    def _check_stopping(self) -> None:
        """Refuses to stop early by metrics that are not measured."""
        if self.data.eval_split is not None:
            return
        for name in ("patience", "target"):
            if getattr(self.train, name) is not None:
                raise ValueError(
                    f"train.{name} needs metrics after each epoch, and data.eval_split is None: "
                    f"name a split, or leave train.{name} out"
                )

    def _check_tasks(self) -> None:
        """Checks what tasks and inputs have to do with the other sections."""
        check_names(self.tasks)
        if self.tasks and self.data.labels:
            raise ValueError(
                f"got data.labels {', '.join(self.data.labels)} and tasks "
                f"{', '.join(task.name for task in self.tasks)}: the tasks name their labels, so "
                "leave data.labels out"
            )
        if self.inputs.views and self.data.image_column is not None:
            raise ValueError(
                f"got data.image_column {self.data.image_column!r} and inputs.views "
                f"{', '.join(self.inputs.views)}, which both name the images; leave one out"
            )

"""The folder of a run: its files, the configuration that owns it, and how a run is loaded."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp

from tl_jax import config as configuration
from tl_jax import files, trees
from tl_jax.config import Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.models.model import Model
from tl_jax.models.variables import abstract_variables
from tl_jax.objectives import metrics
from tl_jax.run.model import build_model
from tl_jax.training import sharding
from tl_jax.training.checkpoint import Checkpoints, abstract
from tl_jax.training.state import TrainState
from tl_jax.weights.sources import WeightsRecord


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a run records beside its configuration, so that it can be used without its data.

    Attributes:
      class_names: in the order of the logits.
      preprocess: the evaluation transform.
      weights: where the backbone's weights came from, with their hash; None if random.
      parameters: number of parameters.
      examples: number of examples by split.
      skipped: corrupt images that were left out, by split.
      subsets: which examples of a split were chosen (`Subset.record`), by split.
      versions: of the libraries that the numbers depend on.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    weights: WeightsRecord | None
    parameters: int
    examples: dict[str, int]
    skipped: dict[str, list[str]]
    subsets: dict[str, dict[str, Any]]
    versions: dict[str, str]

    def to_json(self) -> str:
        """Returns the record as JSON; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a record that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        # JSON has no tuples; a Preprocess is hashed as a static argument of compiled functions.
        preprocess: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields["preprocess"].items()
        }
        weights: dict[str, Any] | None = fields["weights"]
        fields |= {
            "class_names": tuple(fields["class_names"]),
            "preprocess": Preprocess(**preprocess),
            "weights": None if weights is None else WeightsRecord(**weights),
        }
        return cls(**fields)


class RunFolder:
    """The folder of one run, and its files.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Does not touch the file system."""
        self.path = Path(path)
        self._config_file = self.path / "config.json"
        self._info_file = self.path / "run.json"
        self._report_file = self.path / "report.json"
        self._checkpoints = self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return self._config_file.is_file()

    @property
    def has_checkpoints(self) -> bool:
        """Whether the folder has a folder of checkpoints; a checkpoint in it may be incomplete."""
        return self._checkpoints.is_dir()

    def claim(self, config: Config) -> None:
        """Creates the folder for a run of a configuration, or checks that it holds such a run.

        Raises:
          ValueError: if it holds a run of another configuration (the message lists the
            differences), or other files.
        """
        if self.is_run:
            existing = self.read_config()
            if existing != config:
                listing = "\n  ".join(configuration.differences(existing, config))
                raise ValueError(
                    f"{self.path} holds a run of another configuration (there != here):\n"
                    f"  {listing}\ntake another --workdir, or delete the folder"
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and holds no run; take another --workdir")
        files.write_text(self._config_file, configuration.to_json(config))

    def read_config(self) -> Config:
        """Reads the run's configuration."""
        return configuration.from_json(self._config_file.read_text(encoding="utf-8"))

    def read_info(self) -> RunInfo:
        """Reads the run's record."""
        return RunInfo.from_json(self._info_file.read_text(encoding="utf-8"))

    def write_info(self, info: RunInfo) -> None:
        """Writes the run's record."""
        files.write_text(self._info_file, info.to_json())

    def read_report(self) -> dict[str, Any] | None:
        """Reads the report, or returns None if the run is not finished."""
        if not self._report_file.exists():
            return None
        report: dict[str, Any] = json.loads(self._report_file.read_text(encoding="utf-8"))
        return report

    def write_report(self, report: dict[str, Any]) -> None:
        """Writes the report."""
        text = json.dumps(report, indent=2, ensure_ascii=False)
        files.write_text(self._report_file, text + "\n")

    def open_checkpoints(self, config: Config) -> Checkpoints:
        """Opens the run's checkpoints, kept and compared as configured."""
        return Checkpoints(
            self._checkpoints,
            keep=config.train.keep,
            best_metric=config.train.best_metric,
            lower_is_better=config.train.best_metric in metrics.LOWER_IS_BETTER,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's network with the variables of its best checkpoint.

    Attributes:
      config: its configuration.
      info: its classes, preprocessing and weights.
      model: the network.
      variables: params and batch_stats of the checkpoint.
      step: training step of the checkpoint.
    """

    config: Config
    info: RunInfo
    model: Model
    variables: dict[str, Any]
    step: int


def is_run(workdir: str | Path) -> bool:
    """Returns whether a folder holds a run, finished or not."""
    return RunFolder(workdir).is_run


def load_run(workdir: str | Path) -> Run:
    """Reads a run, finished or not, with its best checkpoint.

    Raises:
      FileNotFoundError: if the folder holds no run, or the run no checkpoint yet.

    Examples:
      >>> import jax, tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> run = load_run("runs/digits")
      >>> run.model.apply(run.variables, jax.numpy.zeros((1, 16, 16, 3))).shape
      (1, 10)
    """
    folder = RunFolder(workdir)
    if not folder.is_run:
        raise FileNotFoundError(f"{workdir} holds no run (no config.json); train one first")
    config = folder.read_config()
    no_checkpoint = FileNotFoundError(
        f"{workdir} holds no checkpoint yet; train at least one epoch"
    )
    if not folder.has_checkpoints:
        raise no_checkpoint
    info = folder.read_info()
    model = build_model(config, len(info.class_names))
    like = abstract(abstract_variables(model), sharding.replicated(sharding.data_mesh()))
    with folder.open_checkpoints(config) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise no_checkpoint
        variables = checkpoints.restore_variables(step, like)
    return Run(config, info, model, variables, step)


def write_run(workdir: str | Path, config: Config, info: RunInfo, variables: trees.Tree) -> None:
    """Writes variables that were computed elsewhere, such as a soup, as a run for `load_run`.

    Args:
      workdir: the folder; must be empty or missing.
      config: the configuration that builds the network.
      info: classes, preprocessing and weights.
      variables: params and batch_stats; they become the only checkpoint, at step 0.

    Raises:
      ValueError: if the folder is not empty.
    """
    folder = RunFolder(workdir)
    if folder.is_run:
        raise ValueError(f"{workdir} holds a run already; take another folder")
    folder.claim(config)
    folder.write_info(info)
    state = TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
    )
    with folder.open_checkpoints(config) as checkpoints:
        checkpoints.save(state, {config.train.best_metric: math.nan})

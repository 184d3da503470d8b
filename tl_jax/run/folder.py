"""A trained run, read back from its folder."""

import dataclasses
from pathlib import Path
from typing import Any

from flax import linen as nn

from tl_jax import config as configuration
from tl_jax.config import Config
from tl_jax.objectives import metrics
from tl_jax.run import model as start
from tl_jax.run.data import RunInfo
from tl_jax.run.fit import CHECKPOINTS, CONFIG_FILE, INFO_FILE
from tl_jax.training import sharding
from tl_jax.training.checkpoint import Checkpoints, abstract
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights.state_dict import abstract_variables


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's network with the variables of its best checkpoint.

    Attributes:
      config: what it was trained by.
      info: its classes, preprocessing and weights.
      model: the network.
      variables: of the checkpoint.
      step: of the checkpoint.
    """

    config: Config
    info: RunInfo
    model: nn.Module | Adapted
    variables: dict[str, Any]
    step: int


def is_run(workdir: str | Path) -> bool:
    """Says whether a folder holds a run."""
    return (Path(workdir) / CONFIG_FILE).is_file()


def load_run(workdir: str | Path) -> Run:
    """Reads a run, finished or not, with its best checkpoint.

    Raises:
      FileNotFoundError: if the folder holds no run, or the run no checkpoint yet.

    Example:
      >>> run = load_run("runs/demo")                                        # doctest: +SKIP
      >>> logits = run.model.apply(run.variables, images)                    # doctest: +SKIP
    """
    workdir = Path(workdir)
    if not is_run(workdir):
        raise FileNotFoundError(f"{workdir} holds no run (no {CONFIG_FILE}); train one first")
    config = configuration.from_json((workdir / CONFIG_FILE).read_text())
    if not (workdir / CHECKPOINTS).is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train at least one epoch")
    info = RunInfo.from_json((workdir / INFO_FILE).read_text())
    model = start.build_model(config, len(info.class_names))
    like = abstract(abstract_variables(model), sharding.replicated(sharding.data_mesh()))
    best_metric = config.train.best_metric
    with Checkpoints(
        workdir / CHECKPOINTS,
        best_metric=best_metric,
        lower_is_better=best_metric in metrics.LOWER_IS_BETTER,
    ) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train at least one epoch")
        variables = checkpoints.restore_variables(step, like)
    return Run(config, info, model, variables, step)

"""Which options of a run may change when it is started again: those that change no result."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tl_jax import trees
from tl_jax.config.experiment import Config
from tl_jax.config.json_format import flat

FREE = frozenset({
    "data.workers",
    "data.worker_type",
    "data.cache",
    "data.stretch_on",  # As long as it means the same device: `run/folder.py` checks that.
    "train.keep",
    "train.log_every",
})  # fmt: skip
"""Options that decide how images are read, and what is written beside the results."""

PLACES = frozenset({"data.source", "data.data_dir", "data.on_corrupt", "model.weights"})
"""Options that say where something is. What is found there is compared with the run's record."""

LENGTH = frozenset({
    "train.head_epochs",
    "train.epochs",
    "transfer.phases",
    "train.patience",
    "train.target",
})  # fmt: skip
"""Options that decide when training ends. `run/longer.py` says which changes leave the epochs that
are done as they are."""


def changed(one: Config, other: Config) -> set[str]:
    """Returns the dotted names of the options that differ.

    Examples:
      >>> from tl_jax.config import TrainConfig
      >>> changed(Config(), Config(train=TrainConfig(epochs=7)))
      {'train.epochs'}
    """
    first, second = flat(one), flat(other)
    return {trees.dotted(path) for path in first if first[path] != second[path]}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns a configuration with other values of some options, by dotted name.

    Examples:
      >>> with_values(Config(), {"train.epochs": 7}).train.epochs
      7
    """
    for name, value in values.items():
        section, _, field = name.partition(".")
        changed_section = dataclasses.replace(vars(config)[section], **{field: value})
        config = dataclasses.replace(config, **{section: changed_section})
    return config

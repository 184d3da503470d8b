"""Which options of a run may change when it is started again: those that change no result."""

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from tl_jax import trees
from tl_jax.config.experiment import Config
from tl_jax.config.json_format import flat
from tl_jax.config.tasks import TaskConfig
from tl_jax.config.transfer import GroupConfig, PhaseConfig

FREE = frozenset({
    "data.workers",
    "data.worker_type",
    "data.cache",
    "data.stretch_on",  # As long as it means the same device: `run/folder.py` checks that.
    "train.keep",
    "train.keep_every",
    "train.save_every",
    "train.on_divergence",  # A run that has stopped may go on and skip.
    "train.log_every",
    "parallel.fsdp",  # Like the number of devices, these two change rounding alone.
    "parallel.remat",
})  # fmt: skip
"""Options that decide how images are read, what is written beside the results, where arrays lie."""

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

    `transfer.recalibrate` is none of them where nothing is recalibrated: its default was another
    one in earlier versions.

    Examples:
      >>> from tl_jax.config import TrainConfig
      >>> changed(Config(), Config(train=TrainConfig(epochs=7)))
      {'train.epochs'}
    """
    first, second = flat(one), flat(other)
    names = {trees.dotted(path) for path in first if first[path] != second[path]}
    return names if _recalibrates(one) or _recalibrates(other) else names - {"transfer.recalibrate"}


def _recalibrates(config: Config) -> bool:
    policies = [config.transfer.batch_norm, *(group.batch_norm for group in config.transfer.groups)]
    return "recalibrate" in policies


def as_options(config: Config, names: Iterable[str]) -> str:
    """Returns the values of some options as they are written on the command line.

    Args:
      config: the configuration.
      names: dotted names.

    Examples:
      >>> as_options(Config(), ["optim.head_learning_rate", "optim.step_epochs", "train.target"])
      '--optim.head-learning-rate auto --optim.step-epochs 30.0 60.0 80.0 --train.target none'
    """
    words = []
    for name in names:
        section, _, field = name.partition(".")
        value = vars(config)[section]
        value = vars(value)[field] if field else value
        items = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(_word, items)]
    return " ".join(words)


def as_entry(entry: PhaseConfig | GroupConfig | TaskConfig) -> str:
    """Returns a phase, a group or a task as it is written on the command line.

    Examples:
      >>> as_entry(PhaseConfig(epochs=2, trained="head"))
      'epochs=2,trained=head'
      >>> as_entry(TaskConfig("grade", kind="ordinal", levels=("low", "high"), weight=0.5))
      'name=grade,kind=ordinal,levels=low|high,weight=0.5'
    """
    fields = {name: value for name, value in vars(entry).items() if value not in (None, ())}
    if isinstance(entry, TaskConfig):  # It has many fields.
        usual = vars(TaskConfig())
        fields = {name: value for name, value in fields.items() if value != usual[name]}
    return ",".join(
        f"{name}={'|'.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in fields.items()
    )


def _word(value: Any) -> str:
    if isinstance(value, PhaseConfig | GroupConfig | TaskConfig):
        return shlex.quote(as_entry(value))
    return "none" if value is None else shlex.quote(str(value))


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns a configuration with other values of some options, by dotted name.

    They change together, so that only the result has to keep the rules between options.

    Examples:
      >>> with_values(Config(), {"train.epochs": 7}).train.epochs
      7
    """
    by_section: dict[str, dict[str, Any]] = {}
    sections: dict[str, Any] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if field:
            by_section.setdefault(section, {})[field] = value
        else:  # A list of the whole, such as "tasks".
            sections[name] = value
    sections |= {
        name: dataclasses.replace(vars(config)[name], **fields)
        for name, fields in by_section.items()
    }
    return dataclasses.replace(config, **sections)

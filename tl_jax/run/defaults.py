"""Defaults that depend on the weights: what "auto" in a configuration becomes, and why."""

import dataclasses
from typing import Any

from tl_jax.config import RANDOM_WEIGHTS, BatchNormMode, Config, changes

# How much faster than the backbone a new head is trained (docs/strategies.md, "The defaults").
_HEAD_FACTOR = 3


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A configuration without "auto".

    Attributes:
      config: the configuration, every value explicit.
      values: what was decided, by the dotted name of its field.
      notes: a sentence for each decision: the value and its reason.
    """

    config: Config
    values: dict[str, Any]
    notes: tuple[str, ...]


def resolve(config: Config, *, has_batch_norm: bool) -> Resolved:
    """Returns a configuration with explicit values where it says "auto".

    Args:
      config: the experiment.
      has_batch_norm: whether its network has running statistics.

    Examples:
      >>> resolve(Config(), has_batch_norm=True).notes[0]
      'BatchNorm: affine_only (the pretrained statistics are kept; auto)'
    """
    values: dict[str, Any] = {}
    notes = []
    if config.transfer.batch_norm == "auto":
        policy, reason = batch_norm_policy(config)
        values["transfer.batch_norm"] = policy
        notes += [f"BatchNorm: {policy} ({reason}; auto)"] if has_batch_norm else []
    if config.optim.head_learning_rate == "auto":
        rate, reason = head_rate(config)
        values["optim.head_learning_rate"] = rate
        notes.append(f"rate of the head: {rate:g} ({reason}; auto)")
    return Resolved(changes.with_values(config, values), values, tuple(notes))


def batch_norm_policy(config: Config) -> tuple[BatchNormMode, str]:
    """Returns what "auto" means for `transfer.batch_norm`, and the reason.

    Pretrained statistics are kept: on each of the six sets that were tried, in batches of 32, this
    is better than new ones (docs/strategies.md, "The defaults"), and a head that was trained first
    meets the same features when the other layers are unfrozen. Random weights have no statistics to
    keep.
    """
    if config.model.weights == RANDOM_WEIGHTS:
        return "update", "random weights come with no statistics to keep"
    return "affine_only", "the pretrained statistics are kept"


def head_rate(config: Config) -> tuple[float, str]:
    """Returns what "auto" means for `optim.head_learning_rate`, and the reason.

    A new head on pretrained layers has further to go than they have.
    """
    rate = config.optim.learning_rate
    if config.model.weights == RANDOM_WEIGHTS:
        return rate, "that of all layers, which are as new"
    return _HEAD_FACTOR * rate, f"{_HEAD_FACTOR} times that of the pretrained layers"

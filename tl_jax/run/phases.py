"""The phases of a run: what each trains, by which optimizer, for how long."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.config import Config, PhaseConfig
from tl_jax.run import describe
from tl_jax.training import optim
from tl_jax.transfer import averaging, freeze, groups


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same parameters are trained by the same optimizer.

    Attributes:
      name: what is trained, as a selection ("head", "all", "head+last:1").
      first_epoch: epochs done before it.
      epochs: its length.
      plan: labels of `tl_jax.transfer.freeze`.
      still: labels whose BatchNorm keeps its running statistics.
      tx: optimizer of the trained parameters.
      peaks: peak learning rate by label.
      rates: learning rate by label, as functions of the step within the phase.
      description: the plan as a table.
    """

    name: str
    first_epoch: int
    epochs: int
    plan: Any
    still: frozenset[str]
    tx: optax.GradientTransformation
    peaks: dict[str, float]
    rates: dict[str, optax.Schedule]
    description: str

    @property
    def last_epoch(self) -> int:
        """Epochs done at its end."""
        return self.first_epoch + self.epochs


def phases(
    config: Config, labels: trees.Tree, variables: trees.Tree, steps_per_epoch: int
) -> list[Phase]:
    """Returns the phases of a run.

    Args:
      config: the experiment.
      labels: the group of every parameter (`grouped`).
      variables: of the network, arrays or abstract arrays.
      steps_per_epoch: steps of an epoch.
    """
    made: list[Phase] = []
    for spec in specifications(config):
        first_epoch = made[-1].last_epoch if made else 0
        made.append(_phase(config, spec, labels, variables, first_epoch, steps_per_epoch))
    return made


def specifications(config: Config) -> tuple[PhaseConfig, ...]:
    """Returns the configured phases: those listed, or the head's and then the others."""
    if config.transfer.phases:
        return config.transfer.phases
    both = (
        PhaseConfig(config.train.head_epochs, groups.HEAD),
        PhaseConfig(config.train.epochs, config.transfer.trained),
    )
    return tuple(phase for phase in both if phase.epochs)


def grouped(config: Config, model: nn.Module, stages: Sequence[str]) -> dict[str, Any]:
    """Returns the group of every parameter: by depth, and as `transfer.groups` says besides.

    Args:
      config: the experiment.
      model: its network.
      stages: dotted names of the modules that end the stages.

    Raises:
      ValueError: if `transfer.groups` names no group, or its patterns match nothing or overlap.
    """
    labels = groups.by_depth(model, stages)
    new = {group.name: group.patterns for group in config.transfer.groups if group.patterns}
    labels = groups.regroup(labels, new) if new else labels
    known = groups.names_of(labels)
    for group in config.transfer.groups:
        if group.name not in known:
            raise ValueError(
                f"transfer.groups names {group.name!r}, which is no group"
                f"{messages.hint(group.name, known)} (there are {', '.join(known)}); a new one needs "
                "patterns"
            )
    return labels


def policies(config: Config, labels: trees.Tree) -> dict[str, str]:
    """Returns the policy of BatchNorm of each group."""
    own = {group.name: group.batch_norm for group in config.transfer.groups}
    return {name: own.get(name) or config.transfer.batch_norm for name in groups.names_of(labels)}


def _phase(
    config: Config,
    spec: PhaseConfig,
    labels: trees.Tree,
    variables: trees.Tree,
    first_epoch: int,
    steps_per_epoch: int,
) -> Phase:
    batch_stats = variables.get("batch_stats", {})
    modes = policies(config, labels)
    selected = groups.select(labels, spec.trained, batch_stats)
    plan, still = freeze.batch_norm(freeze.restrict(labels, selected), batch_stats, modes)
    names = groups.names_of(labels)
    peaks, decays = _peaks(config, spec, names), _decays(config, names)
    rates = {name: _schedule(config, spec, peak, steps_per_epoch) for name, peak in peaks.items()}
    tx = optimizer(config, spec, plan, rates)
    table = describe.describe_plan(
        labels, plan, variables, rates=peaks, decays=decays, policies=modes
    )
    if config.train.ema:
        tx = averaging.ema(tx, config.train.ema)
    return Phase(spec.trained, first_epoch, spec.epochs, plan, still, tx, peaks, rates, table)


def optimizer(
    config: Config, spec: PhaseConfig, plan: trees.Tree, rates: Mapping[str, optax.Schedule]
) -> optax.GradientTransformation:
    """Returns the configured optimizer of a phase, at the rates given by label."""
    return optim.optimizer(
        spec.optimizer or config.optim.name,
        rates,
        plan,
        momentum=config.optim.momentum,
        weight_decay=_decays(config, list(rates)),
        l2_sp={name: config.optim.l2_sp for name in rates if name != groups.HEAD},
        clip_norm=config.optim.clip_norm,
    )


def _peaks(config: Config, spec: PhaseConfig, names: Sequence[str]) -> dict[str, float]:
    """Returns the peak rate of each group."""
    base = _first(spec.learning_rate, config.optim.learning_rate)
    head = _first(
        spec.head_learning_rate, spec.learning_rate, config.optim.head_learning_rate, base
    )
    stages = [name for name in names if groups.is_stage(name)]
    below = {name: len(stages) - 1 - depth for depth, name in enumerate(stages)}
    peaks = {name: base * config.optim.layer_decay ** below.get(name, 0) for name in names}
    peaks |= {groups.HEAD: head} if groups.HEAD in names else {}
    own = {group.name: group.learning_rate for group in config.transfer.groups}
    return {name: _first(own.get(name), peak) for name, peak in peaks.items()}


def _decays(config: Config, names: Sequence[str]) -> dict[str, float]:
    own = {group.name: group.weight_decay for group in config.transfer.groups}
    anchored = {name for name in names if config.optim.l2_sp and name != groups.HEAD}
    usual = {name: 0.0 if name in anchored else config.optim.weight_decay for name in names}
    return {name: _first(own.get(name), decay) for name, decay in usual.items()}


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _schedule(
    config: Config, spec: PhaseConfig, peak: float, steps_per_epoch: int
) -> optax.Schedule:
    warmup = _first(spec.warmup_epochs, config.optim.warmup_epochs)
    return optim.schedule(
        config.optim.schedule,
        peak,
        total_steps=spec.epochs * steps_per_epoch,
        warmup_steps=round(warmup * steps_per_epoch),
        boundaries=[round(epoch * steps_per_epoch) for epoch in config.optim.step_epochs],
        factor=config.optim.step_factor,
    )


def gradual(
    stages: int, *, every: int, epochs: int, learning_rate: float | None = None
) -> tuple[PhaseConfig, ...]:
    """Returns the phases of gradual unfreezing: the head, then one stage more each time.

    Args:
      stages: how many stages the network has (`len(architecture(name).stages)`).
      every: epochs after which one stage more is trained (ULMFiT, arXiv:1801.06146).
      epochs: of all phases together; the last phase trains everything reached by then.
      learning_rate: of each phase; None: the run's.

    Example:
      >>> [phase.trained for phase in gradual(2, every=1, epochs=4)]
      ['head', 'head+last:1', 'all']
    """
    selections = ["head", *(f"head+last:{n}" for n in range(1, stages)), "all"]
    lengths = [every] * len(selections)
    made, left = [], epochs
    for number, (selection, length) in enumerate(zip(selections, lengths, strict=True), start=1):
        length = left if number == len(selections) else min(length, left)
        if length:
            made.append(PhaseConfig(length, selection, learning_rate=learning_rate))
        left -= length
    return tuple(made)


def lp_ft(
    head_epochs: int, epochs: int, *, head_rate: float, rate: float
) -> tuple[PhaseConfig, ...]:
    """Returns the phases of LP-FT (arXiv:2202.10054): the head alone, then everything at one rate.

    Args:
      head_epochs: of the head's phase.
      epochs: of the second phase.
      head_rate: peak rate of the first phase.
      rate: peak rate of everything, the head included, in the second.
    """
    return (
        PhaseConfig(head_epochs, groups.HEAD, head_learning_rate=head_rate),
        PhaseConfig(epochs, "all", learning_rate=rate, head_learning_rate=rate),
    )

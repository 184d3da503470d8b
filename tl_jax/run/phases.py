"""The phases of a run: what each trains, with which optimizer, for how long."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from tl_jax import arguments, messages, trees
from tl_jax.config import Config, PhaseConfig
from tl_jax.models.model import Model
from tl_jax.run import describe
from tl_jax.training import optim
from tl_jax.training.ema import with_ema
from tl_jax.transfer import freeze, groups


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same parameters are trained by the same optimizer.

    Attributes:
      name: what is trained, as a selection ("head", "all", "head+last:1").
      start_epoch: number of epochs done before it.
      epochs: its length.
      plan: labels of `tl_jax.transfer.freeze`.
      fixed_statistics: labels whose BatchNorm layers keep their running statistics.
      tx: optimizer of the trained parameters.
      peak_rates: peak learning rate by label.
      schedules: learning rate by label, as functions of the step within the phase.
      description: the plan as a table.
    """

    name: str
    start_epoch: int
    epochs: int
    plan: dict[str, Any]
    fixed_statistics: frozenset[str]
    tx: optax.GradientTransformation
    peak_rates: dict[str, float]
    schedules: dict[str, optax.Schedule]
    description: str

    @property
    def end_epoch(self) -> int:
        """Number of epochs done at its end."""
        return self.start_epoch + self.epochs


def make_phases(
    config: Config, labels: trees.Tree, variables: trees.Tree, steps_per_epoch: int
) -> list[Phase]:
    """Returns the phases of a run.

    Args:
      config: the experiment.
      labels: the group of every parameter (`group_parameters`).
      variables: of the network, arrays or abstract arrays.
      steps_per_epoch: steps of an epoch.

    Raises:
      ValueError: if nothing matches what a phase trains, or no phase trains a head that starts
        empty.
    """
    batch_stats = variables.get("batch_stats", {})
    names = groups.group_names(labels)
    policies = batch_norm_policies(config, labels)
    phases: list[Phase] = []
    for spec in phase_configs(config):
        trained = groups.select(labels, spec.trained, batch_stats)
        plan, fixed_statistics = freeze.apply_batch_norm_policies(
            freeze.train_only(labels, trained), batch_stats, policies
        )
        peak_rates = _peak_rates(config, spec, names)
        schedules = {
            name: schedule_of(config, spec, peak, steps_per_epoch)
            for name, peak in peak_rates.items()
        }
        tx = make_optimizer(config, spec, plan, schedules)
        phases.append(
            Phase(
                name=spec.trained,
                start_epoch=phases[-1].end_epoch if phases else 0,
                epochs=spec.epochs,
                plan=plan,
                fixed_statistics=fixed_statistics,
                tx=with_ema(tx, config.train.ema) if config.train.ema else tx,
                peak_rates=peak_rates,
                schedules=schedules,
                description=describe.describe_plan(
                    labels,
                    plan,
                    variables,
                    rates=peak_rates,
                    decays=_weight_decays(config, names),
                    policies=policies,
                ),
            )
        )
    _check_head(config, labels, phases)
    return phases


def _check_head(config: Config, labels: trees.Tree, phases: Sequence[Phase]) -> None:
    """Raises ValueError if a new head, which knows nothing of the classes, is never trained."""
    head = [path for path, label in trees.flatten(labels).items() if label == groups.HEAD]
    plans = [trees.flatten(phase.plan) for phase in phases]
    starts_empty = (
        config.transfer.classifier != "load" and config.transfer.head_init != "class_means"
    )
    if not (head and plans and starts_empty):
        return
    if all(plan[path] == freeze.FROZEN for plan in plans for path in head):
        trained = ", ".join(repr(phase.name) for phase in phases)
        raise ValueError(
            f"no phase trains the new head, so the network would tell nothing: got {trained}; "
            f"expected the head too, such as 'head+{phases[-1].name}', or train.head_epochs "
            "before it"
        )


def phase_configs(config: Config) -> tuple[PhaseConfig, ...]:
    """Returns the listed phases, or else those of `train.head_epochs` and `train.epochs`."""
    if config.transfer.phases:
        return config.transfer.phases
    phases = []
    if config.train.head_epochs:
        phases.append(PhaseConfig(config.train.head_epochs, groups.HEAD))
    if config.train.epochs:
        phases.append(PhaseConfig(config.train.epochs, config.transfer.trained))
    return tuple(phases)


def group_parameters(config: Config, model: Model, stages: Sequence[str]) -> dict[str, Any]:
    """Returns the group of every parameter: by depth, or as `transfer.groups` says.

    Args:
      config: the experiment.
      model: its network.
      stages: dotted names of the modules that end the stages.

    Raises:
      ValueError: if `transfer.groups` has a name but no patterns and there is no such group, or
        its patterns match nothing or overlap.
    """
    labels = groups.by_depth(model, stages)
    new = {group.name: group.patterns for group in config.transfer.groups if group.patterns}
    labels = groups.regroup(labels, new) if new else labels
    known = groups.group_names(labels)
    for group in config.transfer.groups:
        if group.name not in known:
            raise ValueError(
                f"transfer.groups names {group.name!r}, which is no group"
                f"{messages.hint(group.name, known)} (there are {', '.join(known)}); a new one "
                "needs patterns"
            )
    return labels


def batch_norm_policies(config: Config, labels: trees.Tree) -> dict[str, str]:
    """Returns the policy of BatchNorm of each group: the group's own, or the run's."""
    policy = config.transfer.batch_norm
    assert policy != "auto", "defaults.resolve comes first"
    by_group = {group.name: group.batch_norm for group in config.transfer.groups}
    return {name: by_group.get(name) or policy for name in groups.group_names(labels)}


def make_optimizer(
    config: Config, spec: PhaseConfig, plan: trees.Tree, schedules: Mapping[str, optax.Schedule]
) -> optax.GradientTransformation:
    """Returns the configured optimizer of a phase, with the given learning rates by label."""
    return optim.optimizer(
        spec.optimizer or config.optim.name,
        schedules,
        plan,
        momentum=config.optim.momentum,
        weight_decay=_weight_decays(config, list(schedules)),
        l2_sp={name: config.optim.l2_sp for name in schedules if name != groups.HEAD},
        clip_norm=config.optim.clip_norm,
    )


def _peak_rates(config: Config, spec: PhaseConfig, names: Sequence[str]) -> dict[str, float]:
    base = _first_given(spec.learning_rate, config.optim.learning_rate)
    head_rate = config.optim.head_learning_rate
    assert head_rate != "auto", "defaults.resolve comes first"
    # The last stage has the base rate, and each stage before it a smaller one.
    stages = [name for name in names if groups.is_stage(name)]
    rates = dict.fromkeys(names, base)
    for depth, name in enumerate(reversed(stages)):
        rates[name] = base * config.optim.layer_decay**depth
    if groups.HEAD in rates:
        rates[groups.HEAD] = _first_given(
            spec.head_learning_rate, spec.learning_rate, head_rate, base
        )
    by_group = {group.name: group.learning_rate for group in config.transfer.groups}
    return {name: _first_given(by_group.get(name), rate) for name, rate in rates.items()}


def _weight_decays(config: Config, names: Sequence[str]) -> dict[str, float]:
    by_group = {group.name: group.weight_decay for group in config.transfer.groups}
    decays = {}
    for name in names:
        # L2-SP takes the place of weight decay everywhere but in the head.
        is_pulled = bool(config.optim.l2_sp) and name != groups.HEAD
        default = 0.0 if is_pulled else config.optim.weight_decay
        decays[name] = _first_given(by_group.get(name), default)
    return decays


def schedule_of(
    config: Config, spec: PhaseConfig, peak: float, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the learning rate of a phase with this peak, as a function of its steps."""
    warmup_epochs = _first_given(spec.warmup_epochs, config.optim.warmup_epochs)
    return optim.schedule(
        config.optim.schedule,
        peak,
        total_steps=spec.epochs * steps_per_epoch,
        warmup_steps=round(warmup_epochs * steps_per_epoch),
        boundaries=[round(epoch * steps_per_epoch) for epoch in config.optim.step_epochs],
        factor=config.optim.step_factor,
    )


def _first_given(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def gradual(
    stages: int, *, every: int, epochs: int, learning_rate: float | None = None
) -> tuple[PhaseConfig, ...]:
    """Returns the phases of gradual unfreezing: the head, then one more stage each time.

    Args:
      stages: how many stages the network has (`len(architecture(name).stages)`).
      every: epochs after which one more stage is trained (ULMFiT, arXiv:1801.06146).
      epochs: of all phases together; the last phase takes the remaining ones.
      learning_rate: of each phase; None: the run's.

    Examples:
      >>> [phase.trained for phase in gradual(2, every=1, epochs=4)]
      ['head', 'head+last:1', 'all']
    """
    for name, value in (("stages", stages), ("every", every), ("epochs", epochs)):
        arguments.whole_number(name, value, least=1)
    selections = ["head", *(f"head+last:{n}" for n in range(1, stages)), "all"]
    phases, remaining = [], epochs
    for selection in selections:
        length = remaining if selection == "all" else min(every, remaining)
        if length:
            phases.append(PhaseConfig(length, selection, learning_rate=learning_rate))
        remaining -= length
    return tuple(phases)


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

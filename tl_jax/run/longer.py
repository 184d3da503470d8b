"""A run that is asked for more epochs than before, or fewer: whether its done epochs stay valid."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax.config import Config, PhaseConfig, changes
from tl_jax.run import phases
from tl_jax.training.stopping import Stopping


def check(
    before: Config, now: Config, *, epochs_done: int, steps_per_epoch: int, folder: str
) -> None:
    """Checks that the epochs that are done are those with which a longer run would begin.

    The phases of the epochs that are done must be the same, and the learning rate of each of their
    steps. So a phase with a "constant" or "step" schedule can become longer as long as no later
    phase has begun, and phases can be added at the end; a "cosine" falls over the whole phase, and
    another length means other rates from the first step on.

    Args:
      before: the configuration that the epochs were trained with, without "auto".
      now: the configuration that the run shall end as.
      epochs_done: epochs that are done.
      steps_per_epoch: steps of an epoch.
      folder: of the run, for the message.

    Raises:
      ValueError: if they are not.
    """
    old, new = phases.phase_configs(before), phases.phase_configs(now)
    total = sum(phase.epochs for phase in new)
    if total < epochs_done:
        raise ValueError(
            f"{folder} has trained {_epochs(epochs_done)}, and the configuration asks for {total}; "
            "take as many or more, or another --workdir"
        )
    start = 0
    for number, (one, other) in enumerate(zip(old, new, strict=False), start=1):
        done = min(epochs_done - start, one.epochs)
        if done <= 0:
            return
        problem = _difference(before, now, (one, other), done, steps_per_epoch)
        if not problem and other.epochs < done:
            problem = f"{done} are done, more than {other.epochs}"
        if not problem and other.epochs != one.epochs and start + one.epochs < epochs_done:
            problem = f"it lasted {_epochs(one.epochs)}, and the next one has begun"
        if problem:
            raise ValueError(_message(folder, before, number, epochs_done, problem))
        start += one.epochs


def check_stopping(
    stopping: Stopping, history: Sequence[Mapping[str, float]], *, folder: str
) -> None:
    """Checks that a new rule of early stopping would not have ended the run before.

    Args:
      stopping: the rule.
      history: the metrics after each epoch that is done.
      folder: of the run, for the message.

    Raises:
      ValueError: if it would have.
    """
    values = [metrics.get(stopping.metric, np.nan) for metrics in history]
    for epoch in range(1, len(values)):
        reason = stopping.decide(values[:epoch])
        if reason is not None:
            raise ValueError(
                f"{folder} has trained {len(values)} epochs, and with this train.patience and "
                f"train.target it would have ended after epoch {epoch} ({reason}); leave them as "
                "they were, or take another --workdir"
            )


def _difference(
    before: Config,
    now: Config,
    pair: tuple[PhaseConfig, PhaseConfig],
    epochs: int,
    steps_per_epoch: int,
) -> str:
    """Says how the first epochs of a phase would be trained otherwise; "" if they would not."""
    one, other = pair
    for field in dataclasses.fields(PhaseConfig):
        values = getattr(one, field.name), getattr(other, field.name)
        if field.name != "epochs" and values[0] != values[1]:
            return f"its {field.name} was {values[0]!r}, not {values[1]!r}"
    if one.epochs == other.epochs:
        return ""
    steps = np.arange(epochs * steps_per_epoch)
    rates = [
        np.asarray(phases.schedule_of(config, phase, 1.0, steps_per_epoch)(steps))
        for config, phase in ((before, one), (now, other))
    ]
    if np.all(rates[0] == rates[1]):
        return ""
    return (
        f"its learning rate follows the schedule {before.optim.schedule!r} over "
        f"{_epochs(one.epochs)}, so that with {other.epochs} every step would have had another rate"
    )


def _message(folder: str, before: Config, number: int, epochs_done: int, problem: str) -> str:
    old = phases.phase_configs(before)
    one = old[number - 1]
    further = f"--transfer.phases {' '.join(map(changes.as_entry, old))} epochs=N,trained=all"
    advice = f"Let this run go on with a further phase:\n  {further}"
    if before.model.head == "linear" and before.transfer.classifier != "fuse":
        advice = (
            "To train on from its best weights, start a new run in another --workdir:\n"
            f"  python -m tl_jax export {shlex.quote(folder)} --to timm FOLDER\n"
            f"  and the same train command with {_options_of_exported(before)}\n"
            f"Or let{advice.removeprefix('Let')}"
        )
    return (
        f"{folder} has trained {_epochs(epochs_done)}, and cannot go on as a run with other epochs:"
        f" of phase {number} ({one.trained}, {_epochs(one.epochs)}), {problem}.\n{advice}"
    )


def _options_of_exported(before: Config) -> str:
    """Returns the options by which a run starts from the weights of another one in FOLDER.

    These hold the run's classes, and nothing of the weights that it was begun with.
    """
    weights = "model.weights"
    now = changes.with_values(
        before,
        {
            weights: "FOLDER",
            "model.checkpoint_key": "",
            "model.prefix": "",
            "model.ignore": (),
            "transfer.classifier": "load",
            "transfer.class_mapping": (),
            "transfer.head_init": "zero",
        },
    )
    names = sorted(changes.changed(before, now) - {weights})
    return changes.as_options(now, [weights, *names])


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"

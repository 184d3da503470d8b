"""The learning-rate finder of a configured run: its data, network and plan, at rising rates."""

import contextlib
from pathlib import Path

import jax
import optax

from tl_jax.config import Config
from tl_jax.run import phases, plots
from tl_jax.run.experiment import compile_step, prepare, train_batches
from tl_jax.training import lr_finder, sharding, state
from tl_jax.training.lr_finder import LrCurve
from tl_jax.training.state import TrainState
from tl_jax.training.step import TrainStep
from tl_jax.transfer import freeze


def lr_find(
    config: Config,
    file: str | Path,
    *,
    phase: int = 1,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> tuple[LrCurve, str]:
    """Trains a phase of a run at rising learning rates, and draws the loss by rate.

    Groups with rates of their own keep the proportions that the configuration gives them; the rate
    that is drawn is the largest of them. Nothing is kept but the picture.

    Args:
      config: the experiment.
      file: PNG to be written.
      phase: which of the run's phases, from 1; it starts from the starting variables.
      low, high: first and last learning rate.
      steps: steps from `low` to `high`.

    Returns:
      The curve, and the name of the group whose rate it is over.

    Raises:
      ValueError: if there is no such phase, or as `find_learning_rate`.

    Example:
      >>> curve, group = lr_find(config, "lr.png")                           # doctest: +SKIP
      >>> curve.minimum_over_ten                                             # doctest: +SKIP
    """
    parts = prepare(config)
    if not 1 <= phase <= len(parts.phases):
        raise ValueError(f"the run has {len(parts.phases)} phase(s), and there is none {phase}")
    chosen, spec = parts.phases[phase - 1], phases.specifications(config)[phase - 1]
    trained = set(jax.tree.leaves(chosen.plan)) - {freeze.FROZEN}
    group = max(sorted(trained), key=lambda name: chosen.peaks[name])
    if not chosen.peaks[group]:
        raise ValueError("all rates of the phase are 0; give it a learning rate")
    shares = {name: peak / chosen.peaks[group] for name, peak in chosen.peaks.items()}

    def begin(rising: optax.Schedule) -> tuple[TrainStep, TrainState]:
        rates = {name: _scaled(rising, share) for name, share in shares.items()}
        tx = phases.optimizer(config, spec, chosen.plan, rates)
        begun = state.create(parts.start.variables, tx, chosen.plan)
        whole = sharding.replicated(parts.mesh)
        # A copy: the step uses its state up.
        begun = jax.tree.map(lambda x: jax.device_put(x, whole, may_alias=False), begun)
        return compile_step(parts, chosen, tx), begun

    with contextlib.closing(train_batches(parts, 0)) as batches:
        curve = lr_finder.find_learning_rate(begin, batches, low=low, high=high, steps=steps)
    title = f"{config.model.name} on {config.data.source}, {chosen.name}: rate of {group}"
    plots.learning_rate_curve(curve, Path(file), title=title)
    return curve, group


def _scaled(schedule: optax.Schedule, share: float) -> optax.Schedule:
    return lambda step: share * schedule(step)

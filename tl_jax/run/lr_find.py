"""The learning-rate finder of a run: its data, network and plan, at rising rates."""

import contextlib
from pathlib import Path

import jax
import optax

from tl_jax import distributed, files, process
from tl_jax.config import Config
from tl_jax.run import phases
from tl_jax.run.experiment import Experiment
from tl_jax.training import lr_finder, state
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

    Groups with different rates keep the ratios that the configuration gives them; the plot is over
    the largest rate. Only the picture is written.

    Args:
      config: the experiment.
      file: PNG to be written.
      phase: which of the run's phases, from 1; it starts from the initial variables.
      low, high: first and last learning rate.
      steps: steps from `low` to `high`.

    Returns:
      The curve, and the name of the group whose rate it is over.

    Raises:
      ValueError: if there is no such phase, or as `find_learning_rate`.

    Examples:
      >>> from tl_jax.config import DataConfig, ModelConfig
      >>> config = Config(
      ...     ModelConfig("simple_cnn", weights="random"),
      ...     DataConfig("digits", shots=2, image_size=16))
      >>> curve, group = lr_find(config, "lr.png", steps=10)
      >>> len(curve.losses) <= 10
      True
    """
    from tl_jax.run import plots  # Here, because matplotlib loads slowly.

    process.prepare()
    experiment = Experiment.from_config(config)
    if not 1 <= phase <= len(experiment.phases):
        raise ValueError(
            f"the run has {len(experiment.phases)} phase(s); got phase={phase}, counted from 1"
        )
    chosen, spec = experiment.phases[phase - 1], phases.phase_configs(config)[phase - 1]
    trained = set(jax.tree.leaves(chosen.plan)) - {freeze.FROZEN}
    fastest = max(sorted(trained), key=lambda name: chosen.peak_rates[name])
    peak = chosen.peak_rates[fastest]
    if not peak:
        raise ValueError("all rates of the phase are 0; set optim.learning_rate above 0")

    def setup(rising: optax.Schedule) -> tuple[TrainStep, TrainState]:
        schedules = {name: _scaled(rising, rate / peak) for name, rate in chosen.peak_rates.items()}
        tx = phases.make_optimizer(config, spec, chosen.plan, schedules)
        first = experiment.place(state.create(experiment.initial.variables, tx, chosen.plan))
        experiment.initial.release()
        return experiment.compile_step(chosen, tx), first

    with contextlib.closing(experiment.train_batches(0)) as batches:
        curve = lr_finder.find_learning_rate(setup, batches, low=low, high=high, steps=steps)
    title = f"{config.model.name} on {config.data.source}, {chosen.name}: rate of {fastest}"
    picture = files.user_path(file)
    distributed.first(lambda: plots.learning_rate_curve(curve, picture, title=title))
    return curve, fastest


def _scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
    return lambda step: factor * schedule(step)

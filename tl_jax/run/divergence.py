"""A run that diverges: the step that is not finite, the examples of its batch, and what is kept."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np

from tl_jax import messages
from tl_jax.data.loading import order
from tl_jax.run.experiment import Experiment
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.state import TrainState, not_finite

_REMEDY = "Lower optim.learning_rate, set optim.clip_norm or lengthen optim.warmup_epochs"


class NotFiniteError(FloatingPointError):
    """The loss or the gradient of a step is not finite.

    Attributes:
      step: the step, counted from 1 within its epoch.
    """

    def __init__(self, what: str, step: int) -> None:
        """Says what is not finite, such as "the training loss is nan"."""
        super().__init__(what)
        self.step = step


def check_steps(values: Mapping[str, np.ndarray], first: int) -> None:
    """Raises a NotFiniteError for the first of some steps whose loss or gradient is not finite.

    Args:
      values: metrics of these steps by name, each [n].
      first: number of the first of them within the epoch.
    """
    words = {"loss": "the training loss", "grad_norm": "the norm of the gradient"}
    checked = {name: values[name] for name in words if name in values}
    bad = ~np.all([np.isfinite(each) for each in checked.values()], axis=0)
    if bad.any():
        index = int(np.argmax(bad))
        name = next(name for name, each in checked.items() if not math.isfinite(each[index]))
        raise NotFiniteError(f"{words[name]} is {checked[name][index]}", first + index)


def check_state(state: TrainState) -> None:
    """Raises a FloatingPointError if a parameter or statistic is not finite.

    The loss of a step is computed before its update, so it does not show what that one spoiled.
    """
    names = not_finite(state.variables)
    if names:
        raise FloatingPointError(
            f"{len(names)} variables hold NaN or infinity ({messages.some(names, quoted=False)})"
        )


@contextlib.contextmanager
def explained(experiment: Experiment, checkpoints: Checkpoints, epoch: int) -> Iterator[None]:
    """Adds to a FloatingPointError where it arose, what to do, and what is kept."""
    try:
        yield
    except FloatingPointError as error:
        place = f"in epoch {epoch}"
        if isinstance(error, NotFiniteError):
            place += f", step {error.step} of {experiment.steps_per_epoch}, "
            place += _batch(experiment, epoch, error.step)
        step, options = checkpoints.latest_step(), experiment.config.train
        if step is None:
            where = "; no checkpoint was written yet, so the folder can be used again."
        else:
            saved = checkpoints.saved(step)
            within = f", step {saved.within.steps}" if saved.within else ""
            saved_epoch = experiment.epoch_of(checkpoints, step) + bool(within)
            where = (
                ", and train into another folder (--workdir): this one belongs to the present "
                "configuration, which would fail again in the same place"
            )
            if options.on_divergence == "stop":
                where += "; or go on in it with --train.on-divergence skip"
            where += f". The checkpoint of epoch {saved_epoch}{within} is whole, and finite."
        raise FloatingPointError(f"{error} {place}. {_REMEDY}{where}") from error


def _batch(experiment: Experiment, epoch: int, step: int) -> str:
    """Says which examples the batch of a step held."""
    source, size = experiment.train, experiment.config.data.batch_size
    stream = order.Stream(
        order.make_order(experiment.config.data.sampling, source, seed=experiment.config.train.seed)
    )
    first = ((epoch - 1) * experiment.steps_per_epoch + step - 1) * size
    names = source.identities()
    held = [names[index] for index in stream[range(first, first + size)]]
    return f"whose batch held the examples {messages.some(held, quoted=False)}"

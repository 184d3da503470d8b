"""The two labelled splits that backbones are ranked on, and their one task."""

import dataclasses

import numpy as np

from tl_jax import messages
from tl_jax.config import Config
from tl_jax.data.match_tasks import match_tasks
from tl_jax.data.source import Source, Task
from tl_jax.data.subset import Selection
from tl_jax.run import data
from tl_jax.run import tasks as run_tasks


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The splits of a configuration with one of its tasks.

    Attributes:
      train: that the scores are computed on.
      held_out: that probes are tested on: the evaluation split, or else the test split.
      task: the task.
      notes: what is odd, a sentence each.
    """

    train: Source
    held_out: Source
    task: Task
    notes: tuple[str, ...]


def open_labelled(config: Config, name: str | None = None) -> Labelled:
    """Opens the splits of a configuration; examples without a label of the task are left out.

    Args:
      config: the experiment.
      name: of the task; None for the main one.

    Raises:
      ValueError: if there is no such task, an example is more than one image, or as `open_split`.
    """
    train = data.open_split(config, config.data.train_split)
    other = config.data.eval_split or config.data.test_split
    assert other is not None  # The configuration checks that.
    if not train.inputs.is_one_image:
        raise ValueError(
            f"the examples of {train.name} are more than one image each; a ranking of backbones "
            "needs one image: leave out what `inputs` names"
        )
    held_out = data.open_split(config, other, inputs=train.inputs)
    notes = data.check_splits(config, {train.split: train, held_out.split: held_out})
    task = _task(data.learned_tasks(config, train), name)
    train, held_out = _known(train, task), _known(held_out, task)
    return Labelled(train, match_tasks(held_out, (task,)), task, notes)


def _task(tasks: tuple[Task, ...], name: str | None) -> Task:
    if name is None:
        return tasks[0]
    found = [task for task in tasks if task.name == name]
    if not found:
        known = [task.name for task in tasks]
        raise ValueError(
            f"there is no task {name!r}{messages.hint(name, known)}; the tasks are "
            f"{messages.some(known)}"
        )
    return found[0]


def _known(source: Source, task: Task) -> Source:
    """Returns the examples of a source whose label is known, with this task alone."""
    source = run_tasks.only(source, (task,))
    labels = source.labels()
    missing = (labels < 0).any(axis=1) if task.multi_label else task.missing(labels)
    if not missing.any():
        return source
    note = f"{int(missing.sum())} examples without {task.name!r} are left out"
    return Selection(source, source.split, np.flatnonzero(~missing).tolist(), note)

"""The tasks of a run: which labels a configuration names, in which form, and what is refused."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.config import Config, TaskConfig
from tl_jax.data.class_names import tidy
from tl_jax.data.match_tasks import Retasked
from tl_jax.data.source import Source, Task, label_keys


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """The arguments of `open_source` that say what the labels are.

    Attributes:
      labels: columns or features, the main one first.
      numbers: those of them that are numbers.
      ordered: those that are levels, each with its levels.
      several: columns of 0 and 1 that are the classes of one task.
    """

    labels: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    ordered: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    several: tuple[str, ...] = ()


def is_plain(config: Config) -> bool:
    """Returns whether a run names no tasks and at most one column: it learns the main labels."""
    return not config.tasks and len(config.data.labels) <= 1


def label_options(config: Config, *, takes: Callable[[str], bool]) -> LabelOptions:
    """Returns how the labels of a configuration are opened.

    Args:
      config: the experiment.
      takes: whether the source takes an option of this name; what it does not take is left to
        `as_configured`.
    """
    if not config.tasks:
        return LabelOptions(config.data.labels)
    named = [column for task in config.tasks for column in task.columns or (task.name,)]
    several = config.tasks[0].columns if takes("several") else ()
    # Sets whose labels have no columns to choose from call them so.
    names = {task.name: task.name if takes("labels") else "label" for task in config.tasks}
    ordered = {
        names[task.name]: task.levels
        for task in config.tasks
        if task.kind == "ordinal" or (task.kind == "auto" and task.levels)
    }
    numbers = [names[task.name] for task in config.tasks if task.kind == "regression"]
    return LabelOptions(
        labels=tuple(named) if takes("labels") else (),
        numbers=tuple(numbers) if takes("numbers") else (),
        ordered=ordered if takes("ordered") else {},
        several=several,
    )


def as_configured(config: Config, source: Source) -> Source:
    """Returns a source with the tasks of a configuration, in its order and of its kinds.

    A source of one task, such as a labelled folder, may give that any name; its classes become
    levels in their order, or in that of `levels`.

    Raises:
      ValueError: if the source has no such task, or its labels are of another kind.
    """
    if not config.tasks:
        return source
    by_name = {task.name: task for task in source.tasks}
    if len(source.tasks) == len(config.tasks) == 1 or config.tasks[0].columns:
        by_name[config.tasks[0].name] = source.tasks[0]
    tasks, chosen = list[Task](), list[Task]()
    for options in config.tasks:
        if options.name not in by_name:
            known = [task.name for task in source.tasks]
            raise ValueError(
                f"{source.name} has no labels {options.name!r}"
                f"{messages.hint(options.name, known)}; tasks must name some of "
                f"{messages.some(known)}"
            )
        chosen.append(by_name[options.name])
        tasks.append(_of_kind(options, chosen[-1], source.name))
    return _retasked(source, chosen, tasks)


def only(source: Source, tasks: Sequence[Task]) -> Source:
    """Returns a source with some of its own tasks alone."""
    return _retasked(source, tasks, tasks)


def _retasked(source: Source, chosen: Sequence[Task], tasks: Sequence[Task]) -> Source:
    """Returns a source with other tasks, whose labels are those of some of its own.

    Args:
      source: the source.
      chosen: some of its tasks.
      tasks: what each of these becomes.
    """
    if tuple(tasks) == source.tasks:
        return source
    of_task = dict(zip(source.tasks, source.task_labels().values(), strict=True))
    labels = {
        key: _relabelled(of_task[given], given, task)
        for key, given, task in zip(label_keys(tasks), chosen, tasks, strict=True)
    }
    return Retasked(source, tasks, labels, "")


def task_options(config: Config, tasks: Sequence[Task]) -> tuple[TaskConfig, ...]:
    """Returns the options of each task: those of the configuration, or the defaults."""
    return config.tasks or tuple(TaskConfig(task.name) for task in tasks)


def check_single_label(source: Source) -> None:
    """Raises ValueError for main labels that a run without `tasks` does not take as they are.

    Missing classes are refused, because such an example teaches nothing, and so are one-hot
    vectors, which are the labels of one class each.
    """
    task, labels = source.tasks[0], source.labels()
    if task.multi_label and (np.sum(labels == 1, axis=1) == 1).all():
        raise ValueError(
            f"the labels {task.name!r} of {source.name} are one-hot, a value for each class, so "
            "that each image has one class; write the class of each image in their place, such as "
            "labels.argmax(axis=1), or name them in tasks with the kind 'multi_label'"
        )
    num_missing = int(task.missing(labels).sum())
    if num_missing:
        raise ValueError(
            f"{num_missing} of {len(labels)} examples of split {source.split!r} of {source.name} "
            f"have no {task.name!r}; leave them out, or name another column with data.labels "
            "(--labels)"
        )


def _of_kind(options: TaskConfig, task: Task, place: str) -> Task:
    """Returns a source's task with the name and kind that a configuration gives it."""
    named = dataclasses.replace(task, name=options.name)
    if options.kind in ("auto", task.kind) and not options.levels:
        return named
    if options.kind in ("auto", "ordinal") and task.kind in ("multi_class", "ordinal"):
        levels = tuple(map(tidy, options.levels)) or task.class_names
        if sorted(levels) != sorted(task.class_names):
            raise ValueError(
                f"tasks.levels of {options.name!r} are {list(levels)}, but the labels of {place} "
                f"are {list(task.class_names)}; give the same names from low to high"
            )
        return Task(options.name, levels, ordered=True)
    if options.kind == "multi_class" and task.kind == "ordinal":
        return dataclasses.replace(named, ordered=False)
    raise ValueError(
        f"tasks says that {options.name!r} is of the kind {options.kind!r}, but the labels of "
        f"{place} are of the kind {task.kind!r}"
    )


def _relabelled(labels: np.ndarray, given: Task, task: Task) -> np.ndarray:
    """Returns labels by the classes of another order."""
    if given.class_names == task.class_names:
        return labels
    places = [*(task.class_names.index(name) for name in given.class_names), -1]
    return np.asarray(places, labels.dtype)[labels]

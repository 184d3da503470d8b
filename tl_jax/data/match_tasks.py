"""Other data for a network of any tasks: labels and classes are matched to them by name."""

from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data.class_names import tidy
from tl_jax.data.relabel import UnknownClasses, match_to
from tl_jax.data.source import Example, Source, Task, label_keys
from tl_jax.data.subset import Selection


class Retasked(Selection):
    """A source with the labels of given tasks in the place of its own.

    Attributes:
      source, indices: as in `Selection`.
    """

    def __init__(
        self, source: Source, tasks: Sequence[Task], labels: Mapping[str, np.ndarray], note: str
    ) -> None:
        """Keeps all examples.

        Args:
          source: the source.
          tasks: the tasks.
          labels: the labels of all examples by key.
          note: what was decided.
        """
        super().__init__(source, source.split, range(len(source)), note)
        self.tasks, self._labels = tuple(tasks), dict(labels)

    def __getitem__(self, index: int) -> Example:
        return {**super().__getitem__(index), **self._of(index)}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self._labels["label"]

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        return dict(self._labels)

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """As in `Source`."""
        encoded = super().encoded(index)
        return None if encoded is None else (encoded[0], {**encoded[1], **self._of(index)})

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        """As in `Source`."""
        encoded = super().encoded_views(index)
        return None if encoded is None else (encoded[0], {**encoded[1], **self._of(index)})

    def _of(self, index: int) -> Example:
        return {
            key: values[index] if values.ndim > 1 else values[index].item()
            for key, values in self._labels.items()
        }


def match_tasks(
    source: Source, tasks: Sequence[Task], *, unknown: UnknownClasses = "raise"
) -> Source:
    """Returns a source with given tasks; its own are matched to them by name, and so their classes.

    A single task of classes is matched by `match_to`, whatever its name. Otherwise the labels of a
    task that the source does not have are missing, and so are classes of a multi-label task.

    Args:
      source: the other data.
      tasks: the tasks, such as those that a run was trained on, the main one first.
      unknown: what to do with labels of other classes: "raise", or "skip" to count them as missing
        (of a single task of classes: to leave these images out).

    Raises:
      ValueError: if the source has none of the tasks, or one of another kind; if there are labels
        of other classes and `unknown` is "raise".

    Examples:
      >>> from tl_jax.data.sources.arrays import from_arrays
      >>> labels = {"weight": [1.5, 2.5], "kind": ["dog", "cat"]}
      >>> other = from_arrays(np.zeros((2, 8, 8), np.uint8), labels, numbers=("weight",))
      >>> tasks = (Task("kind", ("cat", "dog", "emu")), Task("weight", ()))
      >>> match_tasks(other, tasks).task_labels()["label"].tolist()
      [1, 0]
    """
    if source.tasks == tuple(tasks):
        return source
    first = tasks[0]
    if len(tasks) == 1 and first.kind == source.tasks[0].kind in ("multi_class", "ordinal"):
        return match_to(source, first.class_names, unknown=unknown)
    own = dict(zip(source.tasks, source.task_labels().values(), strict=True))
    by_name = {task.name: task for task in source.tasks}
    if len(tasks) == len(source.tasks) == 1:
        by_name = {first.name: source.tasks[0]}  # The name of a single column says little.
    labels, said, problems = {}, list[str](), list[str]()
    for key, task in zip(label_keys(tasks), tasks, strict=True):
        given = by_name.get(task.name)
        if given is None:
            labels[key] = _all_missing(task, len(source))
            said.append(f"there are no labels {task.name!r}, so that they are all missing")
            continue
        if given.kind != task.kind:
            raise ValueError(
                f"the labels {task.name!r} of {source.name} are of the kind {given.kind!r}; "
                f"expected {task.kind!r}, as the network was trained: open them as such"
            )
        labels[key], others = _matched(task, given, own[given])
        problems += [f"{task.name}: {other}" for other in others]
    if not any(task.name in by_name for task in tasks):
        raise ValueError(
            f"{source.name} has the labels {messages.some([t.name for t in source.tasks])}, none "
            f"of the tasks {messages.some([task.name for task in tasks])}; name the columns of "
            "these (--labels)"
        )
    if problems and unknown == "raise":
        raise ValueError(
            messages.report(
                f"split {source.split!r} of {source.name} has labels of classes that were not "
                "trained on:",
                problems,
                "rename the classes, or count these labels as missing with unknown_classes='skip' "
                "(--unknown-classes skip)",
            )
        )
    if problems:
        said.append(f"labels of other classes count as missing: {messages.some(problems)}")
    return Retasked(source, tasks, labels, "; ".join(said))


def _all_missing(task: Task, count: int) -> np.ndarray:
    missing = np.nan if task.kind == "regression" else -1
    return np.full((count, *task.shape), missing, task.dtype)


def _matched(task: Task, given: Task, labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns labels by the classes of `task`, and the other classes that have examples."""
    if task.kind == "regression":
        return labels, []
    place = {tidy(name): index for index, name in enumerate(task.class_names)}
    new = [place.get(tidy(name), -1) for name in given.class_names]
    if task.multi_label:
        matched = _all_missing(task, len(labels))
        for column, index in enumerate(new):
            if index >= 0:
                matched[:, index] = labels[:, column]
        counts = (labels == 1).sum(axis=0)
    else:
        matched = np.asarray([*new, -1], np.int32)[labels]
        counts = np.bincount(labels[labels >= 0], minlength=len(new))
    others = [
        f"{name!r} ({count})"
        for name, index, count in zip(given.class_names, new, counts.tolist(), strict=True)
        if index < 0 and count
    ]
    return matched, others

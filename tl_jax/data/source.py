"""The base class of sources: one split of labelled images whose examples are read in any order."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

RESERVED = ("extent", "image", "index", "label", "mask", "path", "size")
"""Keys of examples and batches; no task but the first may have one of these names."""

Example = dict[str, Any]
"""One labelled image.

`image` is uint8 RGB [H, W, 3], at the file's own size. `label` is the main task's: the index of the
class, -1 if it is missing; for a multi-label task int8 [classes], 1 for a class that the image has,
0 for one that it does not have, -1 where that is not known. The labels of further tasks are under
the tasks' names, in the same forms. A source may add keys of its own, such as `path`.
"""


@dataclasses.dataclass(frozen=True)
class Task:
    """One set of classes that every image is labelled with.

    Attributes:
      name: name of the column or feature that holds the labels.
      class_names: the classes, in the order of the labels.
      multi_label: whether an image may have any number of the classes, rather than exactly one.
    """

    name: str
    class_names: tuple[str, ...]
    multi_label: bool = False


class Source(abc.ABC):
    """One split of a set of labelled images.

    A subclass sets `name`, `split` and `tasks`, and defines `__len__` and `__getitem__`. It
    overrides `labels` if it knows the labels without decoding images, and `encoded` if its images
    are files. Worker processes get a pickled copy.

    Attributes:
      name: the specification that the source was opened by; used in messages and records.
      split: name of the split.
      tasks: what the images are labelled with; the first task is the main one.
      skipped: the images left out because they cannot be decoded, each as "NAME: REASON".
      notes: what was decided for the user, a sentence each: how splits were recognised or held out,
        what was passed over, which spellings were joined.
      value_range: the values of black and white in the source's images of more than 8 bits or of
        floats, if the user or the set says so.

    Examples:
      >>> class Squares(Source):
      ...     name, split = "squares", "train"
      ...     tasks = (Task("label", ("dark", "bright")),)
      ...
      ...     def __len__(self):
      ...         return 4
      ...
      ...     def __getitem__(self, index):
      ...         label = index % 2
      ...         return {"image": np.full((8, 8, 3), 255 * label, np.uint8), "label": label}
      >>> Squares().class_names, Squares().labels().tolist()
      (('dark', 'bright'), [0, 1, 0, 1])
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The main task's classes, in the order of the labels."""
        return self.tasks[0].class_names

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Reads and decodes example `index`, 0 <= index < len; called from several threads."""

    def labels(self) -> np.ndarray:
        """Returns the main task's labels of all examples; by default it reads every example.

        Returns:
          int32 [N], or int8 [N, classes] for a multi-label task; -1 where a label is missing.
        """
        labels = [self[index]["label"] for index in range(len(self))]
        return np.asarray(labels, np.int8 if self.tasks[0].multi_label else np.int32)

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """Returns an example's image file as bytes, and the example without `image`.

        The default is None, for a source whose images are not stored as files.
        """
        del index
        return None

    def identities(self) -> Sequence[str]:
        """Returns a name for each example that it keeps on every machine and when the set grows.

        Examples with the same name are the same picture, and no division of the source separates
        them. The default is the index.
        """
        return [str(index) for index in range(len(self))]

    def content_marks(self) -> Sequence[str]:
        """Returns for each example what cheaply tells that its image was replaced, such as a size.

        The default is nothing at all.
        """
        return []

    def single_class_hint(self) -> str:
        """Returns the end of a message that says where a set of one class may have others."""
        return ""


_MEMBERS = ("name", "split", "class_names", "labels", "__len__", "__getitem__")


class SourceLike(Protocol):
    """The members that an object needs for `as_source`."""

    @property
    def name(self) -> str:
        """As in `Source`."""

    @property
    def split(self) -> str:
        """As in `Source`."""

    @property
    def class_names(self) -> Sequence[str]:
        """As in `Source`."""

    def labels(self) -> np.ndarray:
        """As in `Source`."""

    def __len__(self) -> int:
        """As in `Source`."""

    def __getitem__(self, index: int) -> Example:
        """As in `Source`."""


def as_source(source: Source | SourceLike) -> Source:
    """Returns `source`, wrapped if its class does not derive from `Source`.

    An object without `tasks` has the single task "label" with its `class_names`. Its `skipped`,
    `notes`, `encoded` and `identities` are used if it has them.

    Raises:
      TypeError: if it lacks a member of `SourceLike`.
    """
    if isinstance(source, Source):
        return source
    missing = [name for name in _MEMBERS if not hasattr(source, name)]
    if missing:
        raise TypeError(
            f"got a source of type {type(source).__name__}, without {', '.join(missing)}; expected "
            "a specification such as 'folder:PATH', or a tl_jax.data.source.Source"
        )
    return _Wrapped(source)


class _Wrapped(Source):
    def __init__(self, wrapped: SourceLike) -> None:
        self._wrapped = wrapped
        self.name, self.split = wrapped.name, wrapped.split
        label_task = Task("label", tuple(wrapped.class_names))
        self.tasks = tuple(getattr(wrapped, "tasks", (label_task,)))
        self.skipped = tuple(getattr(wrapped, "skipped", ()))
        self.notes = tuple(getattr(wrapped, "notes", ()))
        self.value_range = getattr(wrapped, "value_range", None)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, index: int) -> Example:
        return self._wrapped[index]

    def labels(self) -> np.ndarray:
        return self._wrapped.labels()

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        read = getattr(self._wrapped, "encoded", None)
        return None if read is None else read(index)

    def identities(self) -> Sequence[str]:
        name_all = getattr(self._wrapped, "identities", None)
        return super().identities() if name_all is None else name_all()


def check_tasks(name: str, tasks: tuple[Task, ...]) -> None:
    """Checks that the names of a source's tasks are usable as keys of its examples.

    Raises:
      ValueError: if two tasks have the same name, or a task after the first has a reserved one.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names) or set(names[1:]) & set(RESERVED):
        raise ValueError(
            f"got the labels {', '.join(map(repr, names))} of {name}; expected distinct names, of "
            f"which only the first may be one of {', '.join(RESERVED)}: rename the others"
        )


def check_trainable(source: Source) -> None:
    """Checks that a classifier can be trained on a source: that two classes have examples.

    Raises:
      ValueError: if all its labels are of one class; the message guesses where others may be.
    """
    task, labels = source.tasks[0], source.labels()
    if task.multi_label:
        return
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        only = f"are of the class {task.class_names[present[0]]!r}" if len(present) else "have none"
        raise ValueError(
            f"got one class to train on: all {len(labels)} labels of split {source.split!r} of "
            f"{source.name} {only}; expected two classes or more{source.single_class_hint()}"
        )

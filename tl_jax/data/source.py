"""The base class of sources: one split of labelled images whose examples are read in any order."""

import abc
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tl_jax.data.example_inputs import INPUT_KEYS, ONE_IMAGE, Categories, Inputs
from tl_jax.data.task import RESERVED, WEIGHT, Task, check_tasks, label_keys

# With a source belongs what describes its examples.
__all__ = [
    "INPUT_KEYS",
    "ONE_IMAGE",
    "RESERVED",
    "WEIGHT",
    "Categories",
    "Example",
    "Inputs",
    "Source",
    "SourceLike",
    "Task",
    "as_source",
    "check_tasks",
    "check_trainable",
    "label_keys",
]

Example = dict[str, Any]
"""One labelled image, or one labelled object with several images and other values.

`image` is uint8 RGB [H, W, 3], at the file's own size; of a source with views (`Inputs.views`) it
is a sequence of such images, None in the place of a view that is missing. `label` is the main
task's: the index of the class or level, -1 if it is missing; for a multi-label task int8 [classes],
1 for a class that the image has, 0 for one that it does not have, -1 where that is not known; for a
regression the number, NaN if it is missing. The labels of further tasks are under the tasks' names,
in the same forms, and further inputs under the keys and in the forms that `Inputs` gives. The
factor of the example's loss is `example_weight`, if the source has weights. A source may add keys
of its own, such as `path`.
"""


class Source(abc.ABC):
    """One split of a set of labelled images.

    A subclass sets `name`, `split` and `tasks`, and defines `__len__` and `__getitem__`. It
    overrides `labels` (`task_labels` if it has several tasks, `input_arrays` if it has further
    inputs, `example_weights` if it has weights) if it knows them without decoding images, and
    `encoded` (`encoded_views`) if its images are files. Worker processes get a pickled copy.

    Attributes:
      name: the specification that the source was opened by; used in messages and records.
      split: name of the split.
      tasks: what the images are labelled with; the first task is the main one.
      skipped: the images left out because they cannot be decoded, each as "NAME: REASON".
      notes: what was decided for the user, a sentence each: how splits were recognised or held out,
        what was passed over, which spellings were joined.
      value_range: the values of black and white in the source's images of more than 8 bits or of
        floats, if the user or the set says so.
      inputs: what an example holds beside one image.

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
    inputs: Inputs = ONE_IMAGE

    @property
    def class_names(self) -> tuple[str, ...]:
        """The main task's classes, in the order of the labels; none if they are numbers."""
        return self.tasks[0].class_names

    @property
    def has_weights(self) -> bool:
        """Whether examples hold `example_weight`, the factor of their loss in training."""
        return False

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Reads and decodes example `index`, 0 <= index < len; called from several threads."""

    def labels(self) -> np.ndarray:
        """Returns the main task's labels of all examples; by default it reads every example.

        Returns:
          int32 [N], or int8 [N, classes] for a multi-label task; -1 where a label is missing. Of a
          regression float32 [N], NaN where a number is missing.
        """
        labels = [self[index]["label"] for index in range(len(self))]
        return np.asarray(labels, self.tasks[0].dtype).reshape(-1, *self.tasks[0].shape)

    def task_labels(self) -> dict[str, np.ndarray]:
        """Returns the labels of all tasks by key, each in the forms of `labels`.

        By default it reads every example if there are several tasks.
        """
        keys = label_keys(self.tasks)
        if len(keys) == 1:
            return {"label": self.labels()}
        columns = self._read(keys)
        return {
            key: np.asarray(columns[key], task.dtype).reshape(-1, *task.shape)
            for key, task in zip(keys, self.tasks, strict=True)
        }

    def input_arrays(self) -> dict[str, np.ndarray]:
        """Returns the further inputs of all examples by key, as `Inputs` describes them.

        By default it reads every example if there are any.
        """
        arrays, columns = self.inputs.empty(len(self)), self._read(self.inputs.keys)
        for key, array in arrays.items():
            array[:] = np.asarray(columns[key], array.dtype).reshape(array.shape)
        return arrays

    def example_weights(self) -> np.ndarray:
        """Returns the weights of all examples, float32 [N], 0 or more; 1 if the source has none.

        By default it reads every example if there are any.
        """
        if not self.has_weights:
            return np.ones(len(self), np.float32)
        return np.asarray(self._read([WEIGHT])[WEIGHT], np.float32)

    def _read(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        """Returns the values under some keys of all examples."""
        columns: dict[str, list[Any]] = {key: [] for key in keys}
        for index in range(len(self)) if keys else ():
            example = self[index]
            for key in keys:
                columns[key].append(example[key])
        return columns

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """Returns an example's image file as bytes, and the example without `image`.

        The default is None, for a source whose images are not stored as files, or that has views.
        """
        del index
        return None

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        """Returns the files of an example's views as bytes, and the example without `image`.

        None stands for a view that is missing. The default is None, as for `encoded`.
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
    `notes`, `inputs`, `encoded`, `encoded_views`, `task_labels`, `input_arrays`, `has_weights`,
    `example_weights` and `identities` are used if it has them.

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
        self.inputs = getattr(wrapped, "inputs", ONE_IMAGE)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, index: int) -> Example:
        return self._wrapped[index]

    def labels(self) -> np.ndarray:
        return self._wrapped.labels()

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        read = getattr(self._wrapped, "encoded", None)
        return None if read is None else read(index)

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        read = getattr(self._wrapped, "encoded_views", None)
        return None if read is None else read(index)

    def task_labels(self) -> dict[str, np.ndarray]:
        read_all = getattr(self._wrapped, "task_labels", None)
        return super().task_labels() if read_all is None else read_all()

    def input_arrays(self) -> dict[str, np.ndarray]:
        read_all = getattr(self._wrapped, "input_arrays", None)
        return super().input_arrays() if read_all is None else read_all()

    @property
    def has_weights(self) -> bool:
        return bool(getattr(self._wrapped, "has_weights", False))

    def example_weights(self) -> np.ndarray:
        read_all = getattr(self._wrapped, "example_weights", None)
        return super().example_weights() if read_all is None else read_all()

    def identities(self) -> Sequence[str]:
        name_all = getattr(self._wrapped, "identities", None)
        return super().identities() if name_all is None else name_all()


def check_trainable(source: Source) -> None:
    """Checks that the main task can be trained on a source: that two classes have examples.

    Raises:
      ValueError: if all its labels are of one class, where the message guesses where others may be,
        or all are the same number.
    """
    task, labels = source.tasks[0], source.labels()
    if task.multi_label:
        return
    if task.kind == "regression":
        numbers = np.unique(labels[~np.isnan(labels)])
        if len(numbers) < 2:
            only = f"are {numbers[0]:g}" if len(numbers) else "are missing"
            raise ValueError(
                f"got one number to train on: all {len(labels)} labels of split {source.split!r} "
                f"of {source.name} {only}; expected two or more"
            )
        return
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        only = f"are of the class {task.class_names[present[0]]!r}" if len(present) else "have none"
        raise ValueError(
            f"got one class to train on: all {len(labels)} labels of split {source.split!r} of "
            f"{source.name} {only}; expected two classes or more{source.single_class_hint()}"
        )

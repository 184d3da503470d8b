"""The base class of sources: one split of labelled images whose examples are read in any order."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tl_jax import messages
from tl_jax.config.tasks import TaskKind

INPUT_KEYS = ("numeric", "categorical", "tokens", "vector")
"""Keys of what an example may hold beside its images; see `Inputs`."""
RESERVED = (
    *("extent", "image", "index", "label", "mask", "packed", "path", "size", "view_mask"),
    *INPUT_KEYS,
)
"""Keys of examples and batches; no task but the first may have one of these names."""

Example = dict[str, Any]
"""One labelled image, or one labelled object with several images and other values.

`image` is uint8 RGB [H, W, 3], at the file's own size; of a source with views (`Inputs.views`) it
is a sequence of such images, None in the place of a view that is missing. `label` is the main
task's: the index of the class or level, -1 if it is missing; for a multi-label task int8 [classes],
1 for a class that the image has, 0 for one that it does not have, -1 where that is not known; for a
regression the number, NaN if it is missing. The labels of further tasks are under the tasks' names,
in the same forms, and further inputs under the keys and in the forms that `Inputs` gives. A source
may add keys of its own, such as `path`.
"""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every image is labelled with: classes, levels, or a number.

    Attributes:
      name: name of the column or feature that holds the labels.
      class_names: the classes, in the order of the labels; none if the label is a number.
      multi_label: whether an image may have any number of the classes, rather than exactly one.
      ordered: whether the classes are levels, from low to high.

    Raises:
      ValueError: on construction, if these do not go together.

    Examples:
      >>> Task("species", ("cat", "dog")).kind, Task("weight", ()).kind
      ('multi_class', 'regression')
    """

    name: str
    class_names: tuple[str, ...]
    multi_label: bool = False
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.multi_label + self.ordered + (not self.class_names) > 1:
            raise ValueError(
                f"got the task {self.name!r} with {len(self.class_names)} classes, "
                f"multi_label={self.multi_label} and ordered={self.ordered}; expected one of the "
                "two at most, and neither without classes, where a label is a number"
            )

    @property
    def kind(self) -> TaskKind:
        """What the labels are."""
        if not self.class_names:
            return "regression"
        if self.multi_label:
            return "multi_label"
        return "ordinal" if self.ordered else "multi_class"

    @property
    def dtype(self) -> np.dtype:
        """Type of the labels in arrays: float32 of numbers, int8 of several classes, or int32."""
        types = {"regression": np.float32, "multi_label": np.int8}
        return np.dtype(types.get(self.kind, np.int32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one label: () or, of several classes, (classes,)."""
        return (len(self.class_names),) if self.multi_label else ()

    def missing(self, labels: np.ndarray) -> np.ndarray:
        """Returns which labels [N] or [N, classes] are missing: bool [N].

        Of a multi-label task those are the rows of which no class is known.
        """
        if self.kind == "regression":
            return np.asarray(np.isnan(labels))
        return np.asarray((labels < 0).all(axis=1) if self.multi_label else labels < 0)


def label_keys(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Returns the keys of the labels in examples and batches: `label`, then the others' names."""
    return ("label", *(task.name for task in tasks[1:]))


@dataclasses.dataclass(frozen=True)
class Categories:
    """A column of names, each of which is one of a fixed list.

    Attributes:
      name: name of the column.
      values: the names; a batch holds their places in this list.
    """

    name: str
    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the examples of a source hold beside a single image; by default nothing.

    Categories and vocabulary are those of the training split, whichever split the source is: they
    decide what the numbers in a batch mean, so a network needs the same in training and later.

    Attributes:
      views: 0: `image` is one image. V: it is a sequence of up to V images of one object; batches
        hold `image` [B, V, side, side, 3], `size` [B, V, 2] (in training) and `view_mask`, bool
        [B, V], False for a view that is missing, whose pixels are 0.
      numeric: columns of numbers, key `numeric`: float32 [B, columns], NaN where one is missing.
      categorical: columns of names, key `categorical`: int32 [B, columns], -1 for a name that is
        missing or not in the list.
      vocabulary: words of a text, the most frequent first, key `tokens`: int32 [B, max_tokens]. 0
        is no word, 1 a word that is not in the vocabulary, 2 + i the word vocabulary[i]; a text
        that is missing is all 0.
      max_tokens: words of a text that are kept, from its beginning; 0: there is no text.
      vector: length of a vector of numbers, key `vector`: float32 [B, vector], all NaN where it is
        missing; 0: there is none.

    Raises:
      ValueError: on construction, if a number is negative, there are words without `max_tokens`,
        or a column is named twice.

    Examples:
      >>> Inputs(numeric=("age",), categorical=(Categories("sex", ("f", "m")),)).keys
      ('numeric', 'categorical')
    """

    views: int = 0
    numeric: tuple[str, ...] = ()
    categorical: tuple[Categories, ...] = ()
    vocabulary: tuple[str, ...] = ()
    max_tokens: int = 0
    vector: int = 0

    def __post_init__(self) -> None:
        if min(self.views, self.max_tokens, self.vector) < 0:
            raise ValueError(
                f"got views={self.views}, max_tokens={self.max_tokens} and vector={self.vector}; "
                "expected 0 (none) or more of each"
            )
        if self.vocabulary and not self.max_tokens:
            raise ValueError(
                f"got a vocabulary of {len(self.vocabulary)} words and max_tokens=0; expected the "
                "number of words that a text may have"
            )
        columns = [*self.numeric, *(each.name for each in self.categorical)]
        for named in (columns, self.vocabulary, *(each.values for each in self.categorical)):
            if len(set(named)) < len(named):
                twice = next(name for name in named if list(named).count(name) > 1)
                raise ValueError(f"got {twice!r} twice among {messages.some(list(named))}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of examples and batches that hold them, without those of the images."""
        has = (self.numeric, self.categorical, self.max_tokens, self.vector)
        return tuple(key for key, there in zip(INPUT_KEYS, has, strict=True) if there)

    @property
    def is_one_image(self) -> bool:
        """Whether an example is a single image and nothing else."""
        return not self.views and not self.keys

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Returns arrays of the further inputs of `count` examples, in which all are missing."""
        arrays = {
            "numeric": np.full((count, len(self.numeric)), np.nan, np.float32),
            "categorical": np.full((count, len(self.categorical)), -1, np.int32),
            "tokens": np.zeros((count, self.max_tokens), np.int32),
            "vector": np.full((count, self.vector), np.nan, np.float32),
        }
        return {key: arrays[key] for key in self.keys}


ONE_IMAGE = Inputs()
"""The inputs of a source whose examples are single images."""


class Source(abc.ABC):
    """One split of a set of labelled images.

    A subclass sets `name`, `split` and `tasks`, and defines `__len__` and `__getitem__`. It
    overrides `labels` (`task_labels` if it has several tasks, `input_arrays` if it has further
    inputs) if it knows them without decoding images, and `encoded` (`encoded_views`) if its images
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
    `notes`, `inputs`, `encoded`, `encoded_views`, `task_labels`, `input_arrays` and `identities`
    are used if it has them.

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

"""The protocol of a source: a split of labelled images that can be read in any order."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np

RESERVED = ("extent", "image", "index", "label", "mask", "path", "size")
"""Keys of examples and batches that no further task may be called by."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One question asked of every image.

    Attributes:
      name: of the column or feature that holds the labels.
      class_names: the classes, in the order of the labels.
      multi_label: whether an image may have any number of the classes, and not exactly one.
    """

    name: str
    class_names: tuple[str, ...]
    multi_label: bool = False


class Example(TypedDict):
    """One labelled image; a source may add keys of its own.

    The labels of further tasks lie under the tasks' names, in the forms of `label`.
    """

    image: np.ndarray
    """uint8 RGB [H, W, 3], at the file's own size."""
    label: int | np.ndarray
    """Of the main task: the index of the class, -1 if it is missing; for a multi-label task int8
    [classes], 1 for a class that the image has, 0 for one that it has not, -1 if that is not
    known."""


class Source(Protocol):
    """One split of a set of labelled images."""

    @property
    def name(self) -> str:
        """What the source was opened by."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the images are labelled with; the first task is the main one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The main task's classes, in the order of the labels."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images left out because they cannot be decoded, each with the reason."""

    def labels(self) -> np.ndarray:
        """Returns the main task's labels of all examples, read without decoding an image.

        int32 [N], or int8 [N, classes] for a multi-label task; -1 where one is missing.
        """

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes example `index`, 0 <= index < len; safe to call from threads."""


@runtime_checkable
class EncodedSource(Protocol):
    """What a source offers besides if its images are files, or the bytes of files."""

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """Returns the bytes of an example's file, and the example without its image."""


@runtime_checkable
class _WithTasks(Protocol):
    tasks: tuple[Task, ...]


def tasks_of(source: Source) -> tuple[Task, ...]:
    """Returns the tasks of a source; one that knows only `class_names` has the task "label"."""
    if isinstance(source, _WithTasks):
        return tuple(source.tasks)
    return (Task("label", tuple(source.class_names)),)


def check_tasks(name: str, tasks: tuple[Task, ...]) -> None:
    """Raises ValueError if two tasks, or a further task and a key of the examples, share a name."""
    names = [task.name for task in tasks]
    taken = [key for key in names[1:] if key in RESERVED]
    if taken or len(set(names)) < len(names):
        raise ValueError(
            f"got the labels {', '.join(map(repr, names))} of {name}; expected each once, and none "
            f"but the first, the main one, called {', '.join(RESERVED)}: rename the others"
        )


def cache_dir() -> Path:
    """Returns the folder where prepared sets and results of checks are kept between runs."""
    return Path.home() / ".cache" / "tl_jax"

"""A task: what every image of a source is labelled with, and the keys of its labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tl_jax.config.tasks import TaskKind
from tl_jax.data.example_inputs import INPUT_KEYS
from tl_jax.objectives.objective import WEIGHT

RESERVED = (
    *("extent", "image", "index", "label", "mask", "packed", "path", "size", "view_mask"),
    *(WEIGHT, *INPUT_KEYS),
)
"""Keys of examples and batches; no task but the first may have one of these names."""


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

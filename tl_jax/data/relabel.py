"""Other data for a trained classifier: a source whose classes are matched to its own by name."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from tl_jax import messages
from tl_jax.data.class_names import tidy
from tl_jax.data.source import Example, Source, Task
from tl_jax.data.subset import Selection

UnknownClasses = Literal["raise", "skip"]


class Relabelled(Selection):
    """A source with the labels of given classes, without the images of other classes.

    Attributes:
      source, indices: as in `Selection`.
      left_out: number of images that were left out, by the name of their class.
    """

    def __init__(self, source: Source, class_names: Sequence[str], labels: np.ndarray) -> None:
        """Keeps the examples whose new label is not negative.

        Args:
          source: a source with one label per image.
          class_names: the classes.
          labels: int [N], the new label of each example; -1 leaves it out.
        """
        without = source.labels()[labels < 0]
        old, counts = np.unique(without[without >= 0], return_counts=True)
        self.left_out = {
            source.class_names[label]: int(count)
            for label, count in zip(old.tolist(), counts.tolist(), strict=True)
        }
        left = [f"{name!r} ({count})" for name, count in self.left_out.items()]
        said = f"left out {sum(self.left_out.values())} images of other classes: "
        note = said + messages.some(left, quoted=False) if left else ""
        super().__init__(source, source.split, np.flatnonzero(labels >= 0).tolist(), note)
        main = Task(source.tasks[0].name, tuple(class_names), ordered=source.tasks[0].ordered)
        self.tasks = (main, *source.tasks[1:])
        self._labels = labels[list(self.indices)].astype(np.int32)

    def __getitem__(self, index: int) -> Example:
        return {**super().__getitem__(index), "label": int(self._labels[index])}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self._labels

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        return {**super().task_labels(), "label": self._labels}

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """As in `Source`."""
        encoded = super().encoded(index)
        if encoded is None:
            return None
        data, example = encoded
        return data, {**example, "label": int(self._labels[index])}

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        """As in `Source`."""
        encoded = super().encoded_views(index)
        if encoded is None:
            return None
        views, example = encoded
        return views, {**example, "label": int(self._labels[index])}


def match_to(
    source: Source, class_names: Sequence[str], *, unknown: UnknownClasses = "raise"
) -> Source:
    """Returns a source with given classes, in their order; its own are matched to them by name.

    Names are the same if they differ at most in blanks around them and in Unicode's normal form.
    Classes of which the source has no image are no error: see `absent_classes`.

    Args:
      source: a source with one label per image.
      class_names: the classes, such as those that a run was trained on.
      unknown: what to do with images of other classes: "raise", or "skip" to leave them out.

    Raises:
      ValueError: if there are images of other classes and `unknown` is "raise", or no image of any
        of the classes; or `unknown` has another value.

    Examples:
      >>> from tl_jax.data.sources.arrays import from_arrays
      >>> other = from_arrays(np.zeros((3, 8, 8), np.uint8), ["dog", "cat", "dog"])
      >>> match_to(other, ("emu", "dog", "cat")).labels().tolist()
      [1, 2, 1]
    """
    if unknown not in get_args(UnknownClasses):
        raise ValueError(f"got unknown={unknown!r}; expected 'raise' or 'skip'")
    if source.class_names == tuple(class_names):
        return source
    exact = {name: index for index, name in enumerate(class_names)}
    tidied = {tidy(name): index for index, name in enumerate(class_names)}
    new = [exact.get(name, tidied.get(tidy(name), -1)) for name in source.class_names]
    labels = source.labels()
    matched = Relabelled(source, class_names, np.asarray([*new, -1])[labels])
    if not len(matched):
        are_numbers = source.name.startswith("npz:") and all(map(str.isdecimal, matched.left_out))
        near = messages.hint(next(iter(matched.left_out)), class_names)
        raise ValueError(
            f"split {source.split!r} of {source.name} has images of "
            f"{messages.some(list(matched.left_out))}, none of the classes that were trained on, "
            f"{messages.some(list(class_names))}; give data of these classes, under these names"
            f"{' (an array `class_names` in the file names its numbers)' * are_numbers}{near}"
        )
    if matched.left_out and unknown == "raise":
        counts = [f"{name!r} ({count})" for name, count in matched.left_out.items()]
        near = messages.hint(next(iter(matched.left_out)), class_names)
        then = f"{near} Rename" if near else "; rename"
        raise ValueError(
            f"split {source.split!r} of {source.name} has images of classes that were not trained "
            f"on: {messages.some(counts, quoted=False)}{then} the classes, or leave "
            "these images out with unknown_classes='skip' (--unknown-classes skip)"
        )
    return matched


def absent_classes(source: Source) -> list[str]:
    """Returns the classes of which a source has no image, in the order of the labels."""
    present = set(np.unique(source.labels()).tolist())
    return [name for label, name in enumerate(source.class_names) if label not in present]

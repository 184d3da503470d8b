"""Subsets of a source: a few examples of each class, and stratified parts to train on and hold out.

A subset depends only on the labels, the examples' names and the seed, so it is the same on every
machine. Its `record` identifies it in the `run.json` of a run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.source import Example, Source, SourceLike, as_source


class Selection(Source):
    """Some examples of a source, in the source's order; itself a source.

    Attributes:
      source: the source that the examples belong to.
      indices: indices of the examples in `source`, each once.
    """

    def __init__(self, source: Source, split: str, indices: Sequence[int], note: str = "") -> None:
        """Keeps the examples at some indices; `note` says which, if anything is to be said."""
        self.source = source
        self.name, self.split = source.name, split
        self.tasks, self.skipped = source.tasks, source.skipped
        self.value_range, self.inputs = source.value_range, source.inputs
        self.notes = (*source.notes, note) if note else source.notes
        self.indices = tuple(sorted(indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.source.labels()[list(self.indices)]

    def task_labels(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        chosen = list(self.indices)
        return {key: labels[chosen] for key, labels in self.source.task_labels().items()}

    def input_arrays(self) -> dict[str, np.ndarray]:
        """As in `Source`."""
        chosen = list(self.indices)
        return {key: array[chosen] for key, array in self.source.input_arrays().items()}

    @property
    def has_weights(self) -> bool:
        """As in `Source`."""
        return self.source.has_weights

    def example_weights(self) -> np.ndarray:
        """As in `Source`."""
        return self.source.example_weights()[list(self.indices)]

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """As in `Source`."""
        return self.source.encoded(self.indices[index])

    def encoded_views(self, index: int) -> tuple[Sequence[bytes | None], Example] | None:
        """As in `Source`."""
        return self.source.encoded_views(self.indices[index])

    def identities(self) -> Sequence[str]:
        """As in `Source`."""
        names = self.source.identities()
        return [names[index] for index in self.indices]

    def content_marks(self) -> Sequence[str]:
        """As in `Source`."""
        marks = self.source.content_marks()
        return [marks[index] for index in self.indices] if marks else []

    def single_class_hint(self) -> str:
        """As in `Source`."""
        return self.source.single_class_hint()


class Subset(Selection):
    """Examples that a rule chose, with the record of the rule.

    Attributes:
      source, indices: as in `Selection`.
      record: what identifies the subset, as JSON: `kind` ("few_shot" or "carve"), `seed`, `shots`
        or `fraction`, `count`, and `sha256` of the indices (as little-endian 64-bit integers); if
        `source` is a subset too, `of` is its record.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        indices: Sequence[int],
        record: Mapping[str, Any],
        note: str = "",
    ) -> None:
        """Keeps the examples at some indices, chosen as `record` and `note` say."""
        super().__init__(source, split, indices, note)
        digest = hashlib.sha256(np.asarray(self.indices, "<i8").tobytes()).hexdigest()
        self.record = {**record, "count": len(self.indices), "sha256": digest}
        if isinstance(source, Subset):
            self.record["of"] = source.record


def few_shot(source: Source | SourceLike, shots: int, *, seed: int) -> Subset:
    """Returns a few examples of each class, drawn at random.

    The draws are nested: five shots contain the one shot of the same seed. Examples without a label
    are never drawn, and no picture is drawn twice (see `Source.identities`).

    Args:
      source: a source with one class or level per image.
      shots: examples of each class.
      seed: chooses them.

    Raises:
      ValueError: if `shots` is not positive, a class has fewer examples, or the source's main task
        is multi-label or a regression.

    Examples:
      >>> from tl_jax.data.sources.arrays import from_arrays
      >>> source = from_arrays(np.zeros((6, 8, 8), np.uint8), ["cat", "dog"] * 3)
      >>> few_shot(source, 2, seed=0).labels().tolist()
      [0, 1, 0, 1]
    """
    if shots < 1:
        raise ValueError(f"got shots={shots}; expected 1 or more examples per class")
    source = as_source(source)
    task = source.tasks[0]
    if task.kind in ("multi_label", "regression"):
        kind = "multi-label task" if task.multi_label else "regression"
        raise ValueError(
            f"{source.name} has the {kind} {task.name!r}; few-shot subsets need one class "
            "label per image: take a slice, or a stratified part (`carve`)"
        )
    labels, identities = source.labels(), source.identities()
    by_class = [np.flatnonzero(labels == label) for label in range(len(task.class_names))]
    orders = []
    for indices in by_class:
        first: dict[str, int] = {}
        for index in splits.shuffled(map(str, indices.tolist()), seed=seed):
            first.setdefault(identities[int(index)], int(index))
        orders.append(list(first.values()))
    too_few = [
        f"{name} ({len(order)})"
        for name, order in zip(task.class_names, orders, strict=True)
        if len(order) < shots
    ]
    if too_few:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with fewer than {shots} examples: "
            f"{messages.some(too_few)}; choose fewer shots"
        )
    record = {"kind": "few_shot", "seed": seed, "shots": shots}
    note = (
        f"{shots} examples of each class of split {source.split!r} are drawn with the seed {seed}"
    )
    drawn = [index for order in orders for index in order[:shots]]
    return Subset(source, source.split, drawn, record, note)


def carve(
    source: Source | SourceLike, fraction: float, *, seed: int, held_out: str = "validation"
) -> tuple[Subset, Subset]:
    """Divides a source into a part to train on and a part to hold out, stratified by its labels.

    An example is held out if the hash of its name (`Source.identities`) lies below the fraction: it
    stays held out when the source grows, copies of one picture stay together, and the share is
    about the fraction (see `splits.hold_out`). Each part has at least one picture of each class,
    and at least one of a multi-label task or a regression.

    Args:
      source: the source to divide.
      fraction: share to hold out, 0 < fraction < 1.
      seed: chooses the examples.
      held_out: name of the split that the second part becomes; the first keeps its name.

    Raises:
      ValueError: if the fraction is out of range, a class has a single example, both parts would
        have the same name, or one of them would be empty.
    """
    splits.check_fraction(fraction, name="fraction")
    source = as_source(source)
    if held_out == source.split:
        raise ValueError(f"got held_out={held_out!r}, which is the split's name; expected another")
    task = source.tasks[0]
    indices_of, strata = _strata(source)
    has_classes = task.kind in ("multi_class", "ordinal")
    single = [
        task.class_names[label]
        for label, names in strata.items()
        if has_classes and label >= 0 and len(names) < 2
    ]
    if single:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with a single example: "
            f"{messages.some(single)}; a class needs two, one to train on and one to hold out"
        )
    indices: tuple[list[int], list[int]] = ([], [])
    salt = f"carve{_depth(source)}:"  # Independent of divisions of the source itself.
    for label, names in strata.items():
        parts = splits.hold_out(
            names, fraction=fraction, seed=seed, nonempty=label >= 0 and len(names) > 1, salt=salt
        )
        for part, chosen in zip(indices, parts, strict=True):
            part += [index for name in chosen for index in indices_of[name]]
    if not all(indices):
        raise ValueError(
            f"holding out {fraction} of the {len(source)} examples of {source.name} leaves "
            f"{len(indices[0])} to train on and {len(indices[1])} held out; expected some in both: "
            "choose another fraction"
        )
    record = {"kind": "carve", "seed": seed, "fraction": fraction}
    note = (
        f"about {fraction:g} of each class of split {source.split!r} is held out as {held_out!r}, "
        f"by a hash of each picture's name and the seed {seed}"
    )
    return (
        Subset(source, source.split, indices[0], record, note),
        Subset(source, held_out, indices[1], record, note),
    )


def _strata(source: Source) -> tuple[dict[str, list[int]], dict[int, list[str]]]:
    """Returns the indices of each picture, and the pictures of each class.

    Pictures without a label are those of the class -1; all of a multi-label task or a regression
    are of class 0.
    """
    labels, has_classes = source.labels(), source.tasks[0].kind in ("multi_class", "ordinal")
    indices_of: dict[str, list[int]] = {}
    for index, name in enumerate(source.identities()):
        indices_of.setdefault(name, []).append(index)
    strata: dict[int, list[str]] = {}
    for name, indices in indices_of.items():
        label = int(labels[indices[0]]) if has_classes else 0
        strata.setdefault(label, []).append(name)
    return indices_of, dict(sorted(strata.items()))


def _depth(source: Source) -> int:
    """Returns how many subsets a source is inside of one another."""
    return 1 + _depth(source.source) if isinstance(source, Subset) else 0

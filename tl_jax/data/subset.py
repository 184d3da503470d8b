"""Subsets of a source: a few examples of each class, and stratified parts to train on and hold out.

A subset depends only on the labels, their order and the seed, so it is the same on every machine.
Its `record` identifies it in the `run.json` of a run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.source import Example, Source, SourceLike, as_source


class Subset(Source):
    """Some examples of a source, in the source's order; itself a source.

    Attributes:
      source: the source that the examples belong to.
      indices: indices of the examples in `source`, each once.
      record: what identifies the subset, as JSON: `kind` ("few_shot" or "carve"), `seed`, `shots`
        or `fraction`, `count`, and `sha256` of the indices (as little-endian 64-bit integers); if
        `source` is a subset too, `of` is its record.
    """

    def __init__(
        self, source: Source, split: str, indices: Sequence[int], record: Mapping[str, Any]
    ) -> None:
        self.source = source
        self.name, self.split = source.name, split
        self.tasks, self.skipped = source.tasks, source.skipped
        self.indices = tuple(sorted(indices))
        digest = hashlib.sha256(np.asarray(self.indices, "<i8").tobytes()).hexdigest()
        self.record = {**record, "count": len(self.indices), "sha256": digest}
        if isinstance(source, Subset):
            self.record["of"] = source.record

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.source.labels()[list(self.indices)]

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """As in `Source`."""
        return self.source.encoded(self.indices[index])


def few_shot(source: Source | SourceLike, shots: int, *, seed: int) -> Subset:
    """Returns a few examples of each class, drawn at random.

    The draws are nested: five shots contain the one shot of the same seed. Examples without a label
    are never drawn.

    Args:
      source: a source with one label per image.
      shots: examples of each class.
      seed: chooses them.

    Raises:
      ValueError: if `shots` is not positive, a class has fewer examples, or the source's main task
        is multi-label.

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
    if task.multi_label:
        raise ValueError(
            f"{source.name} has the multi-label task {task.name!r}; few-shot subsets need one "
            "label per image: take a slice, or a stratified part (`carve`)"
        )
    strata = _strata(source)
    classes = [strata.get((label,), []) for label in range(len(task.class_names))]
    too_few = [
        f"{name} ({len(names)})"
        for name, names in zip(task.class_names, classes, strict=True)
        if len(names) < shots
    ]
    if too_few:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with fewer than {shots} examples: "
            f"{messages.some(too_few)}; choose fewer shots"
        )
    indices = [int(name) for names in classes for name in splits.shuffled(names, seed=seed)[:shots]]
    record = {"kind": "few_shot", "seed": seed, "shots": shots}
    return Subset(source, source.split, indices, record)


def carve(
    source: Source | SourceLike, fraction: float, *, seed: int, held_out: str = "validation"
) -> tuple[Subset, Subset]:
    """Divides a source into a part to train on and a part to hold out, stratified by its labels.

    The fraction is taken of each class, rounded, and leaves each part at least one example of it.
    Examples without a label, and those of each combination of labels of a multi-label task, are
    divided in the same way but without that minimum.

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
    strata = _strata(source)
    classes = {} if task.multi_label else {(i,): name for i, name in enumerate(task.class_names)}
    single = [classes[key] for key, names in strata.items() if key in classes and len(names) < 2]
    if single:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with a single example: "
            f"{messages.some(single)}; a class needs two, one to train on and one to hold out"
        )
    indices: tuple[list[int], list[int]] = ([], [])
    for key, names in strata.items():
        parts = splits.hold_out(names, fraction=fraction, seed=seed, nonempty=key in classes)
        for part, chosen in zip(indices, parts, strict=True):
            part += map(int, chosen)
    if not all(indices):
        raise ValueError(
            f"holding out {fraction} of the {len(source)} examples of {source.name} leaves "
            f"{len(indices[0])} to train on and {len(indices[1])} held out; expected some in both: "
            "choose another fraction"
        )
    record = {"kind": "carve", "seed": seed, "fraction": fraction}
    return (
        Subset(source, source.split, indices[0], record),
        Subset(source, held_out, indices[1], record),
    )


def _strata(source: Source) -> dict[tuple[int, ...], list[str]]:
    """Returns the indices of the examples of each label, or set of labels, as strings."""
    labels = source.labels()
    strata: dict[tuple[int, ...], list[str]] = {}
    for index, row in enumerate(labels.reshape(len(labels), -1).tolist()):
        strata.setdefault(tuple(row), []).append(str(index))
    return dict(sorted(strata.items()))

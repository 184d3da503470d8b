"""Parts of a source: a few examples a class, and stratified parts to train on and to hold out.

What a part holds depends on the labels, their order and the seed alone, so it is the same on every
machine; its `record` says which part it is, for the record of a run.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data.partition import check_fraction, hold_out, shuffled
from tl_jax.data.source import EncodedSource, Example, Source, Task, tasks_of


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some examples of a source, in their order; itself a source.

    Attributes:
      source: the whole.
      split: name of the part.
      indices: of the examples within the whole, each once.
      record: what the part is, as JSON: `kind` ("few_shot" or "carve"), `seed`, `shots` or
        `fraction`, `count`, and `sha256` of the indices (as little-endian 64-bit numbers); and
        if the whole is a part itself, its record under `of`.
    """

    source: Source
    split: str
    indices: tuple[int, ...]
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As in `Source`."""
        return self.source.name

    @property
    def tasks(self) -> tuple[Task, ...]:
        """As in `Source`."""
        return tasks_of(self.source)

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in `Source`."""
        return tuple(self.source.class_names)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that were left out of the whole."""
        return tuple(self.source.skipped)

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return self.source.labels()[list(self.indices)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


class EncodedSubset(Subset):
    """A subset of a source whose images are files, or the bytes of files."""

    source: EncodedSource

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """As in `EncodedSource`."""
        return self.source.encoded(self.indices[index])


def few_shot(source: Source, shots: int, *, seed: int) -> Subset:
    """Returns a few examples of each class, drawn at random.

    The draws are nested: five shots contain the one shot of the same seed. Examples without a label
    are not drawn.

    Args:
      source: the whole, with one label an image.
      shots: examples of each class.
      seed: chooses them.

    Raises:
      ValueError: if `shots` is not positive, a class has fewer examples, or the source's main task
        is multi-label.
    """
    if shots < 1:
        raise ValueError(f"got shots={shots}; expected 1 or more examples a class")
    task = tasks_of(source)[0]
    if task.multi_label:
        raise ValueError(
            f"{source.name} has the multi-label task {task.name!r}; a few shots a class need one "
            "label an image: take a slice, or a stratified part (`carve`)"
        )
    classes = _strata(source)
    counts = {each: len(classes.get((i,), ())) for i, each in enumerate(task.class_names)}
    few = [f"{each} ({count})" for each, count in counts.items() if count < shots]
    if few:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with fewer than {shots} examples: "
            f"{messages.some(few)}; choose fewer shots"
        )
    drawn = [shuffled(classes[(i,)], seed=seed)[:shots] for i in range(len(counts))]
    facts = {"kind": "few_shot", "seed": seed, "shots": shots}
    return _subset(source, source.split, [place for each in drawn for place in each], facts)


def carve(
    source: Source, fraction: float, *, seed: int, held_out: str = "validation"
) -> tuple[Subset, Subset]:
    """Divides a source into a part to train on and a part to hold out, stratified by its labels.

    Each class gives the fraction of its examples, rounded, but one at least to each part; for a
    multi-label task, so does each set of labels, without a least number. So do the examples without
    a label.

    Args:
      source: the whole.
      fraction: part to hold out, 0 < fraction < 1.
      seed: chooses the examples.
      held_out: name of the split that the second part becomes; the first keeps its own.

    Raises:
      ValueError: if the fraction is none, a class has a single example, both parts would have one
        name, or nothing would be held out.
    """
    check_fraction(fraction, name="fraction")
    if held_out == source.split:
        raise ValueError(f"got held_out={held_out!r}, the split's own name; expected another")
    task = tasks_of(source)[0]
    strata = _strata(source)
    known = {} if task.multi_label else {(i,): each for i, each in enumerate(task.class_names)}
    lonely = [known[key] for key, places in strata.items() if key in known and len(places) < 2]
    if lonely:
        raise ValueError(
            f"classes of split {source.split!r} of {source.name} with a single example: "
            f"{messages.some(lonely)}; a class needs two, one to train on and one to hold out"
        )
    dealt = [
        hold_out(places, fraction=fraction, seed=seed, both=key in known)
        for key, places in strata.items()
    ]
    facts = {"kind": "carve", "seed": seed, "fraction": fraction}
    kept, held = (
        _subset(source, split, [place for pair in dealt for place in pair[side]], facts)
        for side, split in enumerate((source.split, held_out))
    )
    if not len(held) or not len(kept):
        raise ValueError(
            f"holding out {fraction} of the {len(source)} examples of {source.name} leaves "
            f"{len(kept)} to train on and {len(held)} held out; expected some in both"
        )
    return kept, held


def _strata(source: Source) -> dict[tuple[int, ...], list[str]]:
    """Returns the places of the examples of each label, or set of labels, as names."""
    labels = source.labels()
    rows = labels.reshape(len(labels), -1).tolist()
    strata: dict[tuple[int, ...], list[str]] = {}
    for place, row in enumerate(rows):
        strata.setdefault(tuple(row), []).append(str(place))
    return dict(sorted(strata.items()))


def _subset(source: Source, split: str, places: Sequence[str], facts: Mapping[str, Any]) -> Subset:
    indices = tuple(sorted(int(place) for place in places))
    digest = hashlib.sha256(np.asarray(indices, "<i8").tobytes()).hexdigest()
    of = {"of": dict(source.record)} if isinstance(source, Subset) else {}
    record = {**facts, "count": len(indices), "sha256": digest, **of}
    kind = EncodedSubset if isinstance(source, EncodedSource) else Subset
    return kind(source, split, indices, record)

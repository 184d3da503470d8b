"""The order of training: endless streams of examples, set by the seed and the position alone."""

import dataclasses
from typing import Literal, Protocol

import numpy as np

from tl_jax.data.source import Source

Sampling = Literal["uniform", "balanced", "square_root"]

# Parts of the seeds that keep the orders apart. `Uniform` has none: recorded runs keep their order.
_BALANCED, _WALK, _WEIGHTED = 1, 2, 3
_EPOCHS_KEPT = 4


class Order(Protocol):
    """The order of the examples, epoch by epoch."""

    def __len__(self) -> int:
        """Returns the number of draws in an epoch."""

    def epoch(self, number: int) -> np.ndarray:
        """Draws one epoch: int64 [len], indices of examples; the same ones for the same number."""


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A new permutation of all examples each epoch.

    Attributes:
      count: number of examples.
      seed: chooses the permutations.

    Examples:
      >>> Uniform(5, seed=7).epoch(0).tolist()
      [3, 4, 0, 2, 1]
    """

    count: int
    seed: int

    def __post_init__(self) -> None:
        _check_any(self.count, "examples")

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int) -> np.ndarray:
        """Draws the permutation of one epoch.

        It sorts raw random bits: NumPy keeps only these the same in all its versions.
        """
        return np.argsort(_random_bits(self.count, self.seed, number), kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class Balanced:
    """All classes equally often: with C classes, each C consecutive draws hold every class once.

    The examples of a class come in permutations, so that none is repeated before all of them were
    drawn. An epoch has as many draws as there are examples with a label, rounded up to a multiple
    of C. Examples whose label is missing (-1) are never drawn.

    Attributes:
      labels: int [N], the class of each example.
      seed: chooses the order.
    """

    labels: np.ndarray
    seed: int
    _classes: list[np.ndarray] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = _checked_labels(self.labels)
        by_label = np.argsort(labels, kind="stable")
        labelled = by_label[np.count_nonzero(labels < 0) :]
        starts = np.flatnonzero(np.diff(labels[labelled])) + 1
        object.__setattr__(self, "_classes", np.split(labelled, starts))

    def __len__(self) -> int:
        return len(self._classes) * self._turns

    @property
    def _turns(self) -> int:
        """Draws of each class in an epoch."""
        return -(-sum(map(len, self._classes)) // len(self._classes))

    def epoch(self, number: int) -> np.ndarray:
        """Draws one epoch."""
        turns, classes = self._turns, self._classes
        drawn = np.stack([self._walk(c, number * turns, turns) for c in range(len(classes))], 1)
        bits = _random_bits(drawn.size, self.seed, number, _BALANCED).reshape(drawn.shape)
        return np.take_along_axis(drawn, np.argsort(bits, axis=1, kind="stable"), 1).reshape(-1)

    def _walk(self, label: int, start: int, count: int) -> np.ndarray:
        """Returns the draws `start` to `start + count` of one class."""
        members = self._classes[label]
        first, last = start // len(members), (start + count - 1) // len(members)
        walks = []
        for walk in range(first, last + 1):
            bits = _random_bits(len(members), self.seed, walk, _WALK, label)
            walks.append(members[np.argsort(bits, kind="stable")])
        skipped = start - first * len(members)
        return np.concatenate(walks)[skipped : skipped + count]


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """Each example in proportion to its weight.

    An epoch has as many draws as there are examples. An example of weight w, where all weights sum
    to W, is drawn floor or ceil(len * w / W) times, and len * w / W times on average: systematic
    resampling, over the examples in random order.

    Attributes:
      weights: [N], at least 0, not all of them 0.
      seed: chooses the order.
    """

    weights: np.ndarray
    seed: int

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, np.float64)
        is_valid = weights.ndim == 1 and np.isfinite(weights).all() and (weights >= 0).all()
        if not is_valid or not weights.any():
            raise ValueError(
                f"got weights of shape {weights.shape}; {int((weights < 0).sum())} are negative "
                f"and {int((~np.isfinite(weights)).sum())} not finite; expected one weight per "
                "example, 0 or more, and at least one above 0"
            )
        object.__setattr__(self, "weights", weights)

    def __len__(self) -> int:
        return len(self.weights)

    def epoch(self, number: int) -> np.ndarray:
        """Draws one epoch."""
        count = len(self)
        bits = _random_bits(2 * count + 1, self.seed, number, _WEIGHTED)
        shuffled = np.argsort(bits[:count], kind="stable")
        sums = np.cumsum(self.weights[shuffled])
        # The upper 53 bits make a float in [0, 1).
        places = (np.arange(count) + float(int(bits[-1]) >> 11) * 2.0**-53) / count
        chosen = np.searchsorted(sums, places * sums[-1], side="right")
        # Rounding may move a place up to the total sum, past which all weights are 0.
        last = np.flatnonzero(self.weights[shuffled])[-1]
        drawn = shuffled[np.minimum(chosen, last)]
        return drawn[np.argsort(bits[count:-1], kind="stable")]


def square_root_weights(labels: np.ndarray) -> np.ndarray:
    """Returns weights by which a class of n examples is drawn in proportion to sqrt(n).

    This is half-way between drawing every example and every class equally often; examples without
    a label get 0. Source: Mahajan et al., arXiv:1805.00932.
    """
    labels = _checked_labels(labels)
    counts = np.bincount(labels[labels >= 0])
    return np.where(labels >= 0, 1 / np.sqrt(np.maximum(counts, 1))[labels], 0.0)


def make_order(sampling: Sampling, source: Source, *, seed: int) -> Order:
    """Returns the order of a source's examples.

    Args:
      sampling: "uniform": every example once an epoch. "balanced": every class equally often.
        "square_root": every class in proportion to the square root of its size.
      source: its `labels()` are read unless the order is uniform.
      seed: chooses the order.

    Raises:
      ValueError: if the sampling is unknown, the source is empty, or the main task, whose classes
        would have to be balanced, is multi-label or a regression.
    """
    if sampling not in ("uniform", "balanced", "square_root"):
        raise ValueError(
            f"got sampling={sampling!r}; expected 'uniform', 'balanced' or 'square_root'"
        )
    if len(source) == 0:
        raise ValueError(f"split {source.split!r} of {source.name} holds no example")
    if sampling == "uniform":
        return Uniform(len(source), seed)
    main_task = source.tasks[0]
    if main_task.kind in ("multi_label", "regression"):
        have = "numbers as" if main_task.kind == "regression" else "several classes of"
        raise ValueError(
            f"got sampling={sampling!r} for {source.name}, whose images may have {have} "
            f"{main_task.name!r}; expected sampling='uniform'"
        )
    labels = source.labels()
    if sampling == "balanced":
        return Balanced(labels, seed)
    return Weighted(square_root_weights(labels), seed)


class Stream:
    """The epochs of an order as one endless stream; keeps the epochs drawn last.

    Examples:
      >>> Stream(Uniform(5, seed=7))[range(3, 8)].tolist()
      [2, 1, 1, 3, 2]
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._drawn: dict[int, np.ndarray] = {}

    def __getitem__(self, positions: range) -> np.ndarray:
        """Returns the examples at consecutive positions, counted from 0: int64 [len(positions)]."""
        pieces = []
        position = positions.start
        while position < positions.stop:
            epoch, start = divmod(position, len(self.order))
            stop = min(len(self.order), start + positions.stop - position)
            pieces.append(self._epoch(epoch)[start:stop])
            position += stop - start
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def _epoch(self, number: int) -> np.ndarray:
        if number not in self._drawn:
            if len(self._drawn) == _EPOCHS_KEPT:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[number] = self.order.epoch(number)
        return self._drawn[number]


def _random_bits(count: int, *seed: int) -> np.ndarray:
    """Returns random 64-bit integers. A seed may not end in zeros: they are ignored."""
    return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)


def _checked_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"got labels {labels.dtype}{list(labels.shape)}; expected one integer for each example"
        )
    _check_any(int((labels >= 0).sum()), "examples with a label")
    return labels


def _check_any(count: int, what: str) -> None:
    if count < 1:
        raise ValueError(f"got {count} {what}; expected at least one to draw from")

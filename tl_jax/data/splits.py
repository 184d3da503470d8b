"""Splits of a set: names and slices in TFDS's syntax, and seeded partitions into splits.

`train`, `train[:90%]`, `train[-100:]`, `train[10%:20%]+test` and `all` mean the same as in TFDS,
with the same rounding of percentages. A partition depends only on the names and the seed, so it is
the same on every machine.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from tl_jax import messages

VALIDATION_NAMES = ("validation", "val", "valid")

_BOUND = r"-?[\d_]+(?:\.\d*)?%?"
_SLICE = re.compile(
    rf"(?P<split>[^\[\]+]+)(?P<bounds>\[(?P<start>{_BOUND})?:(?P<stop>{_BOUND})?\])?"
)


def canonical_name(split: str) -> str:
    """Returns "validation" for "val" and "valid", and any other name as it is."""
    return "validation" if split in VALIDATION_NAMES else split


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of one split.

    Attributes:
      split: name of the split.
      start, stop: bounds as in a slice of a list: negative ones count from the end, None is open.
      percent: whether the bounds are percentages of the split, rather than numbers of examples.
    """

    split: str
    start: float | None = None
    stop: float | None = None
    percent: bool = False

    def positions(self, count: int) -> range:
        """Returns the positions of the slice in a split of `count` examples.

        Raises:
          ValueError: if a bound is beyond the split.
        """

        def position(bound: float) -> int:
            return round(bound * count / 100) if self.percent else int(bound)

        start = 0 if self.start is None else position(self.start)
        stop = count if self.stop is None else position(self.stop)
        if max(abs(start), abs(stop)) > count:
            raise ValueError(
                f"got the slice [{start}:{stop}] of split {self.split!r}, which has {count} "
                "examples; expected bounds within it"
            )
        return range(start + count * (start < 0), stop + count * (stop < 0))


def parse(spec: str, known: Iterable[str]) -> list[Slice]:
    """Parses the specification of a split.

    Args:
      spec: a name, a slice, or a sum of these.
      known: names of the splits of the set. One of them is taken literally, even if it has brackets
        or plus signs, and "all" stands for all of them. Other names are not checked here.

    Raises:
      ValueError: if it is not in TFDS's syntax.

    Examples:
      >>> parse("train[:90%]", ["train", "test"])
      [Slice(split='train', start=None, stop=90.0, percent=True)]
    """
    names = list(known)
    if spec in names:
        return [Slice(spec)]
    if spec == "all":
        return [Slice(name) for name in names]
    return [_parse_slice(term.strip(), spec) for term in spec.split("+")]


def _parse_slice(term: str, spec: str) -> Slice:
    malformed = ValueError(
        f"cannot read the split {spec!r}; expected a name, a slice such as train[:90%] or "
        "train[100:], or a sum of these: train[:50%]+test (TFDS's shards are not supported)"
    )
    match = _SLICE.fullmatch(term)
    if match is None:
        raise malformed
    split, bounds = match["split"].strip(), match["bounds"]
    if bounds is None:
        return Slice(split)
    if match["start"] is None and match["stop"] is None:
        raise malformed
    percent = "%" in bounds
    try:
        start, stop = (
            None if text is None else float(text.rstrip("%")) if percent else int(text)
            for text in match.group("start", "stop")
        )
    except ValueError as error:  # Such as 1__0 or, without a percent sign, 1.5.
        raise malformed from error
    if percent and max(abs(start or 0), abs(stop or 0)) > 100:
        raise ValueError(f"got the split {spec!r}; expected percentages from -100 to 100")
    return Slice(split, start, stop, percent)


def select(spec: str, sizes: Mapping[str, int], *, name: str) -> list[tuple[str, range]]:
    """Returns the splits that a specification names, each with the selected positions.

    Args:
      spec: the specification, as in `parse`.
      sizes: number of examples of each split of the set.
      name: name of the set, for messages.

    Raises:
      ValueError: if it cannot be read, names an unknown split, or selects no example.

    Examples:
      >>> select("train[75%:]+test", {"train": 8, "test": 3}, name="birds")
      [('train', range(6, 8)), ('test', range(0, 3))]
    """
    slices = parse(spec, sizes)
    for each in slices:
        if each.split not in sizes:
            raise ValueError(
                f"no split {each.split!r} in {name}; it has {', '.join(sizes)}"
                f"{messages.hint(each.split, sizes)} (slices are written `train[:90%]`)"
            )
    selected = [(each.split, each.positions(sizes[each.split])) for each in slices]
    check_not_empty(spec, sum(len(positions) for _, positions in selected), name=name)
    return selected


def check_not_empty(spec: str, count: int, *, name: str) -> None:
    """Raises ValueError if the split `spec` of a set has no example."""
    if count == 0:
        raise ValueError(f"split {spec!r} of {name} holds no example; choose a larger slice")


def shuffled(names: Iterable[str], *, seed: int) -> list[str]:
    """Returns the names in an order that depends only on the names and the seed."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def partition(names: Sequence[str], *, shares: Sequence[float], seed: int) -> list[list[str]]:
    """Divides the names of one stratum into parts.

    Part k ends at the rounded cumulative share, so its size differs from the exact share by at most
    one. Names are unique within a stratum.

    Args:
      names: members of the stratum.
      shares: share of each part; they sum to 1.
      seed: chooses the partition.
    """
    order = shuffled(names, seed=seed)
    ends = [round(len(order) * sum(shares[: k + 1])) for k in range(len(shares))]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def partition_strata(
    strata: Iterable[Sequence[str]], *, shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """Divides each stratum into splits, as `partition`, and returns the names of each split.

    Args:
      strata: the members of each stratum.
      shares: share of each split, by its name; they sum to 1.
      seed: chooses the partition.
    """
    splits: dict[str, list[str]] = {split: [] for split in shares}
    for names in strata:
        parts = partition(names, shares=list(shares.values()), seed=seed)
        for split, part in zip(splits, parts, strict=True):
            splits[split] += part
    return splits


def hold_out(
    names: Sequence[str], *, fraction: float, seed: int, nonempty: bool
) -> tuple[list[str], list[str]]:
    """Divides the names of one stratum into those to train on and those to hold out.

    Args:
      names: members of the stratum; at least two if `nonempty`.
      fraction: share that is held out, rounded to whole names.
      seed: chooses the names.
      nonempty: keep at least one name on each side.
    """
    count = round(len(names) * fraction)
    if nonempty:
        count = min(max(count, 1), len(names) - 1)
    share = count / max(len(names), 1)
    held_out, rest = partition(names, shares=(share, 1 - share), seed=seed)
    return rest, held_out


def check_fraction(fraction: float, *, name: str) -> None:
    """Raises ValueError unless 0 < fraction < 1; `name` is the option's name."""
    if not 0 < fraction < 1:
        raise ValueError(f"got {name}={fraction}; expected 0 < fraction < 1")

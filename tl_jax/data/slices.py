"""TFDS's syntax of splits and slices, for sources that TFDS does not read.

`train`, `train[:90%]`, `train[-100:]`, `train[10%:20%]+test`, `all`; what a slice holds is
rounded as TFDS rounds it.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from tl_jax import messages

_PART = re.compile(r"(?P<split>[^\[\]+]+)(\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_BOUND = re.compile(r"(?P<value>-?[\d_]+(\.\d*)?)(?P<unit>%?)")


@dataclasses.dataclass(frozen=True)
class Part:
    """A slice of one split.

    Attributes:
      split: name of the split.
      start, stop: bounds as in a slice of a list, negative ones from the end; None: none.
      percent: whether the bounds are percents of the split, not numbers of examples.
    """

    split: str
    start: float | None = None
    stop: float | None = None
    percent: bool = False

    def positions(self, count: int) -> range:
        """Returns the positions within a split of `count` examples.

        Raises:
          ValueError: if a bound lies beyond the split.
        """
        bounds = [self._absolute(bound, count) for bound in (self.start, self.stop)]
        start = 0 if bounds[0] is None else bounds[0]
        stop = count if bounds[1] is None else bounds[1]
        if max(abs(start), abs(stop)) > count:
            raise ValueError(
                f"got the slice [{start}:{stop}] of split {self.split!r}, which has {count} "
                "examples; expected bounds within it"
            )
        return range(start + count * (start < 0), stop + count * (stop < 0))

    def _absolute(self, bound: float | None, count: int) -> int | None:
        if bound is None or not self.percent:
            return None if bound is None else int(bound)
        return round(bound * count / 100)


def parse(spec: str, known: Iterable[str]) -> list[Part]:
    """Reads a split's specification.

    Args:
      spec: the specification.
      known: names of the splits there are. One of them stands for itself, whatever its letters,
        and "all" for all of them; other names are not checked here.

    Raises:
      ValueError: if it is not in TFDS's syntax.
    """
    names = list(known)
    if spec in names:
        return [Part(spec)]
    if spec == "all":
        return [Part(name) for name in names]
    return [_part(spec, part.strip()) for part in spec.split("+")]


def _part(spec: str, text: str) -> Part:
    found = _PART.fullmatch(text)
    if not found:
        raise _malformed(spec)
    if found["start"] is None:
        return Part(found["split"].strip())
    bounds = [_BOUND.fullmatch(bound) for bound in (found["start"], found["stop"])]
    if not any(bounds) or any(
        text and not match for text, match in zip(found.group("start", "stop"), bounds, strict=True)
    ):
        raise _malformed(spec)
    percent = any(match and match["unit"] for match in bounds)
    start, stop = (_number(spec, match["value"], percent) if match else None for match in bounds)
    return Part(found["split"].strip(), start, stop, percent)


def _number(spec: str, text: str, percent: bool) -> float:
    try:
        value = float(text) if percent else int(text)
    except ValueError as error:
        raise _malformed(spec) from error
    if percent and abs(value) > 100:
        raise ValueError(f"got the split {spec!r}; expected percents from -100 to 100")
    return value


def _malformed(spec: str) -> ValueError:
    return ValueError(
        f"cannot read the split {spec!r}; expected a name, a slice such as train[:90%] or "
        "train[100:], or a sum of these: train[:50%]+test (a set in memory has no shards)"
    )


def select(spec: str, sizes: Mapping[str, int], *, name: str) -> list[tuple[str, range]]:
    """Returns the splits that a specification names, each with the positions that it takes.

    Args:
      spec: the specification.
      sizes: number of examples of each split.
      name: of the source, for messages.

    Raises:
      ValueError: if it cannot be read, names an unknown split, or takes no example.
    """
    parts = parse(spec, sizes)
    for part in parts:
        if part.split not in sizes:
            raise ValueError(
                f"no split {part.split!r} in {name}; it has {', '.join(sizes)}"
                f"{messages.hint(part.split, sizes)} (slices are written `train[:90%]`)"
            )
    taken = [(part.split, part.positions(sizes[part.split])) for part in parts]
    check_not_empty(spec, [len(positions) for _, positions in taken], name=name)
    return taken


def check_not_empty(spec: str, counts: Sequence[int], *, name: str) -> None:
    """Raises ValueError if the parts of a split hold no example together."""
    if sum(counts) == 0:
        raise ValueError(f"split {spec!r} of {name} holds no example; choose a larger slice")

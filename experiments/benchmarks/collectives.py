"""What a compiled program sends between devices, and the weak scaling that follows from it."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.hlo_report import num_bytes

SMALL = 64 * 1024
_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf"\s(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ({_KINDS})(-start)?\(")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a program.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "collective-permute" or "all-to-all".
      bytes: of its result on one device; an operation that combines several arrays has their sum.
    """

    kind: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Links:
    """How devices are connected, by level, such as the GPUs of a box, and the boxes.

    Attributes:
      levels: number of neighbours in a ring, and the bytes a second that one of them sends in one
        direction; the innermost level first.
      latency_seconds: of one collective on a level; an assumption, 0 counts bytes alone.
    """

    levels: tuple[tuple[int, float], ...]
    latency_seconds: float = 0.0


def collectives(text: str) -> list[Collective]:
    """Returns the collective operations of a compiled program, from XLA's text of it.

    An asynchronous operation is counted where it starts. The shape of a start is a pair of operands
    and results, of which the results, the second half, are counted; that of an all-reduce may be
    the results alone.
    """
    found = []
    for shape, kind, start in _COLLECTIVE.findall(text):
        paired = start and (kind != "all-reduce" or shape.startswith("(("))
        found.append(Collective(kind, num_bytes(_results(shape) if paired else shape)))
    return found


def _results(shape: str) -> str:
    """Returns the results in the shape of a start, `(operands, results, contexts...)`."""
    parts, depth, begin = [], 0, 1
    for place, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(shape[begin:place])
            begin = place + 1
    return parts[1]


def summary(found: Sequence[Collective]) -> dict[str, dict[str, Any]]:
    """Returns for each kind the count, how many are small, their megabytes and the largest."""
    result = {}
    for kind in sorted({each.kind for each in found}):
        sizes = [each.bytes for each in found if each.kind == kind]
        result[kind] = {
            "count": len(sizes),
            "below_64_KiB": sum(size < SMALL for size in sizes),
            "megabytes": sum(sizes) / 1e6,
            "largest_megabytes": max(sizes) / 1e6,
        }
    return result


def ring_seconds(found: Sequence[Collective], links: Links) -> float:
    """Returns the seconds that collectives take on rings, one after the other.

    An all-reduce sends 2 (n - 1) / n of its bytes around the ring of n neighbours, and what each of
    them then holds, one of n parts, around the ring of the next level. An all-gather, an
    all-to-all and a reduce-scatter send half of that, of the whole array; a permute sends its
    bytes once.
    """
    devices = math.prod(count for count, _ in links.levels)
    if devices == 1:
        return 0.0
    seconds = 0.0
    for each in found:
        part = float(each.bytes)
        if each.kind == "collective-permute":
            seconds += part / min(speed for _, speed in links.levels) + links.latency_seconds
            continue
        times = 2 if each.kind == "all-reduce" else 1
        part *= devices if each.kind == "reduce-scatter" else 1  # Its result is a part.
        for count, speed in links.levels:
            seconds += times * (count - 1) / count * part / speed + links.latency_seconds
            part /= count
    return seconds


def efficiency(floor_seconds: float, ring: float, *, overlap: bool) -> float:
    """Returns the weak-scaling efficiency: time of one device over that of one among many.

    Args:
      floor_seconds: of the computation on a device, by memory.
      ring: seconds of the collectives.
      overlap: whether they run beside the computation, in which case the longer of the two counts,
        or after it, in which case the sum does.

    Examples:
      >>> efficiency(0.03, 0.01, overlap=False), efficiency(0.03, 0.01, overlap=True)
      (0.75, 1.0)
    """
    total = max(floor_seconds, ring) if overlap else floor_seconds + ring
    return floor_seconds / total

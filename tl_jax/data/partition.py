"""Seeded, stratified partitions that are the same on every machine."""

import hashlib
from collections.abc import Sequence


def shuffled(names: Sequence[str], *, seed: int) -> list[str]:
    """Returns the names in an order that depends on the names and the seed alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def partition(names: Sequence[str], *, shares: Sequence[float], seed: int) -> list[list[str]]:
    """Deals the names of one stratum out in the given shares.

    Part k ends at the rounded cumulative share, so sizes differ from the exact shares by less
    than one. Names are unique within a stratum.

    Args:
      names: members of the stratum.
      shares: parts of one, in sum 1.
      seed: chooses the partition.
    """
    order = shuffled(names, seed=seed)
    ends = [round(len(order) * sum(shares[: k + 1])) for k in range(len(shares))]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def hold_out(
    names: Sequence[str], *, fraction: float, seed: int, both: bool
) -> tuple[list[str], list[str]]:
    """Divides the names of one stratum into those to keep and those to hold out.

    Args:
      names: members of the stratum; two at least if `both`.
      fraction: part that is held out, rounded to whole names.
      seed: chooses which.
      both: leave at least one name on each side, as a class needs.
    """
    held = round(len(names) * fraction)
    if both:
        held = min(max(held, 1), len(names) - 1)
    share = held / max(len(names), 1)
    held_out, kept = partition(names, shares=(share, 1 - share), seed=seed)
    return kept, held_out


def check_fraction(fraction: float, *, name: str) -> None:
    """Raises ValueError unless 0 < fraction < 1; `name` is what the message calls it."""
    if not 0 < fraction < 1:
        raise ValueError(f"got {name}={fraction}; expected 0 < fraction < 1")

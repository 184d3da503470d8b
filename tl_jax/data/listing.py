"""How messages list many things: ten are named, the rest is counted."""

from collections.abc import Sequence

_NAMED = 10


def some(names: Sequence[str]) -> str:
    """Returns the first names in quotes, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def report(head: str, problems: Sequence[str], tail: str) -> str:
    """Returns a message: what is wrong, a line a problem, and how to mend it."""
    lines = [f"  {problem}" for problem in problems[:_NAMED]]
    more = [f"  and {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
    return "\n".join([head, *lines, *more, tail])

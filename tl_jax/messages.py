"""What error messages share: the nearest name, and lists that end after ten."""

import difflib
from collections.abc import Iterable, Sequence

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


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that looks most like `name`, or None if none does."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return close[0] if close else None


def hint(name: str, choices: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for an error message, or nothing where nothing is close."""
    close = nearest(name, choices)
    return f"; did you mean {close!r}?" if close else ""

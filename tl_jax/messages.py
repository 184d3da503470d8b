"""Parts of error messages: the nearest known name, and lists cut after ten entries."""

import difflib
from collections.abc import Iterable, Sequence

_MAX_LISTED = 10


def some(names: Sequence[str], *, quoted: bool = True) -> str:
    """Returns the first ten names, and how many more there are.

    Examples:
      >>> some(["conv1", "bn1"])
      "'conv1', 'bn1'"
      >>> some([str(i) for i in range(12)], quoted=False)
      '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(repr if quoted else str, names[:_MAX_LISTED])) + more


def report(head: str, problems: Sequence[str], tail: str) -> str:
    """Returns a message of several lines.

    Args:
      head: what is wrong.
      problems: one indented line each; the first ten are listed and the others counted.
      tail: how to fix it.
    """
    lines = [f"  {problem}" for problem in problems[:_MAX_LISTED]]
    if len(problems) > _MAX_LISTED:
        lines.append(f"  and {len(problems) - _MAX_LISTED} more")
    return "\n".join([head, *lines, tail])


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that looks most like `name`, or None if none is close."""
    if not isinstance(name, str):  # Nothing is like it.
        return None
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return close[0] if close else None


def hint(name: str, choices: Iterable[str]) -> str:
    """Returns the end of an error message that suggests the nearest choice.

    Examples:
      >>> hint("resnet5O", ["vgg16", "resnet50"])
      "; did you mean 'resnet50'?"
      >>> hint("zzz", ["vgg16", "resnet50"])
      ''
    """
    close = nearest(name, choices)
    return f"; did you mean {close!r}?" if close else ""

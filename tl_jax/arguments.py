"""Checks of arguments: each says in one sentence what was given and what is expected.

They are called where a user's value enters, so that a wrong one does not end in the error of an
operation that it meets later.
"""

import math
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

# Longer values are not printed in messages.
_LONGEST = 60


def kind(value: Any) -> str:
    """Returns what a value is, for a sentence: its type with an article, or None.

    >>> kind([1]), kind(5), kind(None), kind(int)
    ('a list', 'an int', 'None', 'the class int')
    """
    if value is None:
        return "None"
    cls = value if isinstance(value, type) else type(value)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    if isinstance(value, type):
        return f"the class {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _shown(value: Any) -> str:
    """Returns a value with its type, or the type alone where the value is long."""
    text = repr(value)
    return kind(value) if value is None or len(text) > _LONGEST else f"{text}, {kind(value)}"


def whole_number(
    name: str, value: Any, *, least: int | None = None, advice: str | None = None
) -> None:
    """Raises unless a value is a whole number of at least `least`.

    Args:
      name: of the argument.
      value: what was given; NumPy's integers are whole numbers, booleans are not.
      least: the smallest that is allowed; None for any.
      advice: end of the message for one that is too small.

    Raises:
      TypeError: if it is no whole number.
      ValueError: if it is too small.
    """
    try:
        count: int | None = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"{name} is {_shown(value)}; expected a whole number")
    if least is not None and count < least:
        raise ValueError(f"{name} is {value}; {advice or f'it must be at least {least}'}")


def number(name: str, value: Any, expected: str = "a number") -> None:
    """Raises a TypeError unless a value is a real number; booleans and text are none."""
    try:
        math.isnan(value)  # For the error that other types raise.
        is_number = not isinstance(value, bool)
    except TypeError:
        is_number = False
    if not is_number:
        raise TypeError(f"{name} is {_shown(value)}; expected {expected}")


def rate(name: str, value: Any) -> None:
    """Raises unless a value is a number in [0, 1).

    Raises:
      TypeError: if it is no number.
      ValueError: if it is outside.
    """
    number(name, value, "a number in [0, 1)")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1)")


def text(name: str, value: Any, example: str) -> None:
    """Raises a TypeError unless a value is text; `example` is one, as it is written in Python."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {_shown(value)}; expected text, such as {example}")


def names(name: str, value: Any, example: str) -> None:
    """Raises a TypeError unless a value is a list (tuple, set) of texts, and not itself text.

    Args:
      name: of the argument.
      value: what was given.
      example: a right value, as it is written in Python.
    """
    if isinstance(value, str):
        raise TypeError(
            f"{name} is the text {value!r}; expected a list of names, even of one: "
            f"{name}=[{value!r}]"
        )
    is_list = isinstance(value, Iterable) and not isinstance(value, Mapping | bytes)
    wrong = [item for item in value if not isinstance(item, str)] if is_list else [value]
    if wrong:
        raise TypeError(
            f"{name} holds {_shown(wrong[0])}; expected a list of names, such as {example}"
            if is_list
            else f"{name} is {kind(value)}; expected a list of names, such as {example}"
        )


def sizes(name: str, value: Any, example: str) -> None:
    """Raises a TypeError unless a value is a list (tuple) of whole numbers.

    Args:
      name: of the argument.
      value: what was given; an array of numbers is none.
      example: a right value, as it is written in Python.
    """
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} is {_shown(value)}; expected sizes, such as {example}")
    for size in value:
        whole_number(f"a size of {name}", size, least=0)


def function(name: str, value: Any, does: str) -> None:
    """Raises a TypeError unless a value can be called; `does` says what it is called for."""
    if not callable(value):
        raise TypeError(f"{name} is {_shown(value)}; expected a function that {does}")


def path(name: str, value: Any) -> None:
    """Raises a TypeError unless a value is a path: text, or an `os.PathLike`."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {kind(value)}; expected a path, as text or a pathlib.Path")

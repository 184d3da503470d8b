"""Checks of field values: the rules from which each section of a configuration chooses."""

import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tl_jax import messages


class Rule(NamedTuple):
    """What a value must be, in words that follow "must", and the test of it."""

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("be above 0", lambda value: value > 0)
NUMBER = Rule("be a number", lambda value: not math.isnan(value))
PROBABILITY = Rule("be in [0, 1]", lambda value: 0 <= value <= 1)
# Rates of dropout and smoothing, decays of averages: 1 would leave nothing.
RATE = Rule("be in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = Rule("be in (0, 1)", lambda value: 0 < value < 1)
INCREASING = Rule("be (low, high) with 0 < low <= high", lambda value: 0 < value[0] <= value[1])
SHARES = Rule(
    "be (low, high) with 0 < low <= high <= 1", lambda value: 0 < value[0] <= value[1] <= 1
)


def at_least(low: float) -> Rule:
    """Returns the rule that a value is `low` or more."""
    return Rule(f"be at least {low}", lambda value: value >= low)


def between(low: float, high: float) -> Rule:
    """Returns the rule that a value is in `[low, high]`."""
    return Rule(f"be in [{low}, {high}]", lambda value: low <= value <= high)


def check(section: str, values: object, rules: Mapping[str, Rule] | None = None) -> None:
    """Checks the fields of a section.

    A field that is annotated with `Literal` must hold one of its choices: the command line ensures
    this, but Python and JSON do not. A field that is None takes its default later and is not
    checked against its rule.

    Args:
      section: dotted name of the section, such as "data" or "transfer.phases".
      values: the dataclass that is checked.
      rules: rule of each field that has one.

    Raises:
      ValueError: if a value breaks its rule; the message lists all that do.
    """
    problems = []
    for field, choices in _literal_choices(type(values)).items():
        value = getattr(values, field)
        if value not in choices:
            expected = ", ".join(str(choice) for choice in choices)
            hint = messages.hint(str(value), [each for each in choices if each is not None])
            problems.append(f"{section}.{field} must be one of {expected}; got {value!r}{hint}")
    for field, rule in (rules or {}).items():
        value = getattr(values, field)
        if value is not None and not rule.holds(value):
            problems.append(f"{section}.{field} must {rule.words}; got {value!r}")
    if problems:
        raise ValueError("\n".join(problems))


def _literal_choices(section: type[Any]) -> dict[str, tuple[str | None, ...]]:
    """Returns the choices of each `Literal` field of a dataclass; None is one if it is optional."""
    choices: dict[str, tuple[str | None, ...]] = {}
    for field, annotation in typing.get_type_hints(section).items():
        options = (annotation, *typing.get_args(annotation))
        literals = [option for option in options if typing.get_origin(option) is Literal]
        if literals:
            optional = (None,) if type(None) in options else ()
            choices[field] = (*typing.get_args(literals[0]), *optional)
    return choices

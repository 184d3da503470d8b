"""Checks of field values: their types, and the rules from which each section chooses."""

import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tl_jax import messages
from tl_jax.config import field_types


class Rule(NamedTuple):
    """What a value must be, in words that follow "must", and the test of it.

    `choices` are names of which the message gives the nearest.
    """

    words: str
    holds: Callable[[Any], Any]
    choices: tuple[str, ...] = ()


POSITIVE = Rule("be above 0", lambda value: value > 0)
PROBABILITY = Rule("be in [0, 1]", lambda value: 0 <= value <= 1)
# Rates of dropout and smoothing, decays of averages: 1 would leave nothing.
RATE = Rule("be in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = Rule("be in (0, 1)", lambda value: 0 < value < 1)
INCREASING = Rule("be (low, high) with 0 < low <= high", lambda value: 0 < value[0] <= value[1])
ASCENDING = Rule("be (low, high) with low < high", lambda value: value[0] < value[1])
# JAX keeps 32 bits of a seed: 2**32 would be the same seed as 0, and -1 as 2**32 - 1.
SEED = Rule("be in [0, 2**32)", lambda value: 0 <= value < 2**32)
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
    """Checks the fields of a section against their annotations and rules, and converts them.

    What is converted is what `field_types.fit` says: NumPy's scalars, lists and paths. A field that
    is None takes its default later and is not checked against its rule.

    Args:
      section: dotted name of the section, such as "data" or "transfer.phases"; "" for the whole.
      values: the frozen dataclass that is checked.
      rules: rule of each field that has one.

    Raises:
      ValueError: if a value has a wrong type, is not finite or breaks its rule; the message lists
        all that do.
    """
    problems = []
    for field, annotation in typing.get_type_hints(type(values)).items():
        given = getattr(values, field)
        rule = (rules or {}).get(field)
        try:
            value = field_types.fit(given, annotation)
        except field_types.WrongTypeError as error:
            words, hint = str(error), _hint(given, annotation)
        else:
            object.__setattr__(values, field, value)
            if value is None or rule is None or rule.holds(value):
                continue
            words, hint = rule.words, messages.hint(str(value), rule.choices)
        problems.append(f"{section}.{field} must {words}; got {given!r}{hint}".removeprefix("."))
    if problems:
        raise ValueError("\n".join(problems))


def _hint(given: Any, annotation: Any) -> str:
    """Returns the end of the message for a value of a wrong type: what may have been meant."""
    if not isinstance(given, str):
        return ""
    options = field_types.options(annotation)
    choices = [
        each
        for option in options
        if typing.get_origin(option) is Literal
        for each in typing.get_args(option)
        if isinstance(each, str)
    ]
    if any(typing.get_args(option)[:1] == (str,) for option in options):
        return f"; did you mean {(given,)!r}?"
    return messages.hint(given, choices)

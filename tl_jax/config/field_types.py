"""The type of a field's value: what is taken for it, and its words in messages."""

import dataclasses
import os
import sys
import typing
from types import UnionType
from typing import Any, Literal, Union

import numpy as np


class WrongTypeError(ValueError):
    """A value does not have the type of its field; the message ends a sentence with "must"."""


def fit(value: Any, annotation: Any) -> Any:
    """Returns a value as the type that a field is annotated with.

    NumPy's scalars become numbers of Python, lists become tuples, paths become text. Nothing else
    is converted: no text to a number, no 2.5 or 2.0 to a whole number, no 1 to True. Numbers must
    be finite.

    Args:
      value: what was given.
      annotation: bool, int, float, str, a dataclass, a Literal; a tuple, list or dict of these;
        or a union.

    Raises:
      WrongTypeError: if the value has another type or is not finite.

    Examples:
      >>> fit([1, 2.5], tuple[float, ...]), fit(np.int64(3), int | None)
      ((1, 2.5), 3)
      >>> fit("0.1", float | None)
      Traceback (most recent call last):
      ...
      tl_jax.config.field_types.WrongTypeError: be a number or None
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        value = value.item()
    words = []
    for option in options(annotation):
        if option is type(None) and value is None:
            return None
        try:
            return _fit(value, option)
        except WrongTypeError as error:
            words.append(str(error))
    raise WrongTypeError(" or ".join([words[0], *(each.removeprefix("be ") for each in words[1:])]))


def options(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union such as `float | None`, or the annotation alone."""
    is_union = typing.get_origin(annotation) in (Union, UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _fit(value: Any, annotation: Any) -> Any:
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise WrongTypeError(f"be one of {', '.join(map(str, choices))}")
        return value
    if typing.get_origin(annotation) is tuple:
        return _fit_tuple(value, typing.get_args(annotation))
    if typing.get_origin(annotation) is dict:
        return _fit_dict(value, *typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return list(_fit_tuple(value, (*typing.get_args(annotation), ...)))
    if annotation is Any:
        return value
    if annotation is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    # True is an int for Python, and an int does for a float.
    types = (int, float) if annotation is float else (annotation,)
    if not isinstance(value, types) or (isinstance(value, bool) and annotation is not bool):
        raise WrongTypeError(f"be {_words(annotation)}")
    # False for NaN too. An int may be too large for a float.
    if annotation is float and not abs(value) <= sys.float_info.max:
        raise WrongTypeError("be a finite number")
    return value


def _fit_tuple(value: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    any_length = items[-1] is Ellipsis
    words = f"be a tuple{'' if any_length else f' of {len(items)}'}, each item "
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not (any_length or len(value) == len(items)):
        raise WrongTypeError(words + _words(items[0]))
    annotations = items[:1] * len(value) if any_length else items
    try:
        return tuple(fit(each, item) for each, item in zip(value, annotations, strict=True))
    except WrongTypeError as error:
        raise WrongTypeError(words + str(error).removeprefix("be ")) from None


def _fit_dict(value: Any, key: Any, item: Any) -> dict[Any, Any]:
    words = "be an object with named values, each "
    if not isinstance(value, dict):
        raise WrongTypeError(words.removesuffix(", each "))
    try:
        return {fit(name, key): fit(each, item) for name, each in value.items()}
    except WrongTypeError as error:
        raise WrongTypeError(words + str(error).removeprefix("be ")) from None


def _words(annotation: Any) -> str:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return f"a {annotation.__name__}"
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    return "None" if annotation is type(None) else words.get(annotation, "a list or an object")

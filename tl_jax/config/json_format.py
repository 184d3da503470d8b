"""Configurations and records as JSON, and the differences between two configurations.

No library reads them, so that messages can name the nearest field.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tl_jax import files, messages, trees
from tl_jax.config import field_types
from tl_jax.config.experiment import Config

T = TypeVar("T")


def to_json(config: Config) -> str:
    """Returns a configuration as indented JSON: the inverse of `from_json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote; a field that is missing takes its default.

    Raises:
      ValueError: if the text is not a JSON object, a section or field has an unknown name, or a
        value is not one that its field takes.

    Examples:
      >>> from_json('{"train": {"epochs": 3}}').train.epochs
      3
    """
    return read(Config, text, "the configuration")


def read(kind: type[T], text: str, name: str) -> T:
    """Builds a dataclass, which may hold others, from the JSON of its fields.

    Args:
      kind: the dataclass.
      text: a JSON object by field; a field that has a default may be missing.
      name: of the whole in messages.

    Raises:
      ValueError: if the text is empty or no JSON object, a field has an unknown name or is missing,
        or a dataclass refuses its fields.
    """
    if not text.strip():
        raise ValueError(f"{name} is empty")
    try:
        values = files.parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    return _read(kind, values, "", name)


def _read(kind: type[T], values: Any, prefix: str, name: str) -> T:
    """`prefix` begins the dotted names of the fields: "" or "transfer.phases."."""
    types = typing.get_type_hints(kind)
    where = prefix.rstrip(".") or name
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{where} must be an object with fields {', '.join(types)}; got {values!r}"
        )
    fields = {}
    for field, value in values.items():
        if field not in types:
            what = "field" if prefix or kind is not Config else "section"
            raise ValueError(f"unknown {what} {prefix}{field}{messages.hint(field, types)}")
        fields[field] = _value(types[field], value, f"{prefix}{field}", name)
    missing = [
        field.name
        for field in dataclasses.fields(typing.cast(Any, kind))
        if field.name not in fields
        and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    try:
        return kind(**fields)
    except TypeError as error:  # Such as a number that is compared with a text.
        raise ValueError(f"{where} has a value of a wrong type: {error}") from error


def _value(annotation: Any, value: Any, field: str, name: str) -> Any:
    for option in field_types.options(annotation):
        if dataclasses.is_dataclass(option) and isinstance(option, type) and value is not None:
            return _read(option, value, f"{field}.", name)
    items = typing.get_args(annotation)
    if value is None:
        return None  # `checks.check` refuses it where the field is not optional.
    if items and isinstance(items[0], type) and dataclasses.is_dataclass(items[0]):
        if not isinstance(value, list):
            raise ValueError(f"{field} must be a list of objects; got {value!r}")
        return tuple(_read(items[0], item, f"{field}.", name) for item in value)
    return tuple(value) if isinstance(value, list) else value


def flat(config: Config) -> dict[trees.Path, Any]:
    """Returns the values of all fields by their paths."""
    return trees.flatten(dataclasses.asdict(config))


def differences(one: Config, other: Config) -> list[str]:
    """Lists the fields in which two configurations differ, as `"optim.name: 'sgd' != 'adam'"`."""
    first, second = flat(one), flat(other)
    return [
        f"{trees.dotted(path)}: {first[path]!r} != {second[path]!r}"
        for path in first
        if first[path] != second[path]
    ]

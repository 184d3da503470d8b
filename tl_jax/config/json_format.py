"""Configurations as JSON, and the differences between two of them.

No library reads them, so that messages can name the nearest field.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from tl_jax import messages, trees
from tl_jax.config.experiment import Config


def to_json(config: Config) -> str:
    """Returns a configuration as indented JSON: the inverse of `from_json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote; a field that is missing takes its default.

    Raises:
      ValueError: if the text is not a JSON object, or a section or field has an unknown name.

    Examples:
      >>> from_json('{"train": {"epochs": 3}}').train.epochs
      3
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is not JSON: {error}") from error
    return _read(Config, values, "")


def _read(section: type[Any], values: Any, prefix: str) -> Any:
    """Builds a dataclass from a dict of its fields, which may hold dataclasses in turn.

    `prefix` begins the dotted names of the fields: "" or "transfer.phases.".
    """
    types = typing.get_type_hints(section)
    if not isinstance(values, Mapping):
        where = prefix.rstrip(".") or "the configuration"
        raise ValueError(
            f"{where} must be an object with fields {', '.join(types)}; got {values!r}"
        )
    fields = {}
    for field, value in values.items():
        name = prefix + field
        if field not in types:
            what = "field" if prefix else "section"
            raise ValueError(f"unknown {what} {name}{messages.hint(field, types)}")
        annotation, items = types[field], typing.get_args(types[field])
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            value = _read(annotation, value, f"{name}.")
        elif items and isinstance(items[0], type) and dataclasses.is_dataclass(items[0]):
            value = tuple(_read(items[0], item, f"{name}.") for item in value)
        elif isinstance(value, list):
            value = tuple(value)
        fields[field] = value
    return section(**fields)


def differences(one: Config, other: Config) -> list[str]:
    """Lists the fields in which two configurations differ, as `"optim.name: 'sgd' != 'adam'"`."""
    first, second = (trees.flatten(dataclasses.asdict(config)) for config in (one, other))
    return [
        f"{trees.dotted(path)}: {first[path]!r} != {second[path]!r}"
        for path in first
        if first[path] != second[path]
    ]

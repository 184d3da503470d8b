"""Reading a command's arguments: values by the types of its signature, and hints for near misses.

tyro writes the help from the same signatures; it is not used for reading because its messages
name neither `true` for a flag nor `--optim.learning-rate` for `--optim.lr`.
"""

import contextlib
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import tyro

from tl_jax import files, messages
from tl_jax.cli.option_hints import nearest_options, unknown_option
from tl_jax.config import GroupConfig, PhaseConfig, TaskConfig

_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_NONE = ("none", "null")
_ENTRIES = {
    PhaseConfig: "epochs=5,trained=head",
    GroupConfig: "name=stem,patterns=conv1|bn1,learning_rate=1e-5",
    TaskConfig: "name=grade,kind=ordinal,levels=low|middle|high,weight=0.5",
}
# Without these an entry is half of one, such as the second word of "epochs=5 trained=head".
_NEEDED = {PhaseConfig: ("epochs",), GroupConfig: ("name",), TaskConfig: ("name",)}
_NUMBER = re.compile(r"-(\d|\.\d|inf$|nan$)", re.IGNORECASE)


class Parameter(NamedTuple):
    """A parameter of a command, or a field of a section of a configuration.

    Attributes:
      name: as on the command line: "--data.batch-size", or "RUN" for a positional one.
      path: its place: ("config", "data", "batch_size").
      kind: its annotation.
      positional: whether it is given by its place.
      required: whether it has no default.
    """

    name: str
    path: tuple[str, ...]
    kind: Any
    positional: bool = False
    required: bool = False


def parameters(command: Callable[..., None], given: Mapping[str, Any]) -> list[Parameter]:
    """Returns the parameters of a command, in the order of its signature.

    A parameter that is a dataclass stands for its fields, which are options without a prefix.

    Args:
      command: a function; its `Positional` parameters are given by place, the others by name.
      given: values of parameters that are not read from the arguments.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    found: list[Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *extras = _annotation(hints[name])
        if dataclasses.is_dataclass(kind):
            found += _fields(kind, (name,), ())
        elif name not in given:
            positional = tyro.conf.Positional in extras
            shown = name.upper().replace("_", "-") if positional else _option(name)
            required = parameter.default is inspect.Parameter.empty
            found.append(Parameter(shown, (name,), kind, positional, required))
    return found


def _annotation(hint: Any) -> tuple[Any, ...]:
    """Returns a type, and what it is annotated with."""
    return typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)


def _fields(section: Any, path: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Parameter]:
    for field, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            yield from _fields(kind, (*path, field), (*names, field))
        else:
            yield Parameter(_option(".".join([*names, field])), (*path, field), kind)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def read(
    command: Callable[..., None], arguments: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the keyword arguments of a command.

    Args:
      command: a function, as for `parameters`.
      arguments: as the user typed them, without the command's name.
      given: values of parameters that are not read. One that is a dataclass is changed by the
        options of its fields.

    Raises:
      ValueError: if an argument is unknown, missing, given twice or of the wrong type.
      ValueError: if a dataclass refuses the values of its fields.
    """
    known = parameters(command, given)
    values = _values(known, arguments)
    keywords = dict(given)
    for name, parameter in inspect.signature(command).parameters.items():
        changes = {path[1:]: value for path, value in values.items() if path[0] == name}
        if () in changes:
            keywords[name] = changes[()]
        elif changes:
            keywords[name] = _changed(keywords.get(name, parameter.default), changes)
    return keywords


def _changed(section: Any, changes: Mapping[tuple[str, ...], Any]) -> Any:
    """Returns a dataclass with changed fields, by their paths in it."""
    fields: dict[str, Any] = {}
    for field in dict.fromkeys(path[0] for path in changes):
        inner = {path[1:]: value for path, value in changes.items() if path[0] == field}
        fields[field] = inner[()] if () in inner else _changed(vars(section)[field], inner)
    return dataclasses.replace(section, **fields)


def first_positional(command: Callable[..., None], arguments: Sequence[str]) -> str | None:
    """Returns the first argument that no option takes, or None if there is none."""
    options = {p.name: p for p in parameters(command, {})}
    place = 0
    while place < len(arguments):
        if not _is_option(arguments[place]):
            return arguments[place]
        name, equals, _ = arguments[place].partition("=")
        parameter, _ = _find(name, options)
        place += 1
        if parameter is not None and not equals:
            place += len(_words(parameter.kind, arguments[place:]))
    return None


def _values(known: Sequence[Parameter], arguments: Sequence[str]) -> dict[tuple[str, ...], Any]:
    """Returns the values of the parameters that the arguments give, by path."""
    options = {p.name: p for p in known if not p.positional}
    words: dict[str, list[str]] = {}
    placed: list[str] = []
    place, before = 0, ""
    while place < len(arguments):
        argument = arguments[place]
        place += 1
        if argument == "--":
            placed += arguments[place:]
            break
        if not _is_option(argument):
            placed.append(argument)
            continue
        name, equals, value = argument.partition("=")
        parameter, negated = _find(name, options)
        if parameter is None:
            raise ValueError(_unknown(name, known))
        if negated and equals:
            raise ValueError(f"{name} takes no value; write {parameter.name}={value}")
        taken = ["false"] if negated else [value]
        if not (equals or negated):
            taken = _words(parameter.kind, arguments[place:])
            place += len(taken)
        if parameter.name in words:
            raise ValueError(
                f"{parameter.name} is given twice, as {_shown(words[parameter.name])} and as "
                f"{_shown(taken)}; give it once"
            )
        words[parameter.name] = taken
        before = parameter.name
    missing = [p for p in options.values() if p.required and p.name not in words]
    if missing:
        raise ValueError(f"{missing[0].name} is missing; expected {_expected(missing[0].kind)}")
    values = {options[name].path: _value(options[name], taken) for name, taken in words.items()}
    return values | _placed([p for p in known if p.positional], placed, options, before)


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and argument != "-" and not _NUMBER.match(argument)


def _find(name: str, options: Mapping[str, Parameter]) -> tuple[Parameter | None, bool]:
    """Returns the parameter of an option, and whether it is the option's "no" form.

    `_` and `-` are the same, as in `--data.batch_size`.
    """
    name = name.replace("_", "-")
    if name in options:
        return options[name], False
    # Both --no-flip and --augment.no-horizontal-flip.
    positive = re.sub(r"(^--|\.)no-", r"\1", name, count=1)
    parameter = options.get(positive) if positive != name else None
    if parameter is not None and parameter.kind is bool:
        return parameter, True
    return None, False


def _words(kind: Any, following: Sequence[str]) -> list[str]:
    """Returns the words after an option that are its value."""
    end = next((i for i, word in enumerate(following) if _is_option(word)), len(following))
    candidates = list(following[:end])
    if kind is bool:
        return [word for word in candidates[:1] if word.lower() in _WORDS]
    items = _items(kind)
    if items is None:
        return candidates[:1]
    many = items[-1] is Ellipsis
    if items[0] in (int, float):
        # Numbers end at the first word that is none.
        count = 0
        while count < len(candidates) and all(map(_is_number, _split(candidates[count]))):
            count += 1
            if not many and len(_split(" ".join(candidates[:count]))) >= len(items):
                break
        return candidates[: max(count, 1)] if candidates else []
    return candidates if many else candidates[: len(items)]


def _items(kind: Any) -> list[Any] | None:
    """Returns the types of a tuple's items, the last one Ellipsis for any number of the first.

    None for what is neither a tuple nor an optional one.
    """
    if _is_union(kind):
        return next((items for each in typing.get_args(kind) if (items := _items(each))), None)
    return list(typing.get_args(kind)) if typing.get_origin(kind) is tuple else None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def _split(text: str) -> list[str]:
    """Returns the items of "0.5,1.0", "0.5 1.0", "(0.5, 1.0)" or "[0.5,1.0]"."""
    return [item for item in re.split(r"[,;\s]+", text.strip(" ()[]")) if item]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(parameter: Parameter, words: list[str]) -> Any:
    kind, name = parameter.kind, parameter.name
    if kind is bool:
        words = words or ["true"]
    try:
        items = _items(kind)
        if items is not None and not (_is_optional(kind) and _is_none(words)):
            return _tuple(items, words)
        if not words:
            raise ValueError("got nothing")
        return _scalar(kind, words[0])
    except ValueError as error:
        raise ValueError(f"{name} expects {_expected(kind)}; {error}") from None


def _tuple(items: list[Any], words: list[str]) -> tuple[Any, ...]:
    if dataclasses.is_dataclass(items[0]):
        return tuple(_entry(items[0], word) for word in words)
    if items[0] in (int, float):
        words = _split(" ".join(words))
    if items[-1] is Ellipsis:
        empty = len(words) == 1 and words[0] in ("", "()", "[]")
        return () if empty else tuple(_scalar(items[0], word) for word in words)
    if len(words) != len(items):
        raise ValueError(f"got {_shown(words)}")
    return tuple(_scalar(item, word) for item, word in zip(items, words, strict=True))


def _entry(kind: Any, word: str) -> Any:
    """Returns a phase, a group or a task, of "epochs=5,trained=head"; "|" divides a tuple."""
    types_of = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for part in word.strip("()").split(","):
        name, equals, value = part.partition("=")
        field = name.strip().replace("-", "_")
        if field not in types_of or not equals:
            raise ValueError(
                f"got {part!r}, whose field is unknown{messages.hint(field, types_of)}"
            )
        wanted = types_of[field]
        try:
            items = _items(wanted)
            fields[field] = (
                _scalar(wanted, value)
                if items is None
                else tuple(_scalar(items[0], part) for part in value.split("|"))
            )
        except ValueError:
            raise ValueError(f"got {part!r}, where {field} is {_expected(wanted)}") from None
    lacking = [field for field in _NEEDED[kind] if field not in fields]
    if lacking:
        raise ValueError(
            f"got {word!r}, which has no {lacking[0]}; commas without spaces join the fields of "
            "one entry"
        )
    return kind(**fields)


def _is_optional(kind: Any) -> bool:
    return _is_union(kind) and type(None) in typing.get_args(kind)


def _is_none(words: Sequence[str]) -> bool:
    return len(words) == 1 and words[0].lower() in _NONE


def _scalar(kind: Any, word: str) -> Any:
    """Returns a word as a value of a type; a ValueError says what was got."""
    if _is_union(kind):
        if _is_none([word]) and _is_optional(kind):
            return None
        kinds = [each for each in typing.get_args(kind) if each is not type(None)]
        for each in kinds[:-1]:  # of `float | Literal["auto"] | None`
            with contextlib.suppress(ValueError):
                return _scalar(each, word)
        return _scalar(kinds[-1], word)
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if word not in choices:
            raise ValueError(f"got {word!r}{messages.hint(word.lower(), choices)}")
        return choices[word]
    if kind is bool:
        if word.lower() not in _WORDS:
            raise ValueError(f"got {word!r}")
        return _WORDS[word.lower()]
    if kind is Path:
        if not word:  # as of `--workdir "$UNSET"`, which would be the current folder
            raise ValueError("got ''")
        return files.user_path(word)
    try:
        return kind(word)
    except ValueError:
        point = word.replace(",", ".")
        hint = f"; did you mean {point}?" if kind is float and _is_number(point) else ""
        raise ValueError(f"got {word!r}{hint}") from None


def _expected(kind: Any) -> str:
    """Returns a type in words."""
    if _is_union(kind):
        inner = [each for each in typing.get_args(kind) if each is not type(None)]
        return " or ".join([*map(_expected, inner), *(["none"] if _is_optional(kind) else [])])
    if typing.get_origin(kind) is Literal:
        choices = ", ".join(map(str, typing.get_args(kind)))
        return f"one of {choices}" if ", " in choices else choices
    items = _items(kind)
    if items is not None:
        if items[-1] is Ellipsis:
            names = {int: "whole numbers", float: "numbers", Path: "paths"}
            if items[0] in _ENTRIES:
                return f"entries such as {_ENTRIES[items[0]]}"
            return names.get(items[0], "words") + " with spaces between them"
        if items[0] in (int, float):
            return f"{len(items)} numbers, as in 0.5 1.0 or 0.5,1.0"
        return " and ".join(map(_expected, items))
    return {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}.get(
        kind, "a value"
    )


def _placed(
    known: Sequence[Parameter],
    words: Sequence[str],
    options: Mapping[str, Parameter],
    before: str,
) -> dict[tuple[str, ...], Any]:
    """Returns the values of the parameters that are given by place."""
    values: dict[tuple[str, ...], Any] = {}
    left = list(words)
    for parameter in known:
        if _items(parameter.kind) is not None:
            values[parameter.path] = _value(parameter, left)
            left = []
        elif left:
            values[parameter.path] = _value(parameter, [left.pop(0)])
        elif parameter.required:
            raise ValueError(f"{parameter.name} is missing; expected {_expected(parameter.kind)}")
    if left:
        raise ValueError(_stray(left[0], options, before))
    return values


def _stray(word: str, options: Mapping[str, Parameter], before: str) -> str:
    """Returns the message about an argument that nothing takes."""
    name, equals, value = word.partition("=")
    if equals or "." in word:
        nearest = nearest_options(name, list(options))
        if nearest:
            example = f"{nearest[0]} {value or 'VALUE'}"
            return f"unexpected {word!r}; an option begins with two dashes: {example}"
    if before:
        return f"unexpected {word!r}; {before} expects {_expected(options[before].kind)}"
    return f"unexpected {word!r}"


def _unknown(name: str, known: Sequence[Parameter]) -> str:
    """Returns the message about an option that does not exist."""
    options = {p.name: p for p in known if not p.positional}
    words = name.lstrip("-").upper().replace("_", "-")
    for parameter in (p for p in known if p.positional):
        # --run, --image and --source of RUN-OR-MODEL, IMAGES and SOURCE.
        if len(words) > 2 and parameter.name.startswith(words):
            return f"unknown option {name}; {parameter.name} is given without an option's name"
    # --transfer.phases.0.epochs
    listed = re.match(r"--(transfer\.(phases|groups)|tasks)(?=\.)", name)
    if listed and listed[0] in options:
        option = options[listed[0]]
        return f"unknown option {name}; {option.name} expects {_expected(option.kind)}"
    return unknown_option(name, list(options))


def _shown(words: Sequence[str]) -> str:
    return repr(" ".join(words)) if words else "nothing"

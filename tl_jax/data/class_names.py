"""Spellings of class names: which are one class, and which names no set may have."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping

from tl_jax import messages

_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_A_NAME = ("nan", "<na>", "nat")
# They may be classes ("none of these"), but are more often what a program writes for nothing.
_DOUBTFUL = ("none", "null", "na", "n/a", "-1")


def tidy(name: str) -> str:
    """Returns a name without blanks around it, its accents composed (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name).strip()


def joined(names: Iterable[str], *, numbers: bool = False) -> dict[str, str]:
    """Returns the class of each spelling of a name.

    Blanks around a name and decomposed accents make no other class, and neither do spellings of one
    number, if `numbers`: "1", "1.0" and "01". A number's only spelling stays as it is, but for
    zeros after the point.

    Examples:
      >>> joined(["1", "1.0", " cat", "cat", "007"], numbers=True)
      {'1': '1', '1.0': '1', ' cat': 'cat', 'cat': 'cat', '007': '007'}
    """
    classes = {name: tidy(name) for name in names}
    if not numbers:
        return classes
    spellings: dict[float, set[str]] = {}
    for name in classes.values():
        if (value := number(name)) is not None:
            spellings.setdefault(value, set()).add(name)

    def class_of(name: str) -> str:
        value = number(name)
        if value is None:
            return name
        if not value.is_integer():
            return min(spellings[value], key=lambda each: (len(each), each))
        is_alone = len(spellings[value]) == 1 and name.lstrip("+-").isdecimal()
        return name if is_alone else str(int(value))

    return {raw: class_of(name) for raw, name in classes.items()}


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names sorted: as numbers, if all are numbers."""
    listed = sorted(names)
    numbers = {name: number(name) for name in listed}
    values = {name: value for name, value in numbers.items() if value is not None}
    return tuple(sorted(listed, key=values.__getitem__) if len(values) == len(listed) else listed)


def number(name: str) -> float | None:
    """Returns the number that a name spells, or None."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in name else None


def notes(classes: Mapping[str, str], *, are_levels: bool = False) -> tuple[str, ...]:
    """Returns what `joined` did, and what is doubtful about the names, as sentences.

    Args:
      classes: what `joined` returns.
      are_levels: whether the names are levels, of which numbers are nothing doubtful.
    """
    spellings: dict[str, list[str]] = {}
    for raw, name in classes.items():
        spellings.setdefault(name, []).append(raw)
    several = [f"{' and '.join(map(repr, raw))}" for raw in spellings.values() if len(raw) > 1]
    doubtful = [name for name in spellings if name.casefold() in _DOUBTFUL]
    fractions = [name for name in spellings if (number(name) or 0.0) % 1]
    said = []
    if several:
        said.append(f"spellings joined to one class: {messages.some(several, quoted=False)}")
    if doubtful:
        said.append(
            f"read as classes: {messages.some(doubtful)}; if they mean that there is no label, "
            "leave those labels empty"
        )
    if fractions and not are_levels:
        said.append(
            f"read as {len(spellings)} classes, one for each number: {messages.some(fractions)}; "
            "what is measured or rated has to be divided into classes first"
        )
    return tuple(said)


def check(names: Iterable[str], *, place: str) -> None:
    """Checks the names of the classes of a set, as `tidy` returns them.

    Raises:
      ValueError: if one is empty, holds a line break or another control character, is not Unicode,
        or is what programs write for a missing value; or if two differ in case only (single letters
        may).
    """
    names, problems = list(names), []
    twins: dict[str, str] = {}
    for name in names:
        if not name:
            problems.append("'' is no name")
        elif any(unicodedata.category(letter) == "Cs" for letter in name):
            problems.append(f"{printable(name)!r} is not UTF-8")
        elif any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            problems.append(f"{name!r} has a line break or another control character")
        elif name.casefold() in _NOT_A_NAME:
            problems.append(f"{name!r} stands for a missing label: leave such labels empty")
        folded = name.casefold()
        if len(name) > 1 and twins.setdefault(folded, name) != name:
            problems.append(f"{twins[folded]!r} and {name!r} differ in case only")
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} class names of {place} cannot be used:",
                problems,
                "rename these classes; one class has one spelling, in one line",
            )
        )


def printable(text: str) -> str:
    """Returns a text with "\\xe9" in the place of a byte that is not UTF-8.

    Python keeps such bytes of a file's name as single surrogates, which no file or terminal takes.
    """
    return _SURROGATES.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

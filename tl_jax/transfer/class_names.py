"""Maps new classes to classes of a pretrained classifier, by name or as given."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from tl_jax import messages

Words = tuple[str, ...]
ClassRef = int | str  # A source class, by index or by name.
GivenClasses = Mapping[str, ClassRef | Sequence[ClassRef]]

_APOSTROPHES = str.maketrans("", "", "'\N{RIGHT SINGLE QUOTATION MARK}")


@dataclasses.dataclass(frozen=True)
class ClassMapping:
    """The source classes of each new class; `str()` of it lists them all.

    Attributes:
      new_names: names of the new classes, in the order of the new logits.
      source_names: names of the pretrained classifier's classes, in the order of its logits.
      sources: for each new class the indices of its source classes; an empty tuple if it has none.

    Raises:
      ValueError: on construction, if the lengths differ or an index is out of range.
    """

    new_names: tuple[str, ...]
    source_names: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.new_names):
            raise ValueError(
                f"got sources of {len(self.sources)} classes, expected {len(self.new_names)}"
            )
        for name, indices in zip(self.new_names, self.sources, strict=True):
            for index in indices:
                if not 0 <= index < len(self.source_names):
                    raise ValueError(
                        f"the new class {name!r} is mapped to source class {index}; expected 0 to "
                        f"{len(self.source_names) - 1}"
                    )

    @property
    def matched(self) -> tuple[str, ...]:
        """The new classes that have a source class, in order."""
        pairs = zip(self.new_names, self.sources, strict=True)
        return tuple(name for name, indices in pairs if indices)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The new classes without a source class, in order."""
        pairs = zip(self.new_names, self.sources, strict=True)
        return tuple(name for name, indices in pairs if not indices)

    @property
    def is_matched(self) -> np.ndarray:
        """Whether each new class has a source class, bool [K]."""
        return np.array([bool(indices) for indices in self.sources], bool)

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched)} of {len(self.new_names)} classes start from the pretrained "
            "classifier"
        ]
        for name, indices in zip(self.new_names, self.sources, strict=True):
            if indices:
                sources = [f"{self.source_names[i].partition(',')[0]} ({i})" for i in indices]
                lines.append(f"  {name} <- {', '.join(sources)}")
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} start fresh: {', '.join(self.unmatched)}")
        return "\n".join(lines)


def match_classes(
    new_names: Sequence[str],
    source_names: Sequence[str],
    given: GivenClasses | None = None,
    *,
    match_endings: bool = False,
) -> ClassMapping:
    """Maps each new class to source classes: those given for it, or else those of its name.

    A name may list synonyms, separated by commas, as ImageNet's do ("tabby, tabby cat"). Names are
    compared as whole words, ignoring case, punctuation, underscores and hyphens. The first of these
    rules that finds a source class decides, and all classes that it finds are taken (two classes of
    ImageNet are named "crane"; a new "crane" starts from both, unless `given` chooses one):

    1. the same name or list of names: "maillot" is not "maillot, tank suit",
    2. the same first name: "polecat" takes "polecat, fitch", and not "skunk, polecat",
    3. the same name among the synonyms: "panda" takes "lesser panda, panda" and "giant panda,
       panda",
    4. as 2., or else 3., without a plural s: "tabby cats",
    5. with `match_endings`, a name that ends with the words: "cat" takes "tabby cat" and "Persian
       cat", but not "polecat". Check the result: "dog" takes "hot dog".

    Args:
      new_names: names of the new classes.
      source_names: names of the pretrained classifier's classes, such as `class_names(1000)`.
      given: new class -> source class, by index or name, or several of them; an empty list lets the
        class start fresh whatever its name.
      match_endings: whether rule 5 applies.

    Raises:
      ValueError: if `given` holds an unknown class name, or an index out of range.

    Examples:
      >>> from tl_jax.weights.classes import class_names
      >>> mapping = match_classes(["tabby_cats", "crane", "solar cell"], class_names(1000))
      >>> mapping.sources
      ((281,), (134, 517), ())
    """
    given = given or {}
    for name in given:
        if name not in new_names:
            raise ValueError(
                f"a source class is given for {name!r}, which is not one of the new classes"
                f"{messages.hint(name, new_names)}"
            )
    index = _NameIndex(source_names, match_endings=match_endings)
    sources = [
        index.resolve(name, given[name]) if name in given else index.find(name)
        for name in new_names
    ]
    return ClassMapping(tuple(new_names), tuple(source_names), tuple(sources))


class _NameIndex:
    """Looks source classes up by name, by the rules of `match_classes` in their order."""

    def __init__(self, source_names: Sequence[str], *, match_endings: bool) -> None:
        names_of = {i: names for i, name in enumerate(source_names) if (names := _synonyms(name))}
        first = [(i, names[0]) for i, names in names_of.items()]
        every = [(i, words) for i, names in names_of.items() for words in names]
        singular_first = [(i, form) for i, words in first for form in _singular_forms(words)]
        singular_every = [(i, form) for i, words in every for form in _singular_forms(words)]
        self._known = [" ".join(words) for _, words in every]
        self._by_list = _indices_by_key(names_of.items())
        self._exact = [_indices_by_key(first), _indices_by_key(every)]
        self._singular = [_indices_by_key(singular_first), _indices_by_key(singular_every)]
        if match_endings:
            endings = [(i, words[n:]) for i, words in singular_every for n in range(1, len(words))]
            self._singular.append(_indices_by_key(endings))

    def find(self, name: str) -> tuple[int, ...]:
        """Returns the indices of the source classes with this name, in order."""
        names = _synonyms(name)
        forms = [form for words in names for form in _singular_forms(words)]
        lookups: list[tuple[Mapping[Hashable, set[int]], Sequence[Hashable]]] = [
            (self._by_list, [names]),
            *((table, names) for table in self._exact),
            *((table, forms) for table in self._singular),
        ]
        for table, keys in lookups:
            if indices := {i for key in keys for i in table.get(key, ())}:
                return tuple(sorted(indices))
        return ()

    def resolve(self, name: str, given: ClassRef | Sequence[ClassRef]) -> tuple[int, ...]:
        """Returns the indices of the source classes that are given for the new class `name`."""
        refs = [given] if isinstance(given, str | int | np.integer) else given
        resolved: list[int] = []
        for ref in refs:
            indices = self.find(ref) if isinstance(ref, str) else (int(ref),)
            if not indices:
                raise ValueError(
                    f"the source class {ref!r} that is given for {name!r} does not exist"
                    f"{messages.hint(' '.join(_words(str(ref))), self._known)}"
                )
            resolved += indices
        return tuple(dict.fromkeys(resolved))


def _indices_by_key(entries: Iterable[tuple[int, Hashable]]) -> dict[Hashable, set[int]]:
    table: dict[Hashable, set[int]] = defaultdict(set)
    for index, key in entries:
        table[key].add(index)
    return table


def _synonyms(name: str) -> tuple[Words, ...]:
    """Returns the words of each of the names that commas separate."""
    return tuple(words for part in name.split(",") if (words := _words(part)))


def _words(name: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", name.casefold().translate(_APOSTROPHES)))


def _singular_forms(words: Words) -> set[Words]:
    """Returns a name, and the names that it may be the plural of."""
    *first, last = words
    forms = {last}
    if len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is")):
        forms.add(last[:-1])
        if last.endswith(("ches", "shes", "ses", "xes", "zes", "oes")):
            forms.add(last[:-2])
        if last.endswith("ies"):
            forms.add(last[:-3] + "y")
    return {(*first, form) for form in forms}

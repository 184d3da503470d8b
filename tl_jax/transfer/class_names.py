"""New classes from those of the pretrained classifier: which they are, and carrying rows over."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike, NDArray

from tl_jax import messages, trees

Words = tuple[str, ...]
Given = Mapping[str, int | str | Sequence[int | str]]

_APOSTROPHES = str.maketrans("", "", "'\N{RIGHT SINGLE QUOTATION MARK}")
# Logits of classes that cannot be predicted; finite, so that a loss of them is a number.
_NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class ClassMapping:
    """Which source classes each new class starts from. `str()` of it lists them all.

    Attributes:
      new_names: names of the new classes, in the order of the new logits.
      source_names: names of the pretrained classifier's classes, in the order of its logits.
      sources: for each new class the indices of its source classes; none: it starts fresh.

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
        """The new classes that have a source, in order."""
        return tuple(np.asarray(self.new_names, object)[self.is_matched])

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The new classes that have none and start fresh, in order."""
        return tuple(np.asarray(self.new_names, object)[~self.is_matched])

    @property
    def is_matched(self) -> NDArray[np.bool_]:
        """Whether each new class has a source, [K]."""
        return np.array([bool(indices) for indices in self.sources], bool)

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched)} of {len(self.new_names)} classes start from the pretrained "
            "classifier"
        ]
        for name, indices in zip(self.new_names, self.sources, strict=True):
            found = [f"{self.source_names[i].partition(',')[0]} ({i})" for i in indices]
            lines += [f"  {name} <- {', '.join(found)}"] if found else []
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} start fresh: {', '.join(self.unmatched)}")
        return "\n".join(lines)


def match_classes(
    new_names: Sequence[str],
    source_names: Sequence[str],
    given: Given | None = None,
    *,
    kinds: bool = False,
) -> ClassMapping:
    """Finds the source classes of each new class: as given, or else by name.

    A name may list synonyms, parted by commas, as ImageNet's do ("tabby, tabby cat"). Names are
    compared as whole words; case, punctuation, underscores and hyphens do not count. Of these, the
    first that finds a source class decides, and all that it finds are taken (two classes of
    ImageNet are named "crane"; a new "crane" starts from both, unless `given` chooses one):

    1. the same name or list of names: "maillot" is not "maillot, tank suit",
    2. the same first name: "polecat" takes "polecat, fitch", and not "skunk, polecat",
    3. the same name anywhere: "panda" takes "lesser panda, panda" and "giant panda, panda",
    4. as 2., or else 3., but for a plural s at the end: "tabby cats",
    5. with `kinds`, a name that ends so: "cat" takes "tabby cat" and "Persian cat", but not
       "polecat". Look at what it takes: "dog" takes "hot dog".

    Args:
      new_names: names of the new classes.
      source_names: names of the pretrained classifier's, such as `class_names(1000)`.
      given: new class -> source class, by index or name, or several of them; an empty list lets the
        class start fresh whatever its name.
      kinds: whether 5. applies.

    Raises:
      ValueError: if `given` holds a name that is no class, or an index out of range.

    Example:
      >>> mapping = match_classes(["tabby_cats", "crane", "solar cell"], class_names(1000))
      >>> mapping.sources
      ((281,), (134, 517), ())
    """
    given = {} if given is None else given
    for name in given:
        if name not in new_names:
            raise ValueError(
                f"a source is given for {name!r}, which is none of the new classes"
                f"{messages.hint(name, new_names)}"
            )
    index = _NameIndex(source_names, kinds=kinds)
    sources = [
        index.resolve(name, given[name]) if name in given else index.find(name)
        for name in new_names
    ]
    return ClassMapping(tuple(new_names), tuple(source_names), tuple(sources))


class _NameIndex:
    """Source classes by their names, in the order in which `match_classes` compares."""

    def __init__(self, source_names: Sequence[str], *, kinds: bool) -> None:
        self.names = [_synonyms(name) for name in source_names]
        every = [(i, words) for i, names in enumerate(self.names) for words in names]
        first = [(i, names[0]) for i, names in enumerate(self.names) if names]
        self._lists = _table((i, names) for i, names in enumerate(self.names) if names)
        self._exact = [_table(first), _table(every)]
        self._plural = [_table(_in_singular(first)), _table(_in_singular(every))]
        if kinds:
            self._plural.append(_table(_endings(_in_singular(every))))

    def find(self, name: str) -> tuple[int, ...]:
        """Returns the indices of the source classes of that name, in order."""
        names = _synonyms(name)
        forms = [form for words in names for form in _forms(words)]
        wanted = [([names], self._lists)]
        wanted += [(names, table) for table in self._exact]
        wanted += [(forms, table) for table in self._plural]
        for keys, table in wanted:
            if found := {i for key in keys for i in table.get(key, ())}:
                return tuple(sorted(found))
        return ()

    def resolve(self, name: str, given: int | str | Sequence[int | str]) -> tuple[int, ...]:
        """Returns the indices of the source classes that are given for a new class."""
        several = [given] if isinstance(given, str | int | np.integer) else given
        found: dict[int, None] = {}
        for one in several:
            indices = self.find(one) if isinstance(one, str) else (int(one),)
            if not indices:
                known = [" ".join(words) for names in self.names for words in names]
                raise ValueError(
                    f"the source class {one!r} that is given for {name!r} does not exist"
                    f"{messages.hint(' '.join(_words(one)), known)}"
                )
            found |= dict.fromkeys(indices)
        return tuple(found)


def _table(entries: Iterable[tuple[int, Any]]) -> dict[Any, set[int]]:
    """Returns the indices by key."""
    table: dict[Any, set[int]] = defaultdict(set)
    for i, key in entries:
        table[key].add(i)
    return table


def _in_singular(entries: Iterable[tuple[int, Words]]) -> Iterator[tuple[int, Words]]:
    return ((i, form) for i, words in entries for form in _forms(words))


def _endings(entries: Iterable[tuple[int, Words]]) -> Iterator[tuple[int, Words]]:
    return ((i, words[start:]) for i, words in entries for start in range(1, len(words)))


def _synonyms(name: str) -> tuple[Words, ...]:
    """Returns the words of each of the names that commas part."""
    return tuple(words for part in name.split(",") if (words := _words(part)))


def _words(name: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", name.casefold().translate(_APOSTROPHES)))


def _forms(words: Words) -> set[Words]:
    """Returns a name and what it may be the plural of."""
    *first, last = words
    forms = {last}
    if len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is")):
        forms.add(last[:-1])
        if last.endswith(("ches", "shes", "ses", "xes", "zes", "oes")):
            forms.add(last[:-2])
        if last.endswith("ies"):
            forms.add(last[:-3] + "y")
    return {(*first, form) for form in forms}


def carry_rows(
    kernel: ArrayLike, bias: ArrayLike, mapping: ClassMapping
) -> tuple[jax.Array, jax.Array]:
    """Returns the classifier of the new classes: of each the mean of its source classes' rows.

    The row of a class with one source has the bits of the source's, so that its logits are the same
    but for the rounding of a product of another width; that of an unmatched class is zero.

    Args:
      kernel: the pretrained classifier's, [C, S], or [1, 1, C, S] of a convolution.
      bias: [S].
      mapping: K new classes from S source classes.

    Returns:
      Kernel [..., C, K] and bias [K].

    Raises:
      ValueError: if the classifier has another number of classes than the mapping's source.
    """
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    count = len(mapping.source_names)
    if kernel.shape[-1] != count or bias.shape != (count,):
        raise ValueError(
            f"the mapping is from {count} source classes, but the classifier has a kernel of shape "
            f"{kernel.shape} and a bias of shape {bias.shape}; match the classes with the names of "
            "this classifier"
        )
    return _means(kernel, mapping), _means(bias, mapping)


def _means(rows: NDArray[Any], mapping: ClassMapping) -> jax.Array:
    """Returns the mean over each class's sources along the last axis; zero if it has none."""
    carried = np.zeros((*rows.shape[:-1], len(mapping.sources)), rows.dtype)
    for i, indices in enumerate(mapping.sources):
        if indices:
            carried[..., i] = rows[..., list(indices)].mean(-1)
    return jnp.asarray(carried)


def carry_classifier(
    source_params: trees.Tree, classifier: str, mapping: ClassMapping, *, like: trees.Tree
) -> dict[str, Any]:
    """Returns a new network's parameters with the rows of the pretrained classifier carried over.

    The other logits of pretrained networks may lie far from the zero at which unmatched classes
    start (far below it after training with binary cross-entropy); training soon moves the bias.

    Args:
      source_params: parameters of the pretrained network.
      classifier: dotted name of the classifier, the same in both networks.
      mapping: the new classes from the pretrained ones.
      like: parameters of the new network. All is taken from them but the kernel and bias of the
        matched classes; unmatched classes so start as the network draws them.

    Raises:
      ValueError: if a network has no such classifier, or its size is not that of the mapping.
    """
    source = trees.layer_leaves(source_params, classifier)
    fresh = trees.layer_leaves(like, classifier)
    carried = dict(
        zip(("kernel", "bias"), carry_rows(source["kernel"], source["bias"], mapping), strict=True)
    )
    for name, rows in carried.items():
        if rows.shape != fresh[name].shape:
            raise ValueError(
                f"{classifier}.{name} of the new network has shape {fresh[name].shape}, expected "
                f"{rows.shape}: the features of the pretrained one, and a column for each of the "
                f"{len(mapping.new_names)} new classes"
            )
        carried[name] = jnp.where(mapping.is_matched, rows, fresh[name])
    return trees.with_layer_leaves(like, classifier, carried)


def start_mix(
    params: trees.Tree, mapping: ClassMapping, *, layer: str = "head.mix"
) -> dict[str, Any]:
    """Returns a fused network's parameters in which the mix of the classes starts from a mapping.

    Each new class has the mean of the scaled logits of its source classes; an unmatched one none.

    Args:
      params: parameters of a `tl_jax.heads.fused.Fused`.
      mapping: the new classes from those of the classifier that it keeps.
      layer: dotted name of the mix.

    Raises:
      ValueError: if there is no such layer, or its size is not that of the mapping.
    """
    kernel = trees.layer_leaves(params, layer)["kernel"]
    mixed = _means(np.eye(len(mapping.source_names), dtype=np.float32), mapping)
    if mixed.shape != kernel.shape:
        raise ValueError(
            f"the mapping is from {mixed.shape[0]} source classes to {mixed.shape[1]}, but "
            f"{layer}.kernel has shape {kernel.shape}"
        )
    return trees.with_layer_leaves(params, layer, {"kernel": mixed})


@dataclasses.dataclass(frozen=True)
class Restricted:
    """A network that predicts the matched classes alone, to be evaluated in the network's place.

    Attributes:
      model: the network with the classifier of `carry_classifier`.
      mapping: the mapping that the classifier was made with.
    """

    model: nn.Module
    mapping: ClassMapping

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Returns the logits, [B, K]."""
        return matched_logits(self.model.apply(variables, images, train=train), self.mapping)


def matched_logits(logits: jax.Array, mapping: ClassMapping) -> jax.Array:
    """Returns logits [..., K] in which those of unmatched classes are -1e9.

    Raises:
      ValueError: if no class is matched.
    """
    if not mapping.matched:
        raise ValueError(
            "none of the new classes has a source class, so that nothing can be predicted before "
            "training; give a mapping, or start with a fresh classifier"
        )
    return jnp.where(mapping.is_matched, logits, _NEVER)


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """What a carried classifier gets right before training.

    Attributes:
      examples: how many there were.
      of_matched_classes: how many of them belong to a class that can be predicted.
      correct: how many were predicted rightly.
    """

    examples: int
    of_matched_classes: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of all examples; those of unmatched classes count as wrong."""
        return self.correct / self.examples

    @property
    def matched_accuracy(self) -> float:
        """Share of the examples of matched classes; NaN if there are none."""
        return self.correct / self.of_matched_classes if self.of_matched_classes else float("nan")


def zero_shot(confusion: ArrayLike, mapping: ClassMapping) -> ZeroShot:
    """Counts the zero-shot predictions of a carried classifier.

    Args:
      confusion: counts [K, K] by label and prediction, of a `Restricted` network.
      mapping: the mapping of its classifier.

    Raises:
      ValueError: if the matrix is empty or of another size, or an unmatched class was predicted,
        which a `Restricted` network does not.
    """
    confusion, matched = np.asarray(confusion), mapping.is_matched
    if confusion.shape != (len(matched), len(matched)) or not confusion.sum():
        raise ValueError(
            f"expected counts of at least one example of {len(matched)} classes, got shape "
            f"{confusion.shape} and a sum of {confusion.sum()}"
        )
    if confusion[:, ~matched].any():
        raise ValueError(
            "an unmatched class was predicted; take the confusion matrix of Restricted(model, "
            "mapping)"
        )
    return ZeroShot(
        examples=int(confusion.sum()),
        of_matched_classes=int(confusion[matched].sum()),
        correct=int(np.trace(confusion)),
    )

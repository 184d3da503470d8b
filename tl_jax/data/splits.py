"""Splits of a set: their names, slices in TFDS's syntax, and seeded partitions into splits.

`train`, `train[:90%]`, `train[-100:]`, `train[10%:20%]+test` and `all` mean the same as in TFDS,
with the same rounding of percentages. A partition depends only on the names and the seed, so it is
the same on every machine.
"""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from tl_jax import messages

# The usual spellings of a split, in lower case; "eval" may be either of the last two.
_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "vali", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
    "eval": ("eval", "evaluation", "evaluate"),
}
HELD_OUT = ("train", "validation")
"""The splits of a set that has none of its own: the part to train on, and the part held out."""
WHOLE = "all"
"""The specification of all of a set."""
SLICE_SEED = 0
"""Of the order of names that slices are cut from."""

_ROLES = {spelling: role for role, spellings in _SPELLINGS.items() for spelling in spellings}
# Words beside them that change nothing: "train_set", "TestData", "images_val", "trainset".
_FILLERS = frozenset(
    "data dataset file files folder image images img imgs part photo photos picture pictures "
    "sample samples set split splits subset".split()
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")

_LAST_NUMBER = re.compile(r"[0-9]{1,18}(?=[^0-9]*$)")
_BOUND = r"-?[\d_]+(?:\.\d*)?%?"
_SLICE = re.compile(
    rf"(?P<split>[^\[\]+]+)(?P<bounds>\[(?P<start>{_BOUND})?:(?P<stop>{_BOUND})?\])?"
)


def canonical_name(split: str) -> str:
    """Returns the usual name of a split that is spelled otherwise, and any other name as it is.

    Examples:
      >>> [canonical_name(name) for name in ("Training", "val", "TEST_SET", "dev", "week 1")]
      ['train', 'validation', 'test', 'validation', 'week 1']
    """
    words = _words(split)
    if any(word.isdecimal() and len(word) != 4 for word in words):
        return split  # "test2" may stand beside "test1"; a year, as in "val2017", stands alone.
    words = [word for word in words if not word.isdecimal()]
    return _ROLES[words[0]] if len(words) == 1 and words[0] in _ROLES else split


def is_split_name(name: str) -> bool:
    """Returns whether a name is one of the usual spellings of a split."""
    return canonical_name(name) in _SPELLINGS


def plain_splits(names: Iterable[str]) -> list[str]:
    """Returns those of some names that are plainly splits of one set.

    They are when two differ in nothing but the word for a split, as "seg_train" and "seg_test".

    Examples:
      >>> plain_splits(["train", "test", "seg_train", "car"]), plain_splits(["train", "car"])
      (['train', 'test'], [])
    """
    by_rest: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        words = [word for word in _words(name) if not word.isdecimal()]
        roles = [word for word in words if word in _ROLES]
        if len(roles) == 1:
            rest = tuple(word for word in words if word not in _ROLES)
            by_rest.setdefault(rest, {}).setdefault(_ROLES[roles[0]], []).append(name)
    return [
        name
        for by_role in by_rest.values()
        if len(by_role) > 1
        for members in by_role.values()
        for name in members
    ]


def _words(name: str) -> list[str]:
    """Returns the words and numbers of a name in lower case, without those that change nothing."""
    words = [word.lower() for word in _WORD.findall(unicodedata.normalize("NFKC", name))]
    words = [_without_filler(word) for word in words]
    return [word for word in words if word not in _FILLERS]


def _without_filler(word: str) -> str:
    """Returns "train" for "trainset"."""
    for filler in _FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _ROLES:
            return word.removesuffix(filler)
    return word


def resolve(split: str, known: Iterable[str]) -> str | None:
    """Returns the one of some splits that a name means: itself, or another spelling of it."""
    names = list(known)
    if split in names:
        return split
    same = [name for name in names if canonical_name(name) == canonical_name(split)]
    return same[0] if len(same) == 1 else None


def unknown(
    split: str, known: Iterable[str], *, name: str, spelled: Mapping[str, str] | None = None
) -> ValueError:
    """Returns the error for a split that a set does not have; it lists those that it has.

    Args:
      split: what was asked for.
      known: the splits of the set.
      name: name of the set.
      spelled: how the set itself writes its splits, where that differs.
    """
    names = list(known)
    is_validation = canonical_name(split) == "validation" and "train" in names
    other = "".join(f", or data.eval_split {each!r} uses that" for each in names if each == "test")
    held_out = f"; of a run, data.carve 0.2 holds it out of 'train'{other}" * is_validation
    return ValueError(
        f"no split {split!r} in {name}; it has {listed(names, spelled or {})}"
        f"{messages.hint(split, names)} (slices are written `train[:90%]`){held_out}"
    )


def listed(names: Iterable[str], spelled: Mapping[str, str]) -> str:
    """Returns names of splits as text, with the set's own spelling where that differs.

    Examples:
      >>> listed(["train", "test"], {"test": "Testing"})
      'train, test (Testing)'
    """
    return ", ".join(
        f"{name} ({spelled[name]})" if spelled.get(name, name) != name else name for name in names
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Returns names of splits in the usual order: train, validation, test, then the others."""
    usual = list(_SPELLINGS)
    return sorted(
        names, key=lambda name: (usual.index(name) if name in usual else len(usual), name)
    )


def has_role(name: str) -> str | None:
    """Returns the split that a word in a name means, such as "test" for "PublicTest", or None.

    Examples:
      >>> [has_role(name) for name in ("PublicTest", "Training", "cat")]
      ['test', 'train', None]
    """
    roles = {_ROLES[word] for word in _words(name) if word in _ROLES}
    return roles.pop() if len(roles) == 1 else None


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of one split.

    Attributes:
      split: name of the split.
      start, stop: bounds as in a slice of a list: negative ones count from the end, None is open.
      percent: whether the bounds are percentages of the split, rather than numbers of examples.
    """

    split: str
    start: float | None = None
    stop: float | None = None
    percent: bool = False

    def positions(self, count: int) -> range:
        """Returns the positions of the slice in a split of `count` examples.

        Raises:
          ValueError: if a bound is beyond the split.
        """

        def position(bound: float) -> int:
            return round(bound * count / 100) if self.percent else int(bound)

        start = 0 if self.start is None else position(self.start)
        stop = count if self.stop is None else position(self.stop)
        if max(abs(start), abs(stop)) > count:
            raise ValueError(
                f"got the slice [{start}:{stop}] of split {self.split!r}, which has {count} "
                "examples; expected bounds within it"
            )
        return range(start + count * (start < 0), stop + count * (stop < 0))


def parse(spec: str, known: Iterable[str]) -> list[Slice]:
    """Parses the specification of a split.

    Args:
      spec: a name, a slice, or a sum of these.
      known: names of the splits of the set. One of them is taken literally, even if it has brackets
        or plus signs, and "all" stands for all of them. Other names are not checked here.

    Raises:
      ValueError: if it is not in TFDS's syntax.

    Examples:
      >>> parse("train[:90%]", ["train", "test"])
      [Slice(split='train', start=None, stop=90.0, percent=True)]
    """
    names = list(known)
    if spec in names:
        return [Slice(spec)]
    if spec == WHOLE:
        return [Slice(name) for name in names]
    return [_parse_slice(term.strip(), spec) for term in spec.split("+")]


def _parse_slice(term: str, spec: str) -> Slice:
    malformed = ValueError(
        f"cannot read the split {spec!r}; expected a name, a slice such as train[:90%] or "
        "train[100:], or a sum of these: train[:50%]+test (TFDS's shards are not supported)"
    )
    match = _SLICE.fullmatch(term)
    if match is None:
        raise malformed
    split, bounds = match["split"].strip(), match["bounds"]
    if bounds is None:
        return Slice(split)
    if match["start"] is None and match["stop"] is None:
        raise malformed
    percent = "%" in bounds
    try:
        start, stop = (
            None if text is None else float(text.rstrip("%")) if percent else int(text)
            for text in match.group("start", "stop")
        )
    except ValueError as error:  # Such as 1__0 or, without a percent sign, 1.5.
        raise malformed from error
    if percent and max(abs(start or 0), abs(stop or 0)) > 100:
        raise ValueError(f"got the split {spec!r}; expected percentages from -100 to 100")
    return Slice(split, start, stop, percent)


def parse_known(
    spec: str, known: Iterable[str], *, name: str, spelled: Mapping[str, str] | None = None
) -> list[Slice]:
    """Parses a specification whose splits, in any usual spelling, are known; see `parse`.

    Raises:
      ValueError: if it cannot be read, or a split is unknown (see `unknown`).
    """
    names, slices = list(known), []
    for each in parse(spec, names):
        split = resolve(each.split, names)
        if split is None:
            raise unknown(each.split, names, name=name, spelled=spelled)
        slices.append(dataclasses.replace(each, split=split))
    return slices


def respelled(
    spec: str, known: Iterable[str], *, name: str, spelled: Mapping[str, str] | None = None
) -> str:
    """Returns a specification with the set's own names in the place of other spellings.

    Raises:
      ValueError: as `parse_known`.

    Examples:
      >>> respelled("val[:50%]+Training", ["train", "validation"], name="birds")
      'validation[:50%]+train'
    """

    def bound(value: float | None, percent: bool) -> str:
        return "" if value is None else f"{value:g}%" if percent else str(value)

    def written(each: Slice) -> str:
        if each.start is None and each.stop is None:
            return each.split
        return f"{each.split}[{bound(each.start, each.percent)}:{bound(each.stop, each.percent)}]"

    return "+".join(written(each) for each in parse_known(spec, known, name=name, spelled=spelled))


def select(
    spec: str, sizes: Mapping[str, int], *, name: str, spelled: Mapping[str, str] | None = None
) -> list[tuple[str, range]]:
    """Returns the splits that a specification names, each with the selected positions.

    Args:
      spec: the specification, as in `parse`.
      sizes: number of examples of each split of the set.
      name, spelled: as in `unknown`.

    Raises:
      ValueError: if it cannot be read, names an unknown split, or selects no example.

    Examples:
      >>> select("train[75%:]+test", {"train": 8, "test": 3}, name="birds")
      [('train', range(6, 8)), ('test', range(0, 3))]
    """
    slices = parse_known(spec, sizes, name=name, spelled=spelled)
    selected = [(each.split, each.positions(sizes[each.split])) for each in slices]
    check_not_empty(spec, sum(len(positions) for _, positions in selected), name=name)
    return selected


def check_not_empty(spec: str, count: int, *, name: str) -> None:
    """Raises ValueError if the split `spec` of a set has no example."""
    if count == 0:
        raise ValueError(f"split {spec!r} of {name} holds no example; choose a larger slice")


def shuffled(names: Iterable[str], *, seed: int) -> list[str]:
    """Returns the names in an order that depends only on the names and the seed."""
    return sorted(names, key=lambda name: _digest(f"{seed}:{name}"))


def _digest(text: str) -> bytes:
    # Names of files that are not UTF-8 have surrogates in the place of their bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def partition(names: Sequence[str], *, shares: Sequence[float], seed: int) -> list[list[str]]:
    """Divides the names of one stratum into parts.

    Part k ends at the rounded cumulative share, so its size differs from the exact share by at most
    one. Names are unique within a stratum.

    Args:
      names: members of the stratum.
      shares: share of each part; they sum to 1.
      seed: chooses the partition.
    """
    order = shuffled(names, seed=seed)
    ends = [round(len(order) * sum(shares[: k + 1])) for k in range(len(shares))]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def partition_strata(
    strata: Iterable[Sequence[str]], *, shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """Divides each stratum into splits, as `partition`, and returns the names of each split.

    Args:
      strata: the members of each stratum.
      shares: share of each split, by its name; they sum to 1.
      seed: chooses the partition.
    """
    splits: dict[str, list[str]] = {split: [] for split in shares}
    for names in strata:
        parts = partition(names, shares=list(shares.values()), seed=seed)
        for split, part in zip(splits, parts, strict=True):
            splits[split] += part
    return splits


def hold_out(
    names: Sequence[str], *, fraction: float, seed: int, nonempty: bool, salt: str = ""
) -> tuple[list[str], list[str]]:
    """Divides names into those to train on and those to hold out.

    A name is held out if its place between 0 and 1, which is hashed from it, lies below `fraction`.
    So it stays on its side whatever names are added, and the share that is held out is only about
    `fraction`; of names that are numbered in a row ("cat 1.jpg", "cat 2.jpg" ...) it is nearly
    exact. With `nonempty`, a name of a small class that is held out may go back when others are
    added, as far as the class needs one and has no more than twice its share; no rule could prevent
    that.

    Args:
      names: each once; at least two if `nonempty`.
      fraction: share that is held out, on average.
      seed: chooses the names.
      nonempty: keep at least one name on each side, and hold out at most twice the share: those
        with the lowest places are held out.
      salt: makes divisions of one set with the same seed independent.
    """
    places = {name: _place(name, fraction, f"{salt}{seed}") for name in names}
    order = sorted(names, key=places.__getitem__)
    count = sum(places[name] < fraction for name in order)
    if nonempty:
        most = min(int(2 * fraction * len(order)), len(order) - 1)
        count = max(min(count, most), 1)
    return order[count:], order[:count]


def _place(name: str, fraction: float, salt: str) -> float:
    """Returns a place from 0 to 1 that is hashed from a name; such places are spread evenly.

    Numbers in a row, 1 / `fraction` at a time, share the same parts of the range, one each: a small
    class of numbered files has about its share below the fraction, where chance alone would give
    some classes of ten none, and others five.
    """
    place = _hashed(f"{salt}:{name}")
    stem = name.rpartition(".")[0] or name
    number = _LAST_NUMBER.search(stem)
    if number is None:
        return place
    length = max(1, round(1 / fraction))
    block, within = divmod(int(number[0]), length)
    first = int(_hashed(f"{salt}:{stem[: number.start()]}:{block}:{length}") * length)
    return ((within + first) % length + place) / length


def _hashed(text: str) -> float:
    """Returns a number from 0 to 1, without 1, that is hashed from a text."""
    return (int.from_bytes(_digest(text)[:8], "big") >> 11) / 2**53


def check_fraction(fraction: float, *, name: str) -> None:
    """Raises ValueError unless 0 < fraction < 1; `name` is the option's name."""
    if not 0 < fraction < 1:
        raise ValueError(f"got {name}={fraction}; expected 0 < fraction < 1")

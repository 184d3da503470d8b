"""Turns columns of numbers, names, texts and vectors into the arrays of examples.

What the arrays mean is fixed by the training split (`fit`): its categories, in order, and its
words, the most frequent first. `encode` turns the columns of any split into arrays by that.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data import class_names
from tl_jax.data.source import Categories, Inputs

Texts = Sequence[str | None]

# A word is a run of letters and digits, with apostrophes inside it; all else separates words.
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_CURLY_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
_UNKNOWN_WORD, _FIRST_WORD = 1, 2


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """How texts become words.

    Attributes:
      max_tokens: words of a text that are kept, from its beginning, at most; no more than the
        longest text of the training split has.
      max_vocabulary: words that are known, the most frequent of the training split.
      min_count: how often a known word occurs there at least.

    Raises:
      ValueError: on construction, if a number is less than 1.
    """

    max_tokens: int = 32
    max_vocabulary: int = 5000
    min_count: int = 1

    def __post_init__(self) -> None:
        for name, number in dataclasses.asdict(self).items():
            if number < 1:
                raise ValueError(f"got {name}={number}; expected 1 or more")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The further inputs of a set as they are written, one value an example in each column.

    Attributes:
      numeric: float [N], NaN where a number is missing, by the column's name.
      categorical: names, None where one is missing, by the column's name.
      text: texts, None where one is missing; None: there is no text.
      vector: float [N, length], a row of NaN where one is missing; None: there is none.
    """

    numeric: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    categorical: Mapping[str, Texts] = dataclasses.field(default_factory=dict)
    text: Texts | None = None
    vector: np.ndarray | None = None


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case: runs of letters and digits.

    An apostrophe between letters belongs to the word; other signs and the underscore separate.

    Examples:
      >>> words("A dog's LIFE, 3.5 kg_net")
      ['a', "dog's", 'life', '3', '5', 'kg', 'net']
    """
    return _WORD.findall(text.lower().replace(_CURLY_APOSTROPHE, "'"))


def fit(
    columns: Columns, rows: np.ndarray, *, views: int = 0, text: TextOptions | None = None
) -> Inputs:
    """Returns what the inputs of a set mean, from the rows of its training split.

    Categories are sorted, as numbers if all are numbers. Words are sorted by how often they occur,
    and those that occur equally often by their letters, so the same rows give the same list.

    Args:
      columns: the columns of the set.
      rows: int [n], the rows of the training split.
      views: as in `Inputs`.
      text: how many words are kept; the default is `TextOptions()`.

    Raises:
      ValueError: if a column has no value in these rows.
    """
    text = text or TextOptions()
    chosen = rows.tolist()
    categories, empty = [], []
    for name, values in columns.categorical.items():
        present = class_names.in_order({value for row in chosen if (value := values[row])})
        categories.append(Categories(name, present))
        if not present:
            empty.append(name)
    empty += [name for name, values in columns.numeric.items() if np.isnan(values[rows]).all()]
    texts = [words(columns.text[row] or "") for row in chosen] if columns.text is not None else []
    counts = Counter(word for each in texts for word in each)
    if columns.text is not None and not counts:
        empty.append("text")
    if columns.vector is not None and np.isnan(columns.vector[rows]).all():
        empty.append("vector")
    if empty:
        raise ValueError(
            f"the training split has no value of {messages.some(empty)}, so nothing can be learned "
            "from it; leave it out of the inputs"
        )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    frequent = [word for word, count in ordered if count >= text.min_count]
    return Inputs(
        views=views,
        numeric=tuple(columns.numeric),
        categorical=tuple(categories),
        vocabulary=tuple(frequent[: text.max_vocabulary]),
        max_tokens=min(text.max_tokens, max(map(len, texts), default=0)),
        vector=0 if columns.vector is None else columns.vector.shape[1],
    )


def check_match(columns: Columns, inputs: Inputs, *, name: str) -> None:
    """Checks that a set has the columns that its inputs were fixed with, in their order.

    Raises:
      ValueError: if it does not, or its vectors have another length.
    """
    facts = {
        "numeric columns": (list(columns.numeric), list(inputs.numeric)),
        "categorical columns": (
            list(columns.categorical),
            [each.name for each in inputs.categorical],
        ),
        "texts": (columns.text is not None, inputs.max_tokens > 0),
        "length of vectors": (
            0 if columns.vector is None else columns.vector.shape[1],
            inputs.vector,
        ),
    }
    for what, (got, expected) in facts.items():
        if got != expected:
            raise ValueError(
                f"got the {what} {got} in {name}; expected {expected}, as the inputs were fixed by "
                "the training split: name the same columns, in the same order"
            )


def encode(columns: Columns, inputs: Inputs) -> dict[str, np.ndarray]:
    """Returns the arrays of all rows of a set, by key, in the forms that `Inputs` describes.

    Args:
      columns: the columns of the set, those of `inputs`.
      inputs: what they mean.

    Examples:
      >>> columns = Columns(categorical={"sex": ["f", "m", None]}, text=["one two", "two", None])
      >>> inputs = fit(columns, np.arange(2), text=TextOptions(max_tokens=9))
      >>> inputs.vocabulary, encode(columns, inputs)["tokens"].tolist()
      (('two', 'one'), [[3, 2], [2, 0], [0, 0]])
    """
    count = _count(columns)
    arrays = inputs.empty(count)
    for place, name in enumerate(inputs.numeric):
        arrays["numeric"][:, place] = columns.numeric[name]
    for place, each in enumerate(inputs.categorical):
        index = {value: number for number, value in enumerate(each.values)}
        found = [index.get(value or "", -1) for value in columns.categorical[each.name]]
        arrays["categorical"][:, place] = found
    if columns.text is not None:
        known = {word: _FIRST_WORD + i for i, word in enumerate(inputs.vocabulary)}
        for row, text in enumerate(columns.text):
            kept = words(text or "")[: inputs.max_tokens]
            tokens = [known.get(word, _UNKNOWN_WORD) for word in kept]
            arrays["tokens"][row, : len(tokens)] = tokens
    if columns.vector is not None:
        arrays["vector"][:] = columns.vector
    return arrays


def notes(columns: Columns, inputs: Inputs, rows: np.ndarray) -> tuple[str, ...]:
    """Returns what is missing and what is unknown in some rows, as sentences.

    Args:
      columns: the columns of the set.
      inputs: what they mean.
      rows: int [n], the rows of a split.
    """
    said, count, chosen = [], len(rows), rows.tolist()
    for name, values in columns.numeric.items():
        if missing := int(np.isnan(values[rows]).sum()):
            said.append(f"{missing} of {count} numbers of {name!r} are missing")
    for each in inputs.categorical:
        names, known = columns.categorical[each.name], set(each.values)
        if missing := sum(not names[row] for row in chosen):
            said.append(f"{missing} of {count} values of {each.name!r} are missing")
        unknown = Counter(name for row in chosen if (name := names[row]) and name not in known)
        if unknown:
            listed = [f"{value!r} ({number})" for value, number in sorted(unknown.items())]
            said.append(
                f"{unknown.total()} of {count} values of {each.name!r} are not in the training "
                f"split and count as missing: {messages.some(listed, quoted=False)}"
            )
    if columns.text is not None:
        said += _notes_of_texts([words(columns.text[row] or "") for row in chosen], inputs)
    if columns.vector is not None and (missing := int(np.isnan(columns.vector[rows]).all(1).sum())):
        said.append(f"{missing} of {count} vectors are missing")
    return tuple(said)


def _notes_of_texts(texts: Sequence[Sequence[str]], inputs: Inputs) -> list[str]:
    said, known = [], set(inputs.vocabulary)
    if missing := sum(not text for text in texts):
        said.append(f"{missing} of {len(texts)} texts are missing or have no word")
    if cut := sum(len(text) > inputs.max_tokens for text in texts):
        said.append(f"{cut} of {len(texts)} texts are cut after {inputs.max_tokens} words")
    total = sum(map(len, texts))
    if unknown := sum(word not in known for text in texts for word in text):
        said.append(f"{unknown} of {total} words are not in the vocabulary")
    return said


def moments(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each column, by which a network sees numbers.

    Args:
      values: float [N, columns] of the training split, such as
        `source.input_arrays()["numeric"]`; NaN is left out.

    Examples:
      >>> moments(np.array([[1.0, 5.0], [3.0, np.nan]]))
      ((2.0, 5.0), (1.0, 0.0))
    """
    exact = np.asarray(values, np.float64)
    mean, std = np.nanmean(exact, axis=0), np.nanstd(exact, axis=0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _count(columns: Columns) -> int:
    """Returns the number of rows."""
    if columns.text is not None:
        return len(columns.text)
    if columns.vector is not None:
        return len(columns.vector)
    for values in (*columns.numeric.values(), *columns.categorical.values()):
        return len(values)
    return 0

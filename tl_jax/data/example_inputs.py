"""What the examples of a source hold beside a single image: views, columns, texts and vectors."""

import dataclasses

import numpy as np

from tl_jax import messages

INPUT_KEYS = ("numeric", "categorical", "tokens", "vector")
"""Keys of what an example may hold beside its images; see `Inputs`."""


@dataclasses.dataclass(frozen=True)
class Categories:
    """A column of names, each of which is one of a fixed list.

    Attributes:
      name: name of the column.
      values: the names; a batch holds their places in this list.
    """

    name: str
    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the examples of a source hold beside a single image; by default nothing.

    Categories and vocabulary are those of the training split, whichever split the source is: they
    decide what the numbers in a batch mean, so a network needs the same in training and later.

    Attributes:
      views: 0: `image` is one image. V: it is a sequence of up to V images of one object; batches
        hold `image` [B, V, side, side, 3], `size` [B, V, 2] (in training) and `view_mask`, bool
        [B, V], False for a view that is missing, whose pixels are 0.
      numeric: columns of numbers, key `numeric`: float32 [B, columns], NaN where one is missing.
      categorical: columns of names, key `categorical`: int32 [B, columns], -1 for a name that is
        missing or not in the list.
      vocabulary: words of a text, the most frequent first, key `tokens`: int32 [B, max_tokens]. 0
        is no word, 1 a word that is not in the vocabulary, 2 + i the word vocabulary[i]; a text
        that is missing is all 0.
      max_tokens: words of a text that are kept, from its beginning; 0: there is no text.
      vector: length of a vector of numbers, key `vector`: float32 [B, vector], all NaN where it is
        missing; 0: there is none.

    Raises:
      ValueError: on construction, if a number is negative, there are words without `max_tokens`,
        or a column is named twice.

    Examples:
      >>> Inputs(numeric=("age",), categorical=(Categories("sex", ("f", "m")),)).keys
      ('numeric', 'categorical')
    """

    views: int = 0
    numeric: tuple[str, ...] = ()
    categorical: tuple[Categories, ...] = ()
    vocabulary: tuple[str, ...] = ()
    max_tokens: int = 0
    vector: int = 0

    def __post_init__(self) -> None:
        if min(self.views, self.max_tokens, self.vector) < 0:
            raise ValueError(
                f"got views={self.views}, max_tokens={self.max_tokens} and vector={self.vector}; "
                "expected 0 (none) or more of each"
            )
        if self.vocabulary and not self.max_tokens:
            raise ValueError(
                f"got a vocabulary of {len(self.vocabulary)} words and max_tokens=0; expected the "
                "number of words that a text may have"
            )
        columns = [*self.numeric, *(each.name for each in self.categorical)]
        for named in (columns, self.vocabulary, *(each.values for each in self.categorical)):
            if len(set(named)) < len(named):
                twice = next(name for name in named if list(named).count(name) > 1)
                raise ValueError(f"got {twice!r} twice among {messages.some(list(named))}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of examples and batches that hold them, without those of the images."""
        has = (self.numeric, self.categorical, self.max_tokens, self.vector)
        return tuple(key for key, there in zip(INPUT_KEYS, has, strict=True) if there)

    @property
    def is_one_image(self) -> bool:
        """Whether an example is a single image and nothing else."""
        return not self.views and not self.keys

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Returns arrays of the further inputs of `count` examples, in which all are missing."""
        arrays = {
            "numeric": np.full((count, len(self.numeric)), np.nan, np.float32),
            "categorical": np.full((count, len(self.categorical)), -1, np.int32),
            "tokens": np.zeros((count, self.max_tokens), np.int32),
            "vector": np.full((count, self.vector), np.nan, np.float32),
        }
        return {key: arrays[key] for key in self.keys}


ONE_IMAGE = Inputs()
"""The inputs of a source whose examples are single images."""

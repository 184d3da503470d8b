"""Encoders of what an example holds beside images: columns, tokens, vectors.

Each returns the encoding [B, E], float32, and whether the example has this modality, bool [B].
Where it is missing the encoding is arbitrary but finite; `tl_jax.heads.join` leaves it out.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tl_jax import arguments
from tl_jax.heads.poolings import Pooling
from tl_jax.heads.recurrent import GRU
from tl_jax.models import layers

Encoded = tuple[jax.Array, jax.Array]

_UNKNOWN_AND_PADDING = 2  # The first two tokens.


class NumericEncoder(nn.Module):
    """Dense layers with ReLU on standardised numbers.

    A missing number (NaN) is 0 after standardisation, the mean, and an indicator says so: the
    layers take 2 D inputs. Where all D are missing the modality is.

    Attributes:
      mean, std: of each column over the training examples; a column that is constant (std 0) is
        only centred.
      hidden: widths of the dense layers, `fc1`, `fc2` and so on; the last is the encoding's.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"got {len(self.mean)} means and {len(self.std)} standard deviations; expected one "
                "of each for every column"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) < 0:
            raise ValueError(
                "means and standard deviations must be finite, and the latter not negative; a "
                "column without any number cannot be standardised: leave it out"
            )
        _check_widths(self.hidden)
        super().__post_init__()

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.mean)

    @nn.compact
    def __call__(self, values: jax.Array) -> Encoded:
        """Encodes raw numbers, float32 [B, D], NaN where one is missing."""
        _check_shape("numeric", values, self.columns, "columns")
        missing = jnp.isnan(values)
        std = np.asarray(self.std, np.float32)
        centred = values.astype(jnp.float32) - np.asarray(self.mean, np.float32)
        x = jnp.where(missing, 0.0, centred / np.where(std > 0, std, 1))
        x = jnp.concatenate([x, missing.astype(jnp.float32)], axis=-1)
        for i, width in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"fc{i}")(x))
        return x, ~jnp.all(missing, axis=-1)


class CategoricalEncoder(nn.Module):
    """Learned vectors of categories, side by side: K columns give K * width channels.

    Each column has one more vector, its last, for a missing category (-1).

    Attributes:
      sizes: number of categories of each column.
      width: of a vector.
    """

    sizes: tuple[int, ...]
    width: int = 16

    def __post_init__(self) -> None:
        _check_widths(self.sizes, "sizes")
        arguments.whole_number("width", self.width, least=1)
        super().__post_init__()

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.sizes)

    @nn.compact
    def __call__(self, values: jax.Array) -> Encoded:
        """Encodes categories, int32 [B, K], -1 where one is missing."""
        _check_shape("categorical", values, self.columns, "columns")
        sizes = np.asarray(self.sizes)
        firsts = np.cumsum(sizes + 1) - (sizes + 1)
        known = (values >= 0) & (values < sizes)
        table = nn.Embed(int(np.sum(sizes + 1)), self.width, name="table")
        x = table(firsts + jnp.where(known, values, sizes))
        return x.reshape(len(values), -1), jnp.any(values >= 0, axis=-1)


class TokenEncoder(nn.Module):
    """A GRU over the learned vectors of words.

    Attributes:
      vocabulary: number of words; token 0 is padding, 1 a word that is not among them, and 2 + i
        word i.
      max_tokens: length of the sequences.
      width: of the GRU's state.
      embedding: width of the words' vectors.
      pooling: of the states after each word; None for the last state.
    """

    vocabulary: int
    max_tokens: int
    width: int = 64
    embedding: int = 64
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        arguments.whole_number("vocabulary", self.vocabulary, least=0)
        arguments.whole_number("max_tokens", self.max_tokens, least=1)
        arguments.whole_number("width", self.width, least=1)
        arguments.whole_number("embedding", self.embedding, least=1)
        super().__post_init__()

    @property
    def columns(self) -> int:
        """Length of the sequences."""
        return self.max_tokens

    @nn.compact
    def __call__(self, values: jax.Array) -> Encoded:
        """Encodes tokens, int32 [B, L]; the text is missing where all are 0."""
        _check_shape("tokens", values, self.max_tokens, "tokens")
        mask = values > 0
        table = nn.Embed(self.vocabulary + _UNKNOWN_AND_PADDING, self.embedding, name="table")
        states = GRU(self.width, name="gru")(table(values), mask)
        if self.pooling is None:
            return states[:, -1], jnp.any(mask, axis=-1)
        return self.pooling.module("pooling")(states, mask), jnp.any(mask, axis=-1)


class VectorEncoder(nn.Module):
    """A LayerNorm and a dense layer with ReLU on a vector that was computed before.

    Attributes:
      size: of the vector.
      width: of the encoding.
    """

    size: int
    width: int = 64

    def __post_init__(self) -> None:
        arguments.whole_number("size", self.size, least=1)
        arguments.whole_number("width", self.width, least=1)
        super().__post_init__()

    @property
    def columns(self) -> int:
        """Size of the vector."""
        return self.size

    @nn.compact
    def __call__(self, values: jax.Array) -> Encoded:
        """Encodes vectors, float32 [B, E]; one that holds a NaN is missing."""
        _check_shape("vector", values, self.size, "numbers")
        missing = jnp.any(jnp.isnan(values), axis=-1)
        x = layers.LayerNorm(name="norm")(jnp.where(missing[:, None], 0.0, values))
        dense = nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name="fc")
        return nn.relu(dense(x)), ~missing


def _check_widths(widths: tuple[int, ...], name: str = "hidden") -> None:
    if not isinstance(widths, tuple) or not widths:
        raise ValueError(f"{name} is {widths!r}; expected whole numbers, as in (64,)")
    for width in widths:
        arguments.whole_number(f"a number of {name}", width, least=1)


def _check_shape(key: str, values: jax.Array, columns: int, what: str) -> None:
    if values.ndim != 2 or values.shape[1] != columns:
        raise ValueError(
            f"{key!r} has shape {values.shape}; the encoder was made for [batch, {columns}]: "
            f"{columns} {what} for each example"
        )

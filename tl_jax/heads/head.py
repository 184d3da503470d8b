"""Heads on pooled features: a linear layer, an MLP, a cosine classifier, one of ordered levels.

Each takes features [B, C] and the keyword `train`, and returns logits [B, num_classes] in float32.
The last layer of each is named `fc`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax import arguments
from tl_jax.heads.initializers import HeadInit, initializer
from tl_jax.models import layers

# Vectors shorter than this, zero vectors included, are divided by this length.
_MIN_LENGTH = 1e-12


class Linear(nn.Module):
    """One dense layer.

    Attributes:
      num_classes: number of logits.
      dropout: rate before the layer.
      kernel_init: initializer of the kernel, as in `tl_jax.heads.initializers.initializer`.
    """

    num_classes: int
    dropout: float = 0.0
    kernel_init: HeadInit = "zero"

    def __post_init__(self) -> None:
        _check_fields(self.num_classes, self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Dropout(self.dropout)(x, train=train)
        return layers.Dense(self.num_classes, initializer(self.kernel_init), name="fc")(x)


class MLP(nn.Module):
    """Dense layers with ReLU, named `fc1`, `fc2` ..., and a linear layer.

    Attributes:
      num_classes: number of logits.
      hidden: widths of the dense layers before the last.
      dropout: rate before each layer.
      kernel_init: initializer of the last layer's kernel, as in
        `tl_jax.heads.initializers.initializer`.
      dtype: computation dtype of all layers except the last.
    """

    num_classes: int
    hidden: tuple[int, ...] = (1024,)
    dropout: float = 0.0
    kernel_init: HeadInit = "zero"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple | list):
            raise TypeError(
                f"hidden is {self.hidden!r}; expected the width of each hidden layer, as in (1024,)"
            )
        for width in self.hidden:
            arguments.whole_number("a width in hidden", width, least=1)
        _check_fields(self.num_classes, self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for i, width in enumerate(self.hidden, start=1):
            x = layers.Dropout(self.dropout)(x, train=train)
            x = nn.Dense(
                width, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"fc{i}"
            )(x)
            x = nn.relu(x)
        x = layers.Dropout(self.dropout)(x, train=train)
        return layers.Dense(self.num_classes, initializer(self.kernel_init), name="fc")(x)


class Cosine(nn.Module):
    """The cosine of the angle between the features and each class's vector, times a scale.

    The lengths of the features and of the vectors have no influence (Gidaris and Komodakis,
    arXiv:1804.09458, who learn the scale and leave out the last ReLU before the features).

    Attributes:
      num_classes: number of logits.
      dropout: rate before the layer.
      scale: the logits lie between `-scale` and `scale`; the initial value if it is learned.
      learned_scale: whether the scale is a parameter, `fc.logit_scale`; otherwise it is fixed.
    """

    num_classes: int
    dropout: float = 0.0
    scale: float = 10.0
    learned_scale: bool = True

    def __post_init__(self) -> None:
        arguments.number("scale", self.scale)
        _check_fields(self.num_classes, self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Dropout(self.dropout)(x, train=train)
        return CosineDense(self.num_classes, self.scale, self.learned_scale, name="fc")(x)


class CosineDense(nn.Module):
    """The layer of `Cosine`. The columns of its initial kernel are random, of length 1."""

    features: int
    scale: float
    learned_scale: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", _unit_columns, shape, jnp.float32)
        scale: jax.Array | float = self.scale
        if self.learned_scale:
            # Not named "scale": a norm's "scale" becomes a "weight" in torch, as a kernel does.
            scale = self.param("logit_scale", nn.initializers.constant(scale), (), jnp.float32)
        x = layers.at_least_float32(x)
        return scale * (unit(x, axis=-1) @ unit(kernel, axis=0))


class Coral(nn.Module):
    """Cumulative logits of ordered levels: of "more than level 0", "more than level 1" and so on.

    All share one kernel [C, 1] and have a bias each (CORAL, Cao et al., arXiv:1901.07884), so an
    example's position on one line decides. At first all levels are equally likely.

    Attributes:
      num_classes: number of logits, one less than there are levels.
      dropout: rate before the layer.
      kernel_init: initializer of the kernel, as in `tl_jax.heads.initializers.initializer`.
    """

    num_classes: int
    dropout: float = 0.0
    kernel_init: HeadInit = "zero"

    def __post_init__(self) -> None:
        _check_fields(self.num_classes, self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Dropout(self.dropout)(x, train=train)
        return SharedKernel(self.num_classes, initializer(self.kernel_init), name="fc")(x)


class SharedKernel(nn.Module):
    """The layer of `Coral`: one product for all outputs, and a bias for each, which descend."""

    features: int
    kernel_init: layers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], 1), jnp.float32)
        bias = self.param("bias", _even_levels, (self.features,), jnp.float32)
        return layers.at_least_float32(x) @ kernel + bias


def _even_levels(key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
    """Returns the cumulative logits of levels that are equally likely."""
    del key
    below = jnp.arange(1, shape[0] + 1, dtype=dtype)
    return jnp.log((shape[0] + 1 - below) / below)


def unit(x: jax.Array, *, axis: int) -> jax.Array:
    """Returns vectors of length 1 in the direction of those along `axis`; zeros stay zeros."""
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squares, _MIN_LENGTH**2))


def _unit_columns(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    return unit(jax.random.normal(key, shape, dtype), axis=0)


def _check_fields(num_classes: int, dropout: float) -> None:
    """Raises unless the fields that all heads have can be meant."""
    arguments.whole_number("num_classes", num_classes, least=1)
    arguments.rate("dropout", dropout)

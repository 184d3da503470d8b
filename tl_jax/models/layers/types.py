"""Types that layers share, and arithmetic of widths and precision."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Dtype = DTypeLike
Initializer = Callable[..., jax.Array]
Act = Callable[[jax.Array], jax.Array]


class Bound(functools.partial[Any]):
    """A function or class with some arguments bound, equal to any other with the same ones.

    A network with such a field equals its copies; plain partials are equal only to themselves.

    >>> Bound(round, ndigits=1) == Bound(round, ndigits=1)
    True
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and self._bound() == other._bound()

    def __hash__(self) -> int:
        return hash(self._bound())

    def _bound(self) -> tuple[Any, ...]:
        return self.func, self.args, tuple(sorted(self.keywords.items()))


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` in float32, or as it is if it is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def make_divisible(width: float, divisor: int = 8, *, round_limit: float = 0.9) -> int:
    """Returns the multiple of `divisor` that is nearest to `width`, and at least `divisor`.

    If the nearest is less than `round_limit` of `width` it is the next one up; 0 turns that off
    (`make_divisible` of timm's `layers/helpers.py`, and of the MobileNets before it).

    >>> make_divisible(33), make_divisible(11)
    (32, 16)
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * width else rounded

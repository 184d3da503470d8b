"""Types that layers share, and arithmetic of widths and precision."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Dtype = DTypeLike
Initializer = Callable[..., jax.Array]
Act = Callable[[jax.Array], jax.Array]


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

"""Poolings without an order: average, maximum, both, the generalised mean, and all side by side.

They take vectors [B, N, C], over places of a map, scales of an image or views of an object, and a
mask [B, N] that is False where there is none. What is masked has no influence, whatever its value.
Where all of an example is masked the result is zero, and so is every gradient. The result is at
least float32.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers


def present(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns vectors [B, N, C] in at least float32, zero where they are masked."""
    x = layers.at_least_float32(x)
    return x if mask is None else jnp.where(mask[..., None], x, 0.0)


def average(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean of vectors, [B, N, C] -> [B, C].

    >>> x, mask = jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]])
    >>> average(x, mask).tolist()
    [[2.0]]
    """
    if mask is None:
        return jnp.mean(layers.at_least_float32(x), axis=1)
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    total = jnp.sum(present(x, mask), axis=1)
    return total / count.astype(total.dtype)


def maximum(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the largest value of each channel, [B, N, C] -> [B, C]."""
    x = layers.at_least_float32(x)
    if mask is None:
        return _largest(x)
    # Not minus infinity: its gradient would not be finite where all is masked.
    highest = _largest(jnp.where(mask[..., None], x, jnp.finfo(x.dtype).min))
    return jnp.where(jnp.any(mask, axis=1, keepdims=True), highest, 0.0)


def _largest(x: jax.Array) -> jax.Array:
    """Returns the largest value of each channel, whose gradient goes to the first such value.

    The gradient of `jnp.max` looks for values equal to the maximum and divides by their number. A
    compiled program may compute the values twice, with another rounding, and find none: 0 / 0.
    """
    place = jnp.argmax(x, axis=1, keepdims=True)
    chosen = jnp.arange(x.shape[1])[:, None] == place
    return jnp.sum(jnp.where(chosen, x, 0.0), axis=1)


def average_max(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns half the sum of average and maximum, [B, N, C] -> [B, C] (timm's `avgmax`)."""
    return 0.5 * (average(x, mask) + maximum(x, mask))


def concatenate(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the vectors side by side, [B, N, C] -> [B, N * C]; masked ones are zero."""
    x = present(x, mask)
    return x.reshape(len(x), -1)


class GeM(nn.Module):
    """The generalised mean of each channel, `mean(x ** p) ** (1 / p)` (arXiv:1711.02512).

    With p = 1 it is the average, and for large p close to the maximum. `p` is learned, one for all
    channels. Values below `epsilon` count as `epsilon`, so it is for maps that are not negative,
    such as those after a ReLU.

    Attributes:
      initial: of `p`.
      epsilon: the smallest value.
    """

    initial: float = 3.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        p = self.param("p", nn.initializers.constant(self.initial), (1,), jnp.float32)
        x = layers.at_least_float32(x)
        if mask is None:
            mask = jnp.ones(x.shape[:2], bool)
        # By logarithms, because epsilon ** p underflows from p = 7 on.
        shown = mask[..., None]
        powers = p * jnp.log(jnp.maximum(jnp.where(shown, x, 1.0), self.epsilon))
        highest = jnp.max(jnp.where(shown, powers, jnp.finfo(x.dtype).min), axis=1, keepdims=True)
        highest = jax.lax.stop_gradient(highest)
        relative = jnp.where(shown, jnp.exp(jnp.where(shown, powers - highest, 0.0)), 0.0)
        some = jnp.any(mask, axis=1, keepdims=True)
        mean = jnp.where(some, average(relative, mask), 1.0)
        logarithm = jnp.where(some, highest[:, 0], 0.0) + jnp.log(mean)
        return jnp.where(some, jnp.exp(logarithm / p), 0.0)


def masked_softmax(scores: jax.Array, mask: jax.Array | None, *, axis: int) -> jax.Array:
    """Returns weights that add up to 1 over what is not masked; zeros where all is masked.

    Args:
      scores: of any shape.
      mask: False where there is nothing to weigh; it broadcasts against the scores.
      axis: over which the weights add up.

    Examples:
      >>> scores, mask = jnp.array([[0.0, 0.0, 5.0]]), jnp.array([[True, True, False]])
      >>> masked_softmax(scores, mask, axis=1).tolist()
      [[0.5, 0.5, 0.0]]
    """
    if mask is None:
        return jax.nn.softmax(scores, axis)
    lowest = jnp.finfo(scores.dtype).min
    highest = jnp.max(jnp.where(mask, scores, lowest), axis, keepdims=True)
    relative = jnp.where(mask, scores - jax.lax.stop_gradient(highest), 0.0)
    powers = jnp.where(mask, jnp.exp(relative), 0.0)
    total = jnp.sum(powers, axis, keepdims=True)
    return powers / jnp.where(total > 0, total, 1.0)

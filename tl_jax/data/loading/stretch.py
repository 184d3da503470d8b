"""The last step of reading for training, done on the device: images stretched to a square."""

import jax
import jax.numpy as jnp


def stretch(
    pixels: jax.Array, shapes: jax.Array, extents: jax.Array, *, side: int, canvas: int
) -> jax.Array:
    """Stretches images to squares, antialiased, as Pillow's bicubic `resize` does.

    Pillow's weights have 22 bits, these are float32, so a value may differ by 1. Of upright images
    Pillow shrinks the height first where that is quicker; here it is always the width, so there
    values differ by a fifth of a level in the mean.

    Args:
      pixels: uint8 [batch, room]; each image's rows of RGB pixels lie one after the other at the
        beginning, with room for 3 * `side` bytes more behind them.
      shapes: int32 [batch, 2], rows and columns of each image there.
      extents: float32 [batch, 2], height and width of what of it is stretched.
      side: the longest side that an image may have.
      canvas: side of the squares.

    Returns:
      uint8 [batch, canvas, canvas, 3].
    """

    def one(packed: jax.Array, shape: jax.Array, extent: jax.Array) -> jax.Array:
        image = _unpacked(packed, shape[1], side).astype(jnp.float32)
        rows = _weights(extent[0], side, canvas)
        columns = _weights(extent[1], side, canvas)
        with jax.default_matmul_precision("highest"):
            narrow = _to_8_bits(jnp.einsum("xw,hwc->hxc", columns, image))
            return _to_8_bits(jnp.einsum("yh,hxc->yxc", rows, narrow)).astype(jnp.uint8)

    return jax.vmap(one)(pixels, shapes, extents)


def _unpacked(packed: jax.Array, width: jax.Array, side: int) -> jax.Array:
    """Returns a square [side, side, 3] with an image of that width in its upper left corner.

    What else is in it is of no meaning: it gets no weight.
    """
    starts = 3 * width * jnp.arange(side)
    row = jax.vmap(lambda start: jax.lax.dynamic_slice(packed, (start,), (3 * side,)))
    return row(starts).reshape(side, side, 3)


def _weights(extent: jax.Array, length: int, canvas: int) -> jax.Array:
    """Returns what each of `length` pixels adds to each of the canvas, [canvas, length]."""
    scale = extent / canvas
    places = jnp.arange(length)
    centres = (jnp.arange(canvas) + 0.5) * scale
    distance = jnp.abs(places + 0.5 - centres[:, None]) / jnp.maximum(scale, 1)
    weights = jnp.where(places < extent, _cubic(distance), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _to_8_bits(values: jax.Array) -> jax.Array:
    """Rounds and limits values as Pillow does after each direction."""
    return jnp.clip(jnp.round(values), 0, 255)


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic kernel with a = -1/2, at distances of 0 and more."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))

"""Stretches training images to squares on the device, the last step of reading them."""

import jax
import jax.numpy as jnp
from jax import lax


def stretch(
    images: jax.Array,
    shapes: jax.Array,
    extents: jax.Array,
    *,
    side: int,
    canvas: int,
    in_bfloat16: bool = False,
) -> jax.Array:
    """Stretches packed images to squares, antialiased, as Pillow's bicubic `resize` does.

    Pillow's weights have 22 bits and these are float32, so a value may differ by 1. For tall images
    Pillow shrinks the height first where that is faster, and this function always the width; their
    values differ by a fifth of a level on average.

    Args:
      images: uint8 [batch, capacity], as `readers.PackedReader` packs them: each begins with the
        rows of RGB pixels of an image, one after the other, followed by at least 3 * `side` bytes.
      shapes: int32 [batch, 2], rows and columns of each image.
      extents: float32 [batch, 2], height and width of the part of it that is stretched.
      side: the longest side that an image may have.
      canvas: side of the squares.
      in_bfloat16: multiply in bfloat16, several times as fast on accelerators. Pixels of 8 bits are
        exact in it and the weights are the sum of two parts, so before rounding a value differs by
        less than 0.01.

    Returns:
      uint8 [batch, canvas, canvas, 3].
    """

    weighted_sum = _in_bfloat16 if in_bfloat16 else _in_float32

    def stretch_one(packed: jax.Array, shape: jax.Array, extent: jax.Array) -> jax.Array:
        image = _unpack(packed, shape[1], side).astype(jnp.float32)
        rows = _resampling_weights(extent[0], side, canvas)
        columns = _resampling_weights(extent[1], side, canvas)
        narrow = _to_8_bits(weighted_sum("xw,hwc->hxc", columns, image))
        return _to_8_bits(weighted_sum("yh,hxc->yxc", rows, narrow)).astype(jnp.uint8)

    return jax.vmap(stretch_one)(images, shapes, extents)


def _unpack(packed: jax.Array, width: jax.Array, side: int) -> jax.Array:
    """Returns a square [side, side, 3] with an image of that width in its upper left corner.

    The rest of the square is arbitrary: it gets no weight.
    """
    starts = 3 * width * jnp.arange(side)
    take_row = jax.vmap(lambda start: jax.lax.dynamic_slice(packed, (start,), (3 * side,)))
    return take_row(starts).reshape(side, side, 3)


def _resampling_weights(extent: jax.Array, length: int, canvas: int) -> jax.Array:
    """Returns the weights [canvas, length] of pixels for a cubic kernel (Keys, a = -1/2)."""
    scale = extent / canvas
    places = jnp.arange(length)
    centres = (jnp.arange(canvas) + 0.5) * scale
    x = jnp.abs(places + 0.5 - centres[:, None]) / jnp.maximum(scale, 1)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    cubic = jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
    weights = jnp.where(places < extent, cubic, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _in_float32(subscripts: str, weights: jax.Array, pixels: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, weights, pixels, precision="highest")


def _in_bfloat16(subscripts: str, weights: jax.Array, pixels: jax.Array) -> jax.Array:
    # Not `astype`, there and back: a compiler may take that away, and then nothing is left of the
    # second part.
    rounded = lax.reduce_precision(weights, exponent_bits=8, mantissa_bits=7)
    upper, lower = (
        jnp.einsum(
            subscripts,
            part.astype(jnp.bfloat16),
            pixels.astype(jnp.bfloat16),
            preferred_element_type=jnp.float32,
        )
        for part in (rounded, weights - rounded)
    )
    return upper + lower


def _to_8_bits(values: jax.Array) -> jax.Array:
    """Rounds and limits values as Pillow does after each direction."""
    return jnp.clip(jnp.round(values), 0, 255)

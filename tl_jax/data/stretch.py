"""The last step of reading for training, done on the device: images stretched to a square."""

import jax
import jax.numpy as jnp


def stretch(images: jax.Array, extents: jax.Array, canvas: int) -> jax.Array:
    """Stretches images to squares, antialiased, as Pillow's bicubic `resize` does.

    Pillow's weights have 22 bits, these are float32, so a value may differ by 1. Of upright images
    Pillow shrinks the height first where that is quicker; here it is always the width, so there
    values differ by a fifth of a level in the mean.

    Args:
      images: uint8 [batch, height, width, 3]; each image lies in its upper left corner.
      extents: float32 [batch, 2], height and width of each image there.
      canvas: side of the squares.

    Returns:
      uint8 [batch, canvas, canvas, 3].
    """

    def one(image: jax.Array, extent: jax.Array) -> jax.Array:
        rows = _weights(extent[0], image.shape[0], canvas)
        columns = _weights(extent[1], image.shape[1], canvas)
        with jax.default_matmul_precision("highest"):
            narrow = _to_8_bits(jnp.einsum("xw,hwc->hxc", columns, image.astype(jnp.float32)))
            return _to_8_bits(jnp.einsum("yh,hxc->yxc", rows, narrow)).astype(jnp.uint8)

    return jax.vmap(one)(images, extents)


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

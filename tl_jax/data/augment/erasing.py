"""Random erasing: paints over one rectangle of an image."""

from typing import Literal

import jax
import jax.numpy as jnp

EraseFill = Literal["const", "rand", "pixel"]

_TRIES = 10


def erase(
    key: jax.Array,
    image: jax.Array,
    *,
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
    fill: EraseFill,
) -> jax.Array:
    """Paints over a random rectangle of a normalised image (arXiv:1708.04896).

    The share of the area is uniform and the ratio of height to width log-uniform. The first of ten
    draws that is smaller than the image on both sides is used; if all are larger, nothing is
    erased. Source: timm/data/random_erasing.py.

    Args:
      key: random key.
      image: float [height, width, channels], normalised.
      probability: probability that a rectangle is erased.
      area: range of the rectangle's share of the image's area.
      ratio: range of its height over its width.
      fill: "const": 0, the mean colour. "rand": one normal draw per channel. "pixel": one per pixel
        and channel.

    Returns:
      The image with the rectangle painted over, of the same shape and type.
    """
    box_key, fill_key = jax.random.split(key)
    draws = jax.random.uniform(box_key, (2 * _TRIES + 3,))
    areas, ratios, (chosen, *place) = jnp.split(draws, [_TRIES, 2 * _TRIES])
    height, width = image.shape[:2]
    side = jnp.asarray((height, width))
    areas = (area[0] + areas * (area[1] - area[0])) * height * width
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** ratios
    tries = jnp.round(jnp.sqrt(jnp.stack([areas * ratios, areas / ratios], axis=1)))
    fits = jnp.all(tries < side, axis=1)
    extent = tries[jnp.argmax(fits)]
    corner = jnp.minimum(jnp.floor(jnp.stack(place) * (side - extent + 1)), side - extent)
    rows, columns = (
        (jnp.arange(length) >= start) & (jnp.arange(length) < start + count)
        for length, start, count in zip((height, width), corner, extent, strict=True)
    )
    is_erased = rows[:, None] & columns & jnp.any(fits) & (chosen < probability)
    if fill == "const":
        paint = jnp.zeros((), image.dtype)
    else:
        shape = image.shape if fill == "pixel" else image.shape[-1:]
        paint = jax.random.normal(fill_key, shape, image.dtype)
    return jnp.where(is_erased[..., None], paint, image)

"""Random erasing: one rectangle of an image is painted over."""

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
    """Paints a random rectangle of a normalised image over (arXiv:1708.04896).

    The share of the area is uniform and the ratio of height to width log-uniform; of ten draws
    the first that is smaller than the image on both sides is taken, and if none is, nothing is
    erased. Source: timm/data/random_erasing.py.

    Args:
      key: random key.
      image: float [height, width, channels], normalised.
      probability: how often anything is erased.
      area: range of the rectangle's share of the image's area.
      ratio: range of its height over its width.
      fill: "const": 0, the mean colour. "rand": one normal draw a channel. "pixel": one for each
        pixel and channel.

    Returns:
      As `image`.
    """
    box_key, fill_key = jax.random.split(key)
    draws = jax.random.uniform(box_key, (2 * _TRIES + 3,))
    areas, ratios, (chosen, *place) = jnp.split(draws, [_TRIES, 2 * _TRIES])
    side = jnp.asarray(image.shape[:2])
    areas = (area[0] + areas * (area[1] - area[0])) * image.shape[0] * image.shape[1]
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** ratios
    tries = jnp.round(jnp.sqrt(jnp.stack([areas * ratios, areas / ratios], axis=1)))
    fits = jnp.all(tries < side, axis=1)
    extent = tries[jnp.argmax(fits)]
    corner = jnp.minimum(jnp.floor(jnp.stack(place) * (side - extent + 1)), side - extent)
    rows, columns = (
        (jnp.arange(n) >= c) & (jnp.arange(n) < c + e)
        for n, c, e in zip(image.shape[:2], corner, extent, strict=True)
    )
    erased = rows[:, None] & columns & jnp.any(fits) & (chosen < probability)
    return jnp.where(erased[..., None], _paint(fill_key, image, fill), image)


def _paint(key: jax.Array, image: jax.Array, fill: EraseFill) -> jax.Array:
    if fill == "const":
        return jnp.zeros((), image.dtype)
    shape = image.shape if fill == "pixel" else image.shape[-1:]
    return jax.random.normal(key, shape, image.dtype)

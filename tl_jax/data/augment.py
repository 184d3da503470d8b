"""What is done to batches of images on the device, inside jit: crops, flips, normalising, mixup."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

_TRIES = 10
_METHODS = {"bilinear": "linear", "bicubic": "cubic"}


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Scales pixels to [0, 1], subtracts the mean and divides by the standard deviation.

    Args:
      images: [..., channels], values in [0, 255], of any type.
      mean, std: of each channel, for values in [0, 1].

    Returns:
      float32 of the same shape.
    """
    values = jnp.asarray(images, jnp.float32) / 255
    return (values - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def augment(
    key: jax.Array,
    images: jax.Array,
    sizes: jax.Array,
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    horizontal_flip: bool,
    vertical_flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
) -> jax.Array:
    """Cuts a random box out of each image, resizes it, flips it at random and normalises it.

    Each example has a key of its own, `jax.random.split(key, batch)[i]`.

    Args:
      key: random key of the batch.
      images: uint8 [batch, canvas, canvas, 3], each stretched to the canvas.
      sizes: int32 [batch, 2], height and width of each image before it was stretched.
      size: height and width of the result.
      scale: range of the box's share of the original image's area.
      ratio: range of the box's aspect ratio, width over height, in original pixels.
      horizontal_flip: flip left and right with probability 1/2.
      vertical_flip: flip top and bottom with probability 1/2.
      mean, std: as in `normalize`.
      interpolation: "bilinear" or "bicubic", antialiased.

    Returns:
      float32 [batch, height, width, 3].

    Raises:
      ValueError: if the interpolation is unknown.
    """
    if interpolation not in _METHODS:
        raise ValueError(f"got interpolation {interpolation!r}; expected {', '.join(_METHODS)}")

    def one(key: jax.Array, image: jax.Array, original: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        box = random_box(crop_key, original, scale=scale, ratio=ratio)
        across, upside_down = jax.random.bernoulli(flip_key, shape=(2,))
        stretch = jnp.asarray(image.shape[:2], jnp.float32) / original
        corner, extent = box[:2] * stretch, box[2:] * stretch
        out = crop_and_resize(image, corner, extent, size=size, interpolation=interpolation)
        if horizontal_flip:
            out = jnp.where(across, out[:, ::-1], out)
        if vertical_flip:
            out = jnp.where(upside_down, out[::-1], out)
        return out

    keys = jax.random.split(key, images.shape[0])
    return normalize(jax.vmap(one)(keys, images, sizes), mean, std)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its target with another of the batch (mixup, arXiv:1710.09412).

    One share `lambda`, drawn from Beta(alpha, alpha), serves the whole batch, as in the authors'
    code and by default in timm; the partner of example i is example B - 1 - i, as in timm:
    a batch is in random order already. The image in the middle of an odd batch stays as it is.

    Args:
      key: random key of the batch.
      images: [B, H, W, C], normalised.
      targets: [B, classes], such as one-hot labels. Smoothed labels may be mixed, or mixed ones
        smoothed (`tl_jax.objectives.losses.cross_entropy`): it is the same.
      alpha: the larger, the more alike the two shares; 0 mixes nothing, 1 draws them uniformly.

    Returns:
      Images and targets of the same shapes and types.

    Raises:
      ValueError: if `alpha` is negative, or there is not one row of floating targets an image.
    """
    if not alpha >= 0:
        raise ValueError(f"got alpha={alpha}; expected 0, for no mixup, or more")
    if targets.ndim != 2 or len(targets) != len(images) or not _is_floating(targets):
        raise ValueError(
            f"got targets {targets.dtype}{list(targets.shape)} for {len(images)} images; expected "
            "a float for each image and class: jax.nn.one_hot(labels, classes)"
        )
    if alpha == 0:
        return images, targets
    # A beta, as one gamma's share of two; `jax.random.beta` is slower to compile by half.
    one, other = jax.random.loggamma(key, alpha, (2,))
    share = jax.nn.sigmoid(one - other)

    def mix(x: jax.Array) -> jax.Array:
        return (share * x + (1 - share) * x[::-1]).astype(x.dtype)

    return mix(images), mix(targets)


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def random_box(
    key: jax.Array,
    original: jax.Array,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws the box of a random resized crop, in whole pixels.

    The share of the area is uniform and the aspect ratio log-uniform; of ten draws the first
    that fits into the image is taken, else a box in the middle with the nearest allowed aspect
    ratio. Source: Szegedy et al. 2015, as in torchvision's `RandomResizedCrop.get_params`.

    Args:
      key: random key.
      original: [2], height and width of the image.
      scale, ratio: as in `augment`.

    Returns:
      float32 [4]: top, left, height and width of the box.
    """
    extent = original.astype(jnp.float32)
    # All at once: every further draw would add half a second to compiling.
    draws = jax.random.uniform(key, (2 * _TRIES + 2,))
    areas, aspects, place = jnp.split(draws, [_TRIES, 2 * _TRIES])
    areas = (scale[0] + areas * (scale[1] - scale[0])) * extent[0] * extent[1]
    aspects = ratio[0] * (ratio[1] / ratio[0]) ** aspects
    tries = jnp.round(jnp.sqrt(jnp.stack([areas / aspects, areas * aspects], axis=1)))
    fits = jnp.all((tries >= 1) & (tries <= extent), axis=1)
    drawn = tries[jnp.argmax(fits)]
    # One of room + 1 whole positions; the minimum guards against a draw that rounds up to 1.
    room = extent - drawn
    inside = jnp.concatenate([jnp.minimum(jnp.floor(place * (room + 1)), room), drawn])
    return jnp.where(jnp.any(fits), inside, _middle_box(extent, ratio))


def _middle_box(extent: jax.Array, ratio: tuple[float, float]) -> jax.Array:
    """Returns the largest box in the middle whose aspect ratio is within the range."""
    height, width = extent
    box = jnp.stack(
        [
            jnp.minimum(height, jnp.round(width / ratio[0])),
            jnp.minimum(width, jnp.round(height * ratio[1])),
        ]
    )
    return jnp.concatenate([jnp.floor((extent - box) / 2), box])


def crop_and_resize(
    image: jax.Array,
    corner: jax.Array,
    extent: jax.Array,
    *,
    size: tuple[int, int],
    interpolation: str,
) -> jax.Array:
    """Resizes a box of one image, antialiased, as Pillow's `resize(box=...)` does.

    Args:
      image: [height, width, channels], values in [0, 255].
      corner: [2], top and left of the box, in pixels, not necessarily whole.
      extent: [2], height and width of the box.
      size: height and width of the result.
      interpolation: "bilinear" or "bicubic".

    Returns:
      float32 [*size, channels], within [0, 255] but not rounded.
    """
    factor = jnp.asarray(size, jnp.float32) / extent
    resampled = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        (*size, image.shape[-1]),
        (0, 1),
        factor,
        -corner * factor,
        _METHODS[interpolation],
        antialias=True,
    )
    return jnp.clip(resampled, 0, 255)  # A cubic kernel overshoots at edges.

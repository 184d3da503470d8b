"""What is done to batches of images on the device, inside jit: the whole of augmentation, in order.

Each step has a file of its own: `geometry`, `colour`, `policies`, `erasing`. Mixing the images of a
batch comes after it: `mixing`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tl_jax.config import AugmentConfig
from tl_jax.data.augment import colour, erasing, geometry, policies

# Of an example's key, children 0 and 1 are the crop's and the flips'.
_AFFINE, _POLICY, _JITTER, _GRAY, _BLUR, _ERASE = range(2, 8)


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
    options: AugmentConfig,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
) -> jax.Array:
    """Augments and normalises a batch.

    The steps, in order: a random box is cut out and resized; flips; rotation, shear, zoom and
    shift, as one resampling, in which the policy's moves are included; the policy's changes of
    colour; colour jitter; grayscale; blur; normalisation; erasing.

    Each example has a key of its own, `jax.random.split(key, batch)[i]`: what becomes of it does
    not depend on the others, nor do the draws of one step on which others are on.

    Args:
      key: random key of the batch.
      images: uint8 [batch, canvas, canvas, 3], each stretched to the canvas.
      sizes: int32 [batch, 2], height and width of each image before it was stretched.
      options: what is done.
      size: height and width of the result.
      mean, std: as in `normalize`; of one value each for a network that takes gray images.
      interpolation: of the resize: "bilinear", "bicubic" or "lanczos", antialiased.

    Returns:
      float32 [batch, height, width, len(mean)].

    Raises:
      ValueError: if the interpolation is unknown.
    """
    if interpolation not in geometry.METHODS:
        known = ", ".join(geometry.METHODS)
        raise ValueError(f"got interpolation {interpolation!r}; expected {known}")
    fill_colour = 255 * jnp.asarray(mean, jnp.float32)

    def one(key: jax.Array, image: jax.Array, original: jax.Array) -> jax.Array:
        out = _crop(key, image, original, options=options, size=size, interpolation=interpolation)
        out = _recolour(key, _move(key, out, options, fill_colour), options)
        return colour.gray(out) if len(mean) == 1 else out

    keys = jax.random.split(key, images.shape[0])
    out = normalize(jax.vmap(one)(keys, images, sizes), mean, std)
    return jax.vmap(lambda key, image: _erase(key, image, options))(keys, out)


def _crop(
    key: jax.Array,
    image: jax.Array,
    original: jax.Array,
    *,
    options: AugmentConfig,
    size: tuple[int, int],
    interpolation: str,
) -> jax.Array:
    crop_key, flip_key = jax.random.split(key)
    box = geometry.random_box(crop_key, original, scale=options.scale, ratio=options.ratio)
    across, upside_down = jax.random.bernoulli(flip_key, shape=(2,))
    stretch = jnp.asarray(image.shape[:2], jnp.float32) / original
    corner, extent = box[:2] * stretch, box[2:] * stretch
    out = geometry.crop_and_resize(image, corner, extent, size=size, interpolation=interpolation)
    if options.horizontal_flip:
        out = jnp.where(across, out[:, ::-1], out)
    if options.vertical_flip:
        out = jnp.where(upside_down, out[::-1], out)
    return out


def _moves(options: AugmentConfig) -> bool:
    """Says whether images are moved, apart from a policy's moves."""
    return bool(options.rotation or options.shear or options.shift) or options.zoom != (1.0, 1.0)


def _move(
    key: jax.Array, image: jax.Array, options: AugmentConfig, fill_colour: jax.Array
) -> jax.Array:
    """Rotates, shears, zooms and shifts, and does what the policy says."""
    matrix = None
    if _moves(options):
        matrix = geometry.random_affine(
            jax.random.fold_in(key, _AFFINE),
            image.shape[:2],
            rotation=options.rotation,
            shear=options.shear,
            zoom=options.zoom,
            shift=options.shift,
        )
    fill = {"fill": options.fill, "fill_colour": fill_colour}
    policy_key = jax.random.fold_in(key, _POLICY)
    if options.policy == "randaugment":
        count, magnitude = options.policy_operations, options.policy_magnitude
        return policies.rand_augment(
            policy_key, image, count=count, magnitude=magnitude, before=matrix, **fill
        )
    if options.policy == "trivialaugment":
        return policies.trivial_augment(policy_key, image, before=matrix, **fill)
    if matrix is not None:
        image = geometry.warp(image, matrix, **fill)
    if options.policy == "augmix":
        image = policies.aug_mix(policy_key, image, severity=options.policy_severity, **fill)
    return image


def _recolour(key: jax.Array, image: jax.Array, options: AugmentConfig) -> jax.Array:
    """Jitters the colours, takes them away and blurs."""
    image = colour.jitter(
        jax.random.fold_in(key, _JITTER),
        image,
        brightness=options.brightness,
        contrast=options.contrast,
        saturation=options.saturation,
        hue=options.hue,
    )
    if options.grayscale:
        gray_key = jax.random.fold_in(key, _GRAY)
        image = colour.to_gray(gray_key, image, probability=options.grayscale)
    if options.blur:
        image = colour.random_blur(
            jax.random.fold_in(key, _BLUR),
            image,
            probability=options.blur,
            sigma=options.blur_sigma,
        )
    return image


def _erase(key: jax.Array, image: jax.Array, options: AugmentConfig) -> jax.Array:
    if not options.erase:
        return image
    return erasing.erase(
        jax.random.fold_in(key, _ERASE),
        image,
        probability=options.erase,
        area=options.erase_area,
        ratio=options.erase_ratio,
        fill=options.erase_fill,
    )

"""Augmentation, all steps in order, on batches of uint8 images on the device, inside jit.

The operations are in `geometry`, `colour`, `policies` and `erasing`. `mixing` combines the images
of the augmented batch.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from tl_jax.config import AugmentConfig
from tl_jax.data.augment import colour, erasing, geometry, policies
from tl_jax.data.preprocess import NetworkInput, Preprocess, network_input, normalize

AugmentFn = Callable[[jax.Array, Mapping[str, jax.Array]], NetworkInput]

# Which child of an example's key each step uses; crop and flips have 0 and 1, by `split`.
_AFFINE, _POLICY, _JITTER, _GRAY, _BLUR, _ERASE = range(2, 8)


def make_augment_fn(options: AugmentConfig, preprocess: Preprocess) -> AugmentFn:
    """Returns `augment_fn(key, batch)`, which turns a batch of training into the network's input.

    Args:
      options: what is done.
      preprocess: size, normalisation and interpolation of the images.

    Returns:
      A function of a random key and a batch with "image" and "size", as for `augment` or
      `augment_views`. It returns the augmented and normalised images, with views or further inputs
      of the batch a dict of all of them (`network_input`).

    Examples:
      >>> augment_fn = make_augment_fn(AugmentConfig(), Preprocess(size=(8, 8)))
      >>> batch = {"image": jnp.zeros((2, 9, 9, 3), jnp.uint8), "size": jnp.full((2, 2), 30)}
      >>> jax.eval_shape(augment_fn, jax.random.key(0), batch).shape
      (2, 8, 8, 3)
    """

    def augment_fn(key: jax.Array, batch: Mapping[str, jax.Array]) -> NetworkInput:
        image, size = batch["image"], batch["size"]
        if image.ndim == 4:
            images = augment(key, image, size, options=options, preprocess=preprocess)
        else:
            images = augment_views(
                key, image, size, batch["view_mask"], options=options, preprocess=preprocess
            )
        return network_input(images, batch)

    return augment_fn


def augment_views(
    key: jax.Array,
    images: jax.Array,
    sizes: jax.Array,
    mask: jax.Array,
    *,
    options: AugmentConfig,
    preprocess: Preprocess,
) -> jax.Array:
    """Augments and normalises the views of a batch, each as `augment` does one image.

    View v of an example has the key `fold_in(example's key, v)`: its result does not depend on the
    other views or their number.

    Args:
      key: random key of the batch.
      images: uint8 [batch, V, canvas, canvas, 3].
      sizes: int32 [batch, V, 2].
      mask: bool [batch, V], False for a view that is missing. What is returned for it has no
        meaning, but is finite.
      options, preprocess: as for `augment`.

    Returns:
      float32 [batch, V, height, width, channels].
    """
    count, views, canvas = images.shape[:3]
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
        jax.random.split(key, count), jnp.arange(views)
    )
    # A missing view has no size to draw a box from.
    sizes = jnp.where(mask[..., None], sizes, canvas)
    augmented = _augment(
        keys.reshape(count * views),
        images.reshape(count * views, *images.shape[2:]),
        sizes.reshape(count * views, 2),
        options,
        preprocess,
    )
    return augmented.reshape(count, views, *augmented.shape[1:])


def augment(
    key: jax.Array,
    images: jax.Array,
    sizes: jax.Array,
    *,
    options: AugmentConfig,
    preprocess: Preprocess,
) -> jax.Array:
    """Augments and normalises a batch.

    The steps, in order: a random box is cut out and resized; flips; rotation, shear, zoom and
    shift, as one resampling together with the policy's moves; the policy's changes of colour;
    colour jitter; grayscale; blur; normalisation; erasing.

    Each example has its own key, `jax.random.split(key, batch)[i]`: its result does not depend on
    the other examples, and the draws of one step do not depend on which other steps are on.

    Args:
      key: random key of the batch.
      images: uint8 [batch, canvas, canvas, 3], each stretched to the canvas.
      sizes: int32 [batch, 2], height and width of each image before it was stretched.
      options: what is done.
      preprocess: size, mean, standard deviation and interpolation of the result; a mean of one
        value is for a network of gray images.

    Returns:
      float32 [batch, height, width, channels].

    Raises:
      ValueError: if the interpolation is none of "bilinear", "bicubic" and "lanczos".
    """
    return _augment(jax.random.split(key, images.shape[0]), images, sizes, options, preprocess)


def _augment(
    keys: jax.Array,
    images: jax.Array,
    sizes: jax.Array,
    options: AugmentConfig,
    preprocess: Preprocess,
) -> jax.Array:
    """Augments and normalises images, each with its key."""
    if preprocess.interpolation not in geometry.METHODS:
        known = ", ".join(geometry.METHODS)
        raise ValueError(f"got interpolation {preprocess.interpolation!r}; expected {known}")

    def augment_one(key: jax.Array, image: jax.Array, original: jax.Array) -> jax.Array:
        image = _crop_and_flip(key, image, original, options, preprocess)
        image = _move_and_apply_policy(key, image, options, preprocess)
        image = _recolour(key, image, options)
        return image if preprocess.channels == 3 else colour.luma(image)

    def erase_one(key: jax.Array, image: jax.Array) -> jax.Array:
        return erasing.erase(
            jax.random.fold_in(key, _ERASE),
            image,
            probability=options.erase,
            area=options.erase_area,
            ratio=options.erase_ratio,
            fill=options.erase_fill,
        )

    augmented = jax.vmap(augment_one)(keys, images, sizes)
    normalized = normalize(augmented, preprocess.mean, preprocess.std)
    return jax.vmap(erase_one)(keys, normalized) if options.erase else normalized


def _crop_and_flip(
    key: jax.Array,
    image: jax.Array,
    original: jax.Array,
    options: AugmentConfig,
    preprocess: Preprocess,
) -> jax.Array:
    """Cuts a random box out of an image of `original` height and width, resizes and flips it."""
    crop_key, flip_key = jax.random.split(key)
    box = geometry.random_box(crop_key, original, scale=options.scale, ratio=options.ratio)
    stretch = jnp.asarray(image.shape[:2], jnp.float32) / original
    image = geometry.crop_and_resize(
        image,
        box[:2] * stretch,
        box[2:] * stretch,
        size=preprocess.size,
        interpolation=preprocess.interpolation,
    )
    flips_columns, flips_rows = jax.random.bernoulli(flip_key, shape=(2,))
    if options.horizontal_flip:
        image = jnp.where(flips_columns, image[:, ::-1], image)
    if options.vertical_flip:
        image = jnp.where(flips_rows, image[::-1], image)
    return image


def _move_and_apply_policy(
    key: jax.Array, image: jax.Array, options: AugmentConfig, preprocess: Preprocess
) -> jax.Array:
    """Rotates, shears, zooms and shifts an image, and applies the policy to it."""
    matrix = None
    if options.rotation or options.shear or options.shift or options.zoom != (1.0, 1.0):
        matrix = geometry.random_affine(
            jax.random.fold_in(key, _AFFINE),
            preprocess.size,
            rotation=options.rotation,
            shear=options.shear,
            zoom=options.zoom,
            shift=options.shift,
        )
    fill = geometry.Fill(options.fill, 255 * jnp.asarray(preprocess.mean, jnp.float32))
    policy_key = jax.random.fold_in(key, _POLICY)
    if options.policy == "randaugment":
        return policies.rand_augment(
            policy_key,
            image,
            count=options.policy_operations,
            magnitude=options.policy_magnitude,
            fill=fill,
            first_move=matrix,
        )
    if options.policy == "trivialaugment":
        return policies.trivial_augment(policy_key, image, fill=fill, first_move=matrix)
    if matrix is not None:
        image = geometry.warp(image, matrix, fill)
    if options.policy == "augmix":
        severity = options.policy_severity
        image = policies.aug_mix(policy_key, image, severity=severity, fill=fill)
    return image


def _recolour(key: jax.Array, image: jax.Array, options: AugmentConfig) -> jax.Array:
    """Applies colour jitter, random grayscale and random blur to an image."""
    image = colour.colour_jitter(
        jax.random.fold_in(key, _JITTER),
        image,
        brightness=options.brightness,
        contrast=options.contrast,
        saturation=options.saturation,
        hue=options.hue,
    )
    if options.grayscale:
        gray_key = jax.random.fold_in(key, _GRAY)
        image = colour.random_grayscale(gray_key, image, probability=options.grayscale)
    if options.blur:
        blur_key = jax.random.fold_in(key, _BLUR)
        image = colour.random_blur(
            blur_key, image, probability=options.blur, sigma=options.blur_sigma
        )
    return image

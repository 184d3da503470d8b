"""Changes of colour: jitter, grayscale, blur, and the colour operations of policies.

All functions take one float32 image [height, width, 3] with values in [0, 255] and return another,
within the range but not rounded. The reference is torchvision.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_BLUR_RADIUS = 11  # A kernel of 23 pixels, as in timm.


def luma(image: jax.Array) -> jax.Array:
    """Returns the luma [height, width, 1] of Pillow's mode "L" (ITU-R 601-2)."""
    # A sum, not a matrix product: accelerators compute products in lower precision.
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blend(image: jax.Array, other: jax.Array, share: jax.Array | float) -> jax.Array:
    """Returns `share * image + (1 - share) * other`, clipped; shares above 1 extrapolate."""
    return jnp.clip(share * image + (1 - share) * other, 0, 255)


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies all values."""
    return blend(image, jnp.zeros(()), factor)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves all values away from the mean luma, or towards it for a factor below 1."""
    return blend(image, luma(image).mean(), factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves each pixel away from its luma, or towards it for a factor below 1; 0 is gray."""
    return blend(image, luma(image), factor)


def adjust_hue(image: jax.Array, amount: jax.Array | float) -> jax.Array:
    """Turns the hue by `amount` of the whole circle, at fixed HSV saturation and value."""
    image = image / 255
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    unit = 1 / (6 * jnp.where(chroma == 0, 1.0, chroma))  # The hue of gray is 0.
    hue = jnp.where(value == green, unit * (blue - red) + 2 / 6, unit * (red - green) + 4 / 6)
    hue = jnp.where(value == red, unit * (green - blue), hue)
    hue = hue + (hue < 0)
    saturation = chroma / jnp.where(value == 0, 1.0, value)

    turned = 6 * ((hue + amount) % 1.0)
    # Each channel over the circle: 1 for a third of it, 0 for a third, linear in between.
    waves = (abs(turned - 3) - 1, 2 - abs(turned - 2), 2 - abs(turned - 4))
    channels = [value * ((1 - saturation) + saturation * jnp.clip(wave, 0, 1)) for wave in waves]
    return jnp.clip(255 * jnp.stack(channels, axis=-1), 0, 255)


def smooth(image: jax.Array) -> jax.Array:
    """Returns a 3 x 3 mean with weight 5 in its middle and the edges as they are.

    Sharpening moves an image away from it. Source: Pillow's `ImageFilter.SMOOTH`.
    """
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    down = image[:-2] + image[1:-1] + image[2:]
    square = down[:, :-2] + down[:, 1:-1] + down[:, 2:]
    inner = (square + 4 * image[1:-1, 1:-1]) / 13
    return image.at[1:-1, 1:-1].set(inner)


def posterize(image: jax.Array, bits: jax.Array | float) -> jax.Array:
    """Keeps the upper bits of each value, taken as 8-bit."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image) / step) * step


def solarize(image: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Inverts all values at or above a threshold."""
    return jnp.where(image >= threshold, 255 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to the whole range; a channel of one value stays as it is."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    is_flat = low == high
    factor = jnp.where(is_flat, 1.0, 255 / jnp.where(is_flat, 1.0, high - low))
    return jnp.clip((image - jnp.where(is_flat, 0.0, low)) * factor, 0, 255)


def equalize(image: jax.Array) -> jax.Array:
    """Makes all values of each channel, taken as 8-bit, about as frequent. Source: Pillow."""

    def make_table(levels: jax.Array) -> jax.Array:
        """Returns the new value [256] of each value of one channel's pixels."""
        counts = jnp.zeros(256, jnp.int32).at[levels].add(1, mode="promise_in_bounds")
        step = (levels.size - counts[levels.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
        return jnp.where(step == 0, jnp.arange(256), table)

    levels = jnp.round(image).astype(jnp.int32)
    tables = jax.vmap(make_table, in_axes=-1)(levels.reshape(-1, levels.shape[-1]))
    offsets = 256 * jnp.arange(levels.shape[-1])
    equalized = tables.reshape(-1).at[levels + offsets].get(mode="promise_in_bounds")
    return equalized.astype(jnp.float32)


def colour_jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue at random, in random order.

    Source: torchvision's `ColorJitter`.

    Args:
      key: random key.
      image: see the module.
      brightness, contrast, saturation: the factor is drawn from [max(0, 1 - value), 1 + value].
      hue: largest turn of the hue in either direction, as a share of the circle, at most 1/2.
    """
    factors = (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
    )
    steps: list[tuple[Callable[[jax.Array, jax.Array], jax.Array], float, float]] = [
        (step, max(0.0, 1 - by), 1 + by) for step, by in factors if by
    ]
    if hue:
        steps.append((adjust_hue, -hue, hue))
    if not steps:
        return image
    functions = [function for function, _, _ in steps]
    low, high = jnp.asarray([[low, high] for _, low, high in steps]).T
    draws, places = jax.random.uniform(key, (2, len(steps)))
    order = jnp.argsort(places)

    def apply(image: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return jax.lax.switch(step[0], functions, image, step[1]), None

    # A loop, so that each operation is compiled once.
    amounts = low + draws * (high - low)
    return jax.lax.scan(apply, image, (order, amounts[order]))[0]


def random_grayscale(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
    """Converts an image to gray with this probability, as three equal channels."""
    is_chosen = jax.random.bernoulli(key, probability)
    return jnp.where(is_chosen, luma(image), image)


def random_blur(
    key: jax.Array, image: jax.Array, *, probability: float, sigma: tuple[float, float]
) -> jax.Array:
    """Blurs an image with this probability; `sigma` is drawn uniformly from a range, in pixels."""
    chosen_key, sigma_key = jax.random.split(key)
    drawn = jax.random.uniform(sigma_key, minval=sigma[0], maxval=sigma[1])
    is_chosen = jax.random.bernoulli(chosen_key, probability)
    return jnp.where(is_chosen, gaussian_blur(image, drawn), image)


def gaussian_blur(image: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Blurs with a Gaussian of 23 pixels, mirrored at the edges as in torchvision.

    Args:
      image: see the module.
      sigma: standard deviation, in pixels.
    """

    def make_weights(side: int) -> jax.Array:
        """Returns the weights [blurred pixels, pixels] along one axis."""
        radius = min(_BLUR_RADIUS, side - 1)
        target, source = jnp.arange(side)[:, None], jnp.arange(side)[None, :]

        def weight(distance: jax.Array) -> jax.Array:
            gaussian = jnp.exp(-0.5 * (distance / sigma) ** 2)
            return jnp.where(abs(distance) <= radius, gaussian, 0.0)

        # A pixel counts again where the line is mirrored; the mirrors are the edge pixels.
        before = jnp.where(source > 0, weight(target + source), 0.0)
        after = jnp.where(source < side - 1, weight(2 * (side - 1) - target - source), 0.0)
        weights = weight(target - source) + before + after
        return weights / weights.sum(axis=1, keepdims=True)

    rows, columns = make_weights(image.shape[0]), make_weights(image.shape[1])
    # Two matrix products: a convolution with a different kernel for each example is slow.
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")

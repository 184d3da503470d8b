"""What becomes of the colours of an image: jitter, gray, blur, and the operations of policies.

All functions take one float32 image [height, width, 3] with values in [0, 255] and return the like,
within the range but not rounded. The reference is torchvision.
"""

import dm_pix
import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode "L".
_BLUR_RADIUS = 11  # A kernel of 23 pixels, as in timm.


def gray(image: jax.Array) -> jax.Array:
    """Returns the luma [height, width, 1]."""
    # Sums, not a product of matrices: accelerators compute those in a coarser type.
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(_LUMA))


def blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """Returns `share` of the image and 1 - `share` of the other; shares above 1 go beyond it."""
    return jnp.clip(share * image + (1 - share) * other, 0, 255)


def brighten(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies all values."""
    return blend(image, jnp.zeros(()), factor)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves all values from the mean luma, or towards it."""
    return blend(image, gray(image).mean(), factor)


def saturate(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves each pixel from its luma, or towards it; 0 is gray."""
    return blend(image, gray(image), factor)


def turn_hue(image: jax.Array, amount: jax.Array) -> jax.Array:
    """Turns the hue by a share of the whole circle."""
    return jnp.clip(255 * dm_pix.adjust_hue(image / 255, amount), 0, 255)


def smoothed(image: jax.Array) -> jax.Array:
    """Returns what sharpening starts from: a 3 x 3 mean with weight 5 in its middle, edges as is.

    Source: Pillow's `ImageFilter.SMOOTH`.
    """
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    down = image[:-2] + image[1:-1] + image[2:]
    square = down[:, :-2] + down[:, 1:-1] + down[:, 2:]
    inner = (square + 4 * image[1:-1, 1:-1]) / 13
    return image.at[1:-1, 1:-1].set(inner)


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the upper bits of each value, taken as 8-bit."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image) / step) * step


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts all values from a threshold on."""
    return jnp.where(image >= threshold, 255 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to the whole range; a channel of one value stays as it is."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    flat = low == high
    factor = jnp.where(flat, 1.0, 255 / jnp.where(flat, 1.0, high - low))
    return jnp.clip((image - jnp.where(flat, 0.0, low)) * factor, 0, 255)


def equalize(image: jax.Array) -> jax.Array:
    """Makes all values of each channel, taken as 8-bit, about as frequent. Source: Pillow."""
    levels = jnp.round(image).astype(jnp.int32)
    tables = jax.vmap(_equalizing_table, in_axes=-1)(levels.reshape(-1, levels.shape[-1]))
    offsets = 256 * jnp.arange(levels.shape[-1])
    found = tables.reshape(-1).at[levels + offsets].get(mode="promise_in_bounds")
    return found.astype(jnp.float32)


def _equalizing_table(levels: jax.Array) -> jax.Array:
    """Returns the new value [256] of each value of one channel's pixels."""
    counts = jnp.zeros(256, jnp.int32).at[levels].add(1, mode="promise_in_bounds")
    step = (levels.size - counts[levels.max()]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step == 0, jnp.arange(256), table)


def jitter(
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
      brightness, contrast, saturation: the factor lies between 1 - this (at least 0) and 1 + this.
      hue: the hue turns to either side by up to this share of the circle, at most 1/2.
    """
    around_one = {brighten: brightness, adjust_contrast: contrast, saturate: saturation}
    ranges = {step: (max(0.0, 1 - s), 1 + s) for step, s in around_one.items() if s}
    ranges |= {turn_hue: (-hue, hue)} if hue else {}
    if not ranges:
        return image
    steps, (low, high) = list(ranges), jnp.asarray(list(ranges.values())).T
    draws, places = jax.random.uniform(key, (2, len(steps)))
    order = jnp.argsort(places)

    def apply(image: jax.Array, chosen: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return jax.lax.switch(chosen[0], steps, image, chosen[1]), None

    # A loop, so that each operation is compiled once.
    amounts = low + draws * (high - low)
    return jax.lax.scan(apply, image, (order, amounts[order]))[0]


def to_gray(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
    """Takes the colours away, with this probability; three equal channels are left."""
    chosen = jax.random.bernoulli(key, probability)
    return jnp.where(chosen, gray(image), image)


def random_blur(
    key: jax.Array, image: jax.Array, *, probability: float, sigma: tuple[float, float]
) -> jax.Array:
    """Blurs an image with this probability; the deviation is uniform in a range, in pixels."""
    chosen_key, sigma_key = jax.random.split(key)
    drawn = jax.random.uniform(sigma_key, minval=sigma[0], maxval=sigma[1])
    return jnp.where(jax.random.bernoulli(chosen_key, probability), blur(image, drawn), image)


def blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs with a Gaussian of 23 pixels, mirrored at the edges as torchvision does it.

    Args:
      image: see the module.
      sigma: standard deviation, in pixels.
    """
    rows, columns = (_blurring(side, sigma) for side in image.shape[:2])
    # Two products of matrices: a convolution with a kernel for each example is slow to run.
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def _blurring(side: int, sigma: jax.Array) -> jax.Array:
    """Returns the weight [side, side] of each pixel of a line in each blurred one."""
    radius = min(_BLUR_RADIUS, side - 1)
    to, source = jnp.arange(side)[:, None], jnp.arange(side)[None, :]

    def weight(distance: jax.Array) -> jax.Array:
        return jnp.where(abs(distance) <= radius, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    # A pixel counts once more where the line is mirrored, the pixels at the edges do not.
    before = jnp.where(source > 0, weight(to + source), 0.0)
    after = jnp.where(source < side - 1, weight(2 * (side - 1) - to - source), 0.0)
    weights = weight(to - source) + before + after
    return weights / weights.sum(axis=1, keepdims=True)

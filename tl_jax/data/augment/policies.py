"""RandAugment, TrivialAugment and AugMix: operations drawn at random, each at some magnitude.

Operations, magnitudes and draws are torchvision's (torchvision/transforms/autoaugment.py), with
bilinear resampling. Two things differ: values are not rounded to 8 bits after each operation, and
an example's moves (shears, shifts, rotations) come before its changes of colour, composed into one
map, so that it is resampled once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.data.augment import colour, geometry

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
RAND_BINS = 31
MIX_BINS = 10
_CHAINS = 3
_MAX_CHAIN_LENGTH = 3
_SIGNED = ("shear_", "translate_", "rotate", "brightness", "color", "contrast", "sharpness")


class Space(NamedTuple):
    """What a policy draws from."""

    operations: np.ndarray
    """Indices [n] into `OPERATIONS`."""
    magnitudes: np.ndarray
    """float32 [n, bins], those of each operation."""


def rand_augment_space(size: tuple[int, int], magnitude: int) -> Space:
    """Returns what RandAugment (arXiv:1909.13719) draws from.

    Args:
      size: height and width of the images.
      magnitude: one for all operations, 0 to 30. timm's "m9" is about 27 on this scale.
    """
    height, width = size
    ramp = np.linspace(0, 1, RAND_BINS)
    return _make_space(
        ramp[magnitude : magnitude + 1],
        shear=0.3,
        translate=(150 / 331 * width, 150 / 331 * height),
        rotate=30,
        blend=0.9,
        bits=lambda share: 8 - np.round(4 * share),
    )


def trivial_augment_space() -> Space:
    """Returns what TrivialAugment, "wide" (arXiv:2103.10158), draws from."""
    return _make_space(
        np.linspace(0, 1, RAND_BINS),
        shear=0.99,
        translate=(32, 32),
        rotate=135,
        blend=0.99,
        bits=lambda share: 8 - np.round(6 * share),
    )


def aug_mix_space(size: tuple[int, int], severity: int) -> Space:
    """Returns what the chains of AugMix (arXiv:1912.02781) draw from.

    Args:
      size: height and width of the images.
      severity: 1 to 10: how many of the 10 magnitudes may be drawn, the smallest first.
    """
    height, width = size
    space = _make_space(
        np.linspace(0, 1, MIX_BINS)[:severity],
        shear=0.3,
        translate=(width / 3, height / 3),
        rotate=30,
        blend=0.9,
        bits=lambda share: 4 - np.round(4 * share),
    )
    return Space(space.operations[1:], space.magnitudes[1:])  # Without the identity.


def _make_space(
    shares: np.ndarray,
    *,
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    blend: float,
    bits: Callable[[np.ndarray], np.ndarray],
) -> Space:
    """Returns all operations, at these shares [bins] of the largest magnitudes."""
    zeros = 0 * shares
    magnitudes = {
        "identity": zeros,
        "shear_x": shear * shares,
        "shear_y": shear * shares,
        "translate_x": np.trunc(shares * translate[0]),
        "translate_y": np.trunc(shares * translate[1]),
        "rotate": rotate * shares,
        "brightness": blend * shares,
        "color": blend * shares,
        "contrast": blend * shares,
        "sharpness": blend * shares,
        "posterize": bits(shares),
        "solarize": 255 * (1 - shares),
        "autocontrast": zeros,
        "equalize": zeros,
    }
    rows = np.stack([magnitudes[name] for name in OPERATIONS])
    return Space(np.arange(len(OPERATIONS)), rows.astype(np.float32))


def draw_operations(
    key: jax.Array, space: Space, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Draws operations and signed magnitudes.

    Returns:
      Indices into `OPERATIONS` (int32) and magnitudes (float32), both of this shape.
    """
    count, bins = space.magnitudes.shape
    draws = jax.random.uniform(key, (3, *shape))
    row = jnp.minimum((draws[0] * count).astype(jnp.int32), count - 1)
    bin_ = jnp.minimum((draws[1] * bins).astype(jnp.int32), bins - 1)
    signed = np.array([OPERATIONS[i].startswith(_SIGNED) for i in space.operations])
    sign = jnp.where(jnp.asarray(signed)[row] & (draws[2] < 0.5), -1.0, 1.0)
    return jnp.asarray(space.operations)[row], sign * jnp.asarray(space.magnitudes)[row, bin_]


def move_matrix(operation: jax.Array, magnitude: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the map [3, 3] of an operation for `geometry.warp`, the identity if it moves nothing.

    Args:
      operation: index into `OPERATIONS`.
      magnitude: signed: the slope of a shear, pixels of a shift, degrees of a rotation.
      size: height and width of the image.
    """
    slope_x, slope_y, right, down, degrees = (
        jnp.where(operation == OPERATIONS.index(name), magnitude, 0.0)
        for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    )
    # torchvision's shears keep the first row or column in place, not the centre.
    anchored = geometry.shifting(down=-slope_y * size[1] / 2, right=-slope_x * size[0] / 2)
    return geometry.compose(
        geometry.shifting(down=down, right=right),
        anchored,
        geometry.shearing(along_rows=slope_x, along_columns=slope_y),
        geometry.rotating(jnp.deg2rad(degrees)),
    )


def apply_colour_operation(
    image: jax.Array, operation: jax.Array, magnitude: jax.Array
) -> jax.Array:
    """Changes the colours of an image by one operation; a move leaves it as it is.

    Args:
      image: float32 [height, width, 3], values in [0, 255].
      operation: index into `OPERATIONS`.
      magnitude: signed: the factor of a blend minus 1, the number of bits that posterising keeps,
        or the threshold of solarising.
    """

    def is_chosen(name: str) -> jax.Array:
        return operation == OPERATIONS.index(name)

    blends = {
        "brightness": jnp.zeros(()),
        "color": colour.luma(image),
        "contrast": colour.luma(image).mean(),
        "sharpness": colour.smooth(image),
    }
    other, factor = image, jnp.ones(())
    for name, end in blends.items():
        other = jnp.where(is_chosen(name), end, other)
        factor = jnp.where(is_chosen(name), 1 + magnitude, factor)
    out = colour.blend(image, other, factor)
    bits = jnp.where(is_chosen("posterize"), magnitude, 8.0)
    results = {
        "posterize": colour.posterize(image, bits),
        "solarize": colour.solarize(image, magnitude),
        "autocontrast": colour.autocontrast(image),
        "equalize": colour.equalize(image),
    }
    for name, result in results.items():
        out = jnp.where(is_chosen(name), result, out)
    return out


def apply_operations(
    image: jax.Array,
    operations: jax.Array,
    magnitudes: jax.Array,
    *,
    fill: geometry.Fill,
    first_move: jax.Array | None = None,
) -> jax.Array:
    """Applies operations in turn: the moves first, as one resampling, then the changes of colour.

    Args:
      image: float32 [height, width, 3], values in [0, 255].
      operations: indices [n] into `OPERATIONS`.
      magnitudes: signed [n], as for `move_matrix` and `apply_colour_operation`.
      fill: what lies outside the image.
      first_move: a map [3, 3] to apply before all of them.
    """
    moves = [
        move_matrix(operation, magnitude, (image.shape[0], image.shape[1]))
        for operation, magnitude in zip(operations, magnitudes, strict=True)
    ]
    if first_move is not None:
        moves.insert(0, first_move)
    moved = geometry.warp(image, geometry.compose(*moves), fill)

    def apply(image: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return apply_colour_operation(image, *step), None

    # A loop, so that the operations are compiled once, not once a step.
    return jax.lax.scan(apply, moved, (operations, magnitudes))[0]


def rand_augment(
    key: jax.Array,
    image: jax.Array,
    *,
    count: int,
    magnitude: int,
    fill: geometry.Fill,
    first_move: jax.Array | None = None,
) -> jax.Array:
    """Applies `count` random operations at one magnitude (0 to 30), as `apply_operations` does."""
    space = rand_augment_space((image.shape[0], image.shape[1]), magnitude)
    operations, magnitudes = draw_operations(key, space, (count,))
    return apply_operations(image, operations, magnitudes, fill=fill, first_move=first_move)


def trivial_augment(
    key: jax.Array,
    image: jax.Array,
    *,
    fill: geometry.Fill,
    first_move: jax.Array | None = None,
) -> jax.Array:
    """Applies one random operation at a random magnitude, as `apply_operations` does."""
    operations, magnitudes = draw_operations(key, trivial_augment_space(), (1,))
    return apply_operations(image, operations, magnitudes, fill=fill, first_move=first_move)


def aug_mix(key: jax.Array, image: jax.Array, *, severity: int, fill: geometry.Fill) -> jax.Array:
    """Mixes the image with three chains of one to three random operations, in random shares.

    The consistency loss of the paper is not included.

    Args:
      key: random key.
      image: float32 [height, width, 3], values in [0, 255].
      severity: 1 to 10; see `aug_mix_space`.
      fill: what lies outside the image.
    """
    draw_key, share_key, depth_key = jax.random.split(key, 3)
    space = aug_mix_space((image.shape[0], image.shape[1]), severity)
    operations, magnitudes = draw_operations(draw_key, space, (_CHAINS, _MAX_CHAIN_LENGTH))
    depths, original_share = jnp.split(jax.random.uniform(depth_key, (_CHAINS + 1,)), [_CHAINS])
    # Keep the first 1, 2 or 3 operations of a chain; index 0, the identity, replaces the others.
    is_used = jnp.arange(_MAX_CHAIN_LENGTH) <= jnp.floor(_MAX_CHAIN_LENGTH * depths)[:, None]
    operations = jnp.where(is_used, operations, 0)
    shares = jax.random.exponential(share_key, (_CHAINS,))  # A Dirichlet(1, 1, 1), normalised.
    shares = (1 - original_share) * shares / shares.sum()

    def add_chain(mixed: jax.Array, chain: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        share, *steps = chain
        return mixed + share * apply_operations(image, *steps, fill=fill), None

    mixed, _ = jax.lax.scan(add_chain, original_share * image, (shares, operations, magnitudes))
    return jnp.clip(mixed, 0, 255)  # Rounding may leave the range by a little.

"""RandAugment, TrivialAugment and AugMix: operations drawn at random, each at some magnitude.

Operations, magnitudes and draws are torchvision's (torchvision/transforms/autoaugment.py), with
bilinear resampling. Two things differ. Values are not rounded to 8 bits after each operation. And
an example's moves (shears, shifts, rotations) come before its changes of colour, composed to one
map, so that it is resampled once.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.data.augment import colour, geometry

Policy = Literal["randaugment", "trivialaugment", "augmix"]

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
_MOST_IN_A_CHAIN = 3
_SIGNED = ("shear_", "translate_", "rotate", "brightness", "color", "contrast", "sharpness")


class Space(NamedTuple):
    """What a policy draws from: operations (indices, [n]) and their magnitudes ([n, bins])."""

    operations: np.ndarray
    magnitudes: np.ndarray


def rand_augment_space(size: tuple[int, int], magnitude: int) -> Space:
    """Returns what RandAugment (arXiv:1909.13719) draws from.

    Args:
      size: height and width of the images.
      magnitude: one for all operations, 0 to 30. timm's "m9" is about 27 on this scale.
    """
    height, width = size
    ramp = np.linspace(0, 1, RAND_BINS)
    return _space(
        ramp[magnitude : magnitude + 1],
        shear=0.3,
        translate=(150 / 331 * width, 150 / 331 * height),
        rotate=30,
        blend=0.9,
        bits=lambda share: 8 - np.round(4 * share),
    )


def trivial_augment_space() -> Space:
    """Returns what TrivialAugment, "wide" (arXiv:2103.10158), draws from."""
    return _space(
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
    space = _space(
        np.linspace(0, 1, MIX_BINS)[:severity],
        shear=0.3,
        translate=(width / 3, height / 3),
        rotate=30,
        blend=0.9,
        bits=lambda share: 4 - np.round(4 * share),
    )
    return Space(space.operations[1:], space.magnitudes[1:])  # Without the identity.


def _space(
    shares: np.ndarray,
    *,
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    blend: float,
    bits: Callable[[np.ndarray], np.ndarray],
) -> Space:
    """Returns all operations, at these shares [bins] of the largest magnitudes."""
    none = 0 * shares
    moves = [shear * shares, shear * shares, *(np.trunc(shares * to) for to in translate)]
    blends = [blend * shares] * 4
    rows = [none, *moves, rotate * shares, *blends, bits(shares), 255 * (1 - shares), none, none]
    return Space(np.arange(len(OPERATIONS)), np.stack(rows).astype(np.float32))


def draw(key: jax.Array, space: Space, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws operations and signed magnitudes.

    Returns:
      int32 and float32 arrays of this shape.
    """
    bins = space.magnitudes.shape[1]
    draws = jax.random.uniform(key, (3, *shape))
    row = jnp.minimum(
        (draws[0] * len(space.operations)).astype(jnp.int32), len(space.operations) - 1
    )
    bin_ = jnp.minimum((draws[1] * bins).astype(jnp.int32), bins - 1)
    signed = np.array([OPERATIONS[i].startswith(_SIGNED) for i in space.operations])
    sign = jnp.where(jnp.asarray(signed)[row] & (draws[2] < 0.5), -1.0, 1.0)
    return jnp.asarray(space.operations)[row], sign * jnp.asarray(space.magnitudes)[row, bin_]


def movement(operation: jax.Array, magnitude: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the map [3, 3] of an operation, for `geometry.warp`; the identity for most.

    Args:
      operation: index into `OPERATIONS`.
      magnitude: signed: the slope of a shear, pixels of a shift, degrees of a rotation.
      size: height and width of the image.
    """
    slope_x, slope_y, right, down, degrees = (
        jnp.where(operation == OPERATIONS.index(name), magnitude, 0.0)
        for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    )
    # The shears leave the first row or column where it is, not the centre.
    anchored = geometry.shifting(down=-slope_y * size[1] / 2, right=-slope_x * size[0] / 2)
    return geometry.compose(
        geometry.shifting(down=down, right=right),
        anchored,
        geometry.shearing(along_rows=slope_x, along_columns=slope_y),
        geometry.rotating(jnp.deg2rad(degrees)),
    )


def recolour(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Changes the colours of an image by one operation; moves leave it as it is.

    Args:
      image: float32 [height, width, 3], values in [0, 255].
      operation: index into `OPERATIONS`.
      magnitude: signed: what the factor of a blend differs from 1 by, the bits that posterising
        keeps, the threshold of solarising.
    """

    def chosen(name: str) -> jax.Array:
        return operation == OPERATIONS.index(name)

    blends = {
        "brightness": jnp.zeros(()),
        "color": colour.gray(image),
        "contrast": colour.gray(image).mean(),
        "sharpness": colour.smoothed(image),
    }
    end, factor = image, jnp.ones(())
    for name, other in blends.items():
        end = jnp.where(chosen(name), other, end)
        factor = jnp.where(chosen(name), 1 + magnitude, factor)
    out = colour.blend(image, end, factor)
    others = {
        "posterize": colour.posterize(image, jnp.where(chosen("posterize"), magnitude, 8.0)),
        "solarize": colour.solarize(image, magnitude),
        "autocontrast": colour.autocontrast(image),
        "equalize": colour.equalize(image),
    }
    for name, result in others.items():
        out = jnp.where(chosen(name), result, out)
    return out


def chain(
    image: jax.Array,
    operations: jax.Array,
    magnitudes: jax.Array,
    *,
    fill: geometry.Fill,
    fill_colour: jax.Array,
    before: jax.Array | None = None,
) -> jax.Array:
    """Applies operations in turn: the moves first, as one, then the changes of colour.

    Args:
      image: float32 [height, width, 3], values in [0, 255].
      operations: indices [n] into `OPERATIONS`.
      magnitudes: signed [n], as for `movement` and `recolour`.
      fill, fill_colour: as for `geometry.warp`.
      before: a map that comes before all of them.
    """
    moves = [movement(*pair, image.shape[:2]) for pair in zip(operations, magnitudes, strict=True)]
    matrix = geometry.compose(*([] if before is None else [before]), *moves)
    moved = geometry.warp(image, matrix, fill=fill, fill_colour=fill_colour)

    def apply(image: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return recolour(image, *step), None

    # A loop, so that the operations are compiled once, not once a step.
    return jax.lax.scan(apply, moved, (operations, magnitudes))[0]


def rand_augment(
    key: jax.Array,
    image: jax.Array,
    *,
    count: int,
    magnitude: int,
    fill: geometry.Fill,
    fill_colour: jax.Array,
    before: jax.Array | None = None,
) -> jax.Array:
    """Applies `count` random operations at one magnitude (0 to 30); the rest as for `chain`."""
    space = rand_augment_space(image.shape[:2], magnitude)
    drawn = draw(key, space, (count,))
    return chain(image, *drawn, fill=fill, fill_colour=fill_colour, before=before)


def trivial_augment(
    key: jax.Array,
    image: jax.Array,
    *,
    fill: geometry.Fill,
    fill_colour: jax.Array,
    before: jax.Array | None = None,
) -> jax.Array:
    """Applies one random operation at a random magnitude; the rest as for `chain`."""
    drawn = draw(key, trivial_augment_space(), (1,))
    return chain(image, *drawn, fill=fill, fill_colour=fill_colour, before=before)


def aug_mix(
    key: jax.Array,
    image: jax.Array,
    *,
    severity: int,
    fill: geometry.Fill,
    fill_colour: jax.Array,
) -> jax.Array:
    """Mixes the image with three chains of one to three random operations, in random shares.

    The consistency loss of the paper is no part of it.

    Args:
      key: random key.
      image: float32 [height, width, 3], values in [0, 255].
      severity: 1 to 10; see `aug_mix_space`.
      fill, fill_colour: as for `geometry.warp`.
    """
    draw_key, share_key, depth_key = jax.random.split(key, 3)
    space = aug_mix_space(image.shape[:2], severity)
    operations, magnitudes = draw(draw_key, space, (_CHAINS, _MOST_IN_A_CHAIN))
    depths, own = jnp.split(jax.random.uniform(depth_key, (_CHAINS + 1,)), [_CHAINS])
    # 1, 2 or 3 operations are kept; what is index 0 does nothing.
    kept = jnp.arange(_MOST_IN_A_CHAIN) <= jnp.floor(_MOST_IN_A_CHAIN * depths)[:, None]
    operations = jnp.where(kept, operations, 0)
    shares = jax.random.exponential(share_key, (_CHAINS,))  # A Dirichlet(1, 1, 1), normalised.
    shares = (1 - own) * shares / shares.sum()

    def add(mixed: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        share, *steps = one
        return mixed + share * chain(image, *steps, fill=fill, fill_colour=fill_colour), None

    mixed, _ = jax.lax.scan(add, own * image, (shares, operations, magnitudes))
    return jnp.clip(mixed, 0, 255)  # Rounding may leave the range by a little.

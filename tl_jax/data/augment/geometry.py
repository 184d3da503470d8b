"""Geometric augmentation: random boxes, crops with a resize, and affine maps."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FillMode = Literal["constant", "nearest", "reflect", "wrap"]

# From the names of `Preprocess` to those of `jax.image`.
METHODS = {"bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3"}
_TRIES = 10
# TF32 on GPUs, three products of bfloat16 on TPUs: values are within one level of 255 of those in
# float32, and matrix units compute them several times as fast. CPUs compute in float32.
_RESIZE_PRECISION = lax.Precision.HIGH


class Fill(NamedTuple):
    """What a warp reads outside the image."""

    mode: FillMode
    """"constant" (`colour`), "nearest" (the edge), "reflect" (the mirror image, the edge twice) or
    "wrap" (the other side)."""
    colour: jax.Array | float
    """[channels] or a scalar, for "constant"."""


def random_box(
    key: jax.Array,
    original: jax.Array,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws the box of a random resized crop, in whole pixels.

    The share of the area is uniform and the aspect ratio log-uniform. The first of ten draws that
    fits into the image is used; if none fits, a box in the centre with the nearest allowed aspect
    ratio. Source: Szegedy et al. 2015, as in torchvision's `RandomResizedCrop.get_params`.

    Args:
      key: random key.
      original: [2], height and width of the image.
      scale: range of the box's share of the image's area.
      ratio: range of the box's aspect ratio, width over height.

    Returns:
      float32 [4]: top, left, height and width of the box.
    """
    extent = original.astype(jnp.float32)
    # All in one call: each further call would add half a second of compilation.
    draws = jax.random.uniform(key, (2 * _TRIES + 2,))
    areas, aspects, place = jnp.split(draws, [_TRIES, 2 * _TRIES])
    areas = (scale[0] + areas * (scale[1] - scale[0])) * extent[0] * extent[1]
    aspects = ratio[0] * (ratio[1] / ratio[0]) ** aspects
    tries = jnp.round(jnp.sqrt(jnp.stack([areas / aspects, areas * aspects], axis=1)))
    fits = jnp.all((tries >= 1) & (tries <= extent), axis=1)
    drawn = tries[jnp.argmax(fits)]
    # One of room + 1 whole positions; a draw may round up to 1, hence the minimum.
    room = extent - drawn
    inside = jnp.concatenate([jnp.minimum(jnp.floor(place * (room + 1)), room), drawn])
    height, width = extent
    largest = jnp.stack(
        [
            jnp.minimum(height, jnp.round(width / ratio[0])),
            jnp.minimum(width, jnp.round(height * ratio[1])),
        ]
    )
    middle = jnp.concatenate([jnp.floor((extent - largest) / 2), largest])
    return jnp.where(jnp.any(fits), inside, middle)


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
      interpolation: "bilinear", "bicubic" or "lanczos".

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
        METHODS[interpolation],
        antialias=True,
        precision=_RESIZE_PRECISION,
    )
    return jnp.clip(resampled, 0, 255)  # A cubic kernel overshoots at edges.


def random_affine(
    key: jax.Array,
    size: tuple[int, int],
    *,
    rotation: float,
    shear: float,
    zoom: tuple[float, float],
    shift: float,
) -> jax.Array:
    """Draws an affine map from the ranges of Keras's `ImageDataGenerator`.

    Each draw is uniform. The maps are composed as in Keras: seen from the result, the picture is
    zoomed, sheared, shifted and rotated about its centre.

    Args:
      key: random key.
      size: height and width of the image.
      rotation: largest angle to either side, in degrees.
      shear: largest angle of the shear to either side, in degrees.
      zoom: range of the visible extent, drawn for height and width separately: 0.8 enlarges, 1.2
        shows the whole image with a border.
      shift: largest shift up, down, left or right, as a share of the height or width.

    Returns:
      float32 [3, 3], for `warp`.
    """
    angle, slant, *draws = jax.random.uniform(key, (6,), minval=-1.0)
    angle, slant = jnp.deg2rad(rotation * angle), jnp.deg2rad(shear * slant)
    middle, spread = (zoom[1] + zoom[0]) / 2, (zoom[1] - zoom[0]) / 2
    zoom_y, zoom_x = (middle + spread * draw for draw in draws[:2])
    down, right = (side * shift * draw for side, draw in zip(size, draws[2:], strict=True))
    return compose(
        _affine((jnp.cos(angle), -jnp.sin(angle), 0), (jnp.sin(angle), jnp.cos(angle), 0)),
        _affine((1, 0, down), (0, 1, right)),
        _affine((1, -jnp.sin(slant), 0), (0, jnp.cos(slant), 0)),
        _affine((zoom_y, 0, 0), (0, zoom_x, 0)),
    )


def compose(*matrices: jax.Array) -> jax.Array:
    """Returns the one map that equals warping by each map in turn, the first one first."""
    product, *others = matrices
    for matrix in others:
        # Accelerators multiply matrices in lower precision by default.
        product = jnp.matmul(product, matrix, precision="highest")
    return product


def shearing(*, along_rows: jax.Array | float, along_columns: jax.Array | float) -> jax.Array:
    """Returns a shear about the centre, in pixels of the input per pixel of the result.

    Args:
      along_rows: shift to the right per pixel down.
      along_columns: shift down per pixel to the right.
    """
    return _affine((1, along_columns, 0), (along_rows, 1, 0))


def shifting(*, down: jax.Array | float, right: jax.Array | float) -> jax.Array:
    """Returns the map that moves the picture by this many pixels."""
    return _affine((1, 0, -down), (0, 1, -right))


def rotating(angle: jax.Array | float) -> jax.Array:
    """Returns the map that turns the picture counter-clockwise, by an angle in radians."""
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    return _affine((cosine, sine, 0), (-sine, cosine, 0))


def _affine(*rows: tuple[jax.Array | float, jax.Array | float, jax.Array | float]) -> jax.Array:
    """Returns the map [3, 3] with these first two rows."""
    top = jnp.stack([jnp.asarray(entry, jnp.float32) for row in rows for entry in row])
    return jnp.concatenate([top.reshape(2, 3), jnp.asarray([[0.0, 0.0, 1.0]])])


def warp(image: jax.Array, matrix: jax.Array, fill: Fill) -> jax.Array:
    """Resamples one image by an affine map, bilinearly. The identity gives the same bits back.

    Args:
      image: float [height, width, channels].
      matrix: [3, 3]; maps (row, column, 1) of a pixel of the result to the place in the image that
        it is sampled from, both relative to the centre.
      fill: what lies outside the image.

    Returns:
      The resampled image, of the same shape and type.
    """
    height, width, _ = image.shape
    rows = (jnp.arange(height) - (height - 1) / 2)[:, None]
    columns = (jnp.arange(width) - (width - 1) / 2)[None, :]
    y = matrix[0, 0] * rows + matrix[0, 1] * columns + matrix[0, 2] + (height - 1) / 2
    x = matrix[1, 0] * rows + matrix[1, 1] * columns + matrix[1, 2] + (width - 1) / 2
    top, left = jnp.floor(y), jnp.floor(x)
    flat = image.reshape(height * width, -1)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        row_index, row_inside = _source_index(row.astype(jnp.int32), height, fill.mode)
        column_index, column_inside = _source_index(column.astype(jnp.int32), width, fill.mode)
        values = flat.at[row_index * width + column_index].get(mode="promise_in_bounds")
        if fill.mode != "constant":
            return values
        return jnp.where((row_inside & column_inside)[..., None], values, fill.colour)

    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def _source_index(position: jax.Array, count: int, mode: FillMode) -> tuple[jax.Array, jax.Array]:
    """Returns the index that a position is read from, and whether it lies within the image."""
    is_inside = (position >= 0) & (position < count)
    if mode == "wrap":
        return position % count, is_inside
    if mode == "reflect":
        folded = position % (2 * count)
        return jnp.minimum(folded, 2 * count - 1 - folded), is_inside
    return jnp.clip(position, 0, count - 1), is_inside

"""Geometry: boxes by their definition, resampling as Pillow and SciPy do it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax import lax
from PIL import Image

from tl_jax.data.augment import geometry
from tl_jax.data.augment.geometry import crop_and_resize, random_box

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 13), np.cos(x / 17 - y / 11), np.sin(y / 7)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@jax.jit
def draw(keys, size, *, scale, ratio):
    return jax.vmap(lambda key: random_box(key, size, scale=scale, ratio=ratio))(keys)


def boxes(height: int, width: int, *, scale=SCALE, ratio=RATIO) -> np.ndarray:
    keys = jax.random.split(jax.random.key(1), 20_000)
    return np.asarray(draw(keys, jnp.asarray([height, width]), scale=scale, ratio=ratio))


@pytest.mark.parametrize(("height", "width"), [(300, 300), (480, 640), (640, 200), (37, 23)])
def test_boxes_are_whole_and_lie_inside_the_image(height, width):
    drawn = boxes(height, width)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert drawn.min() >= 0
    assert drawn[:, 2:].min() >= 1
    assert (drawn[:, 0] + drawn[:, 2]).max() <= height
    assert (drawn[:, 1] + drawn[:, 3]).max() <= width


def test_boxes_are_distributed_as_torchvisions():
    # The first try that fits is taken, so the distribution is a conditional one: the reference
    # is drawn by rejection in NumPy from the definition.
    rng = np.random.default_rng(0)
    area = rng.uniform(*SCALE, 200_000) * 480 * 640
    aspect = np.exp(rng.uniform(*np.log(RATIO), area.size))
    size = np.round(np.sqrt(np.stack([area / aspect, area * aspect], axis=1)))
    size = size[(size <= (480, 640)).all(axis=1)]
    place = np.floor(rng.uniform(size=size.shape) * ((480, 640) - size + 1))
    drawn = boxes(480, 640)
    for ours, theirs in [
        (drawn[:, 2] * drawn[:, 3], size.prod(axis=1)),
        (np.log(drawn[:, 3] / drawn[:, 2]), np.log(size[:, 1] / size[:, 0])),
        (drawn[:, 0], place[:, 0]),
        (drawn[:, 1], place[:, 1]),
    ]:
        quantiles = np.linspace(0.02, 0.98, 25)
        spread = theirs.std()
        difference = np.quantile(ours, quantiles) - np.quantile(theirs, quantiles)
        assert np.abs(difference).max() < 0.06 * spread


def test_the_aspect_ratio_is_width_over_height():
    drawn = boxes(300, 300, scale=(0.1, 0.2), ratio=(2.0, 3.0))
    aspects = drawn[:, 3] / drawn[:, 2]
    assert 1.9 < aspects.min() < 2.1
    assert 2.9 < aspects.max() < 3.1


def test_every_place_is_as_likely():
    drawn = boxes(4, 6, scale=(1 / 6, 1 / 6), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(drawn[:, 2:], np.full((len(drawn), 2), 2))
    places, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(3) for left in range(5)]
    assert np.abs(counts / len(drawn) - 1 / 15).max() < 0.01


@pytest.mark.parametrize("shape", [(100, 1000), (1000, 100), (101, 999)])
def test_where_no_box_fits_the_middle_is_taken(shape):
    # Nine tenths of the area at least, nearly square: higher or wider than the image is.
    drawn = boxes(*shape, scale=(0.9, 1.0))
    height, width = min(shape[0], round(shape[1] * 4 / 3)), min(shape[1], round(shape[0] * 4 / 3))
    expected = [(shape[0] - height) // 2, (shape[1] - width) // 2, height, width]
    np.testing.assert_array_equal(drawn, np.tile(expected, (len(drawn), 1)))


def test_the_whole_of_an_oblong_image_can_be_drawn():
    drawn = boxes(300, 400, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    np.testing.assert_array_equal(drawn, np.tile([0, 0, 300, 400], (len(drawn), 1)))


resize = jax.jit(crop_and_resize, static_argnames=("size", "interpolation"))


def test_a_kernel_that_overshoots_stays_within_the_range_of_pixels():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    extent = np.float32([32, 32])
    out = resize(stripes, 0 * extent, extent, size=(80, 80), interpolation="bicubic")
    assert out.min() == 0
    assert out.max() == 255


@pytest.mark.parametrize("interpolation", sorted(RESAMPLING))
@pytest.mark.parametrize(
    "box", [(0, 0, 256, 256), (10, 20, 200, 90), (100, 30, 40, 50), (206, 176, 50, 80)]
)
def test_crops_are_resized_as_pillow_does(interpolation, box):
    image = smooth(256, 256)
    top, left, height, width = box
    theirs = Image.fromarray(image).resize(
        (64, 48), RESAMPLING[interpolation], box=(left, top, left + width, top + height)
    )
    corner, extent = np.float32([top, left]), np.float32([height, width])
    ours = resize(image, corner, extent, size=(48, 64), interpolation=interpolation)
    assert np.abs(np.asarray(ours) - np.asarray(theirs, np.float32)).max() < 1.5


# ---- the affine warp

SIZE = (23, 31)
FILL_COLOUR = np.array([10.0, 200.0, 90.0], np.float32)
SCIPY_MODES = {
    "constant": "grid-constant",
    "nearest": "nearest",
    "reflect": "reflect",
    "wrap": "grid-wrap",
}


@functools.partial(jax.jit, static_argnames="fill")
def warped(image, matrix, fill="constant"):
    return geometry.warp(image, matrix, geometry.Fill(fill, jnp.asarray(FILL_COLOUR)))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@jax.jit
def draw_maps(keys, rotation, shear, zoom, shift):
    return jax.vmap(
        lambda key: geometry.random_affine(
            key, SIZE, rotation=rotation, shear=shear, zoom=zoom, shift=shift
        )
    )(keys)


@functools.cache
def maps(rotation=0.0, shear=0.0, zoom=(1.0, 1.0), shift=0.0) -> np.ndarray:
    """Returns 1000 maps drawn from these ranges."""
    keys = jax.random.split(jax.random.key(2), 1000)
    return np.asarray(draw_maps(keys, rotation, shear, zoom, shift))


def tf32(values: np.ndarray, *, rounds: bool) -> np.ndarray:
    """Returns values with the 10 bits of mantissa that a GPU's matrix units read."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + (0x1000 if rounds else 0)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("rounds", [True, False], ids=["rounded", "truncated"])
@pytest.mark.parametrize("interpolation", list(geometry.METHODS))
def test_in_tf32_pixels_stay_within_one_level(interpolation, rounds):
    rng, side, size = np.random.default_rng(3), 96, 56
    images = [rng.integers(0, 256, (side, side)), 255 * rng.integers(0, 2, (side, side))]
    images += [np.full((side, side), 255), 255 * (np.indices((side, side)).sum(0) % 2)]
    largest = []
    for corner, extent in (((0.0, 0.0), (96.0, 96.0)), ((10.0, 3.0), (37.0, 81.0))):
        factors = jnp.asarray(size / np.array(extent), jnp.float32)
        rows, columns = (
            np.asarray(
                jax.image.scale_and_translate(
                    jnp.eye(side), (size, side), (0,), factors[axis : axis + 1],
                    -jnp.float32(corner[axis]) * factors[axis : axis + 1],
                    geometry.METHODS[interpolation],
                )
            )
            for axis in (0, 1)
        )  # fmt: skip
        for image in images:
            expected = resize(
                image[..., None], jnp.array(corner), jnp.array(extent),
                size=(size, size), interpolation=interpolation,
            )[..., 0]  # fmt: skip
            narrow = tf32(tf32(rows, rounds=rounds) @ image.astype(np.float32), rounds=rounds)
            found = np.clip(narrow @ tf32(columns, rounds=rounds).T, 0, 255)
            largest.append(np.abs(found - expected).max())
    assert 0 < max(largest) < 1


def test_matrix_units_may_be_used_for_resizing():
    traced = resize.trace(
        jnp.zeros((8, 8, 3)), jnp.zeros(2), jnp.full(2, 8.0), size=(4, 4), interpolation="bicubic"
    )
    precisions = {
        equation.params["precision"]
        for equation in traced.jaxpr.eqns
        if equation.primitive.name == "dot_general"
    }
    assert precisions == {(lax.Precision.HIGH, lax.Precision.HIGH)}


@pytest.mark.parametrize("fill", sorted(SCIPY_MODES))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_warp_is_scipys(fill, seed):
    ranges = {"rotation": 60.0, "shear": 25.0, "zoom": (0.6, 2.5), "shift": 0.4}
    matrix = maps(**ranges)[seed]
    image = noise(*SIZE, 3)
    middle = (np.array(SIZE) - 1) / 2
    linear = matrix[:2, :2].astype(np.float64)
    offset = matrix[:2, 2] + middle - linear @ middle
    expected = [
        scipy.ndimage.affine_transform(
            image[..., channel].astype(np.float64),
            linear,
            offset,
            order=1,
            mode=SCIPY_MODES[fill],
            cval=FILL_COLOUR[channel],
        )
        for channel in range(3)
    ]
    actual = warped(image, matrix, fill=fill)
    np.testing.assert_allclose(actual, np.stack(expected, axis=-1), rtol=0, atol=0.02)


@pytest.mark.parametrize("fill", sorted(SCIPY_MODES))
def test_the_identity_warp_gives_the_same_bits(fill):
    image = noise(*SIZE, 3)
    np.testing.assert_array_equal(warped(image, np.eye(3, dtype=np.float32), fill=fill), image)
    ours = np.asarray(warped(image, maps()[0], fill=fill))
    np.testing.assert_array_equal(ours, image)


def test_maps_are_composed_as_keras_composes_them():
    # From one draw of all, the factors: Keras's `apply_affine_transform` multiplies them so.
    one = {"rotation": 40.0}, {"shift": 0.3}, {"shear": 20.0}, {"zoom": (0.5, 1.5)}
    every = {name: value for ranges in one for name, value in ranges.items()}
    parts = [maps(**ranges) for ranges in one]
    product = parts[0] @ parts[1] @ parts[2] @ parts[3]
    np.testing.assert_allclose(maps(**every), product, rtol=0, atol=1e-5)
    np.testing.assert_allclose(geometry.compose(*(p[3] for p in parts)), product[3], atol=1e-5)


def test_each_range_is_uniform():
    turned = np.rad2deg(np.arctan2(maps(rotation=15.0)[:, 1, 0], maps(rotation=15.0)[:, 0, 0]))
    sheared = np.rad2deg(np.arcsin(-maps(shear=10.0)[:, 0, 1]))
    zoomed = maps(zoom=(0.8, 1.3))
    shifted = maps(shift=0.1)
    for draws, low, high in [
        (turned, -15, 15),
        (sheared, -10, 10),
        (zoomed[:, 0, 0], 0.8, 1.3),
        (zoomed[:, 1, 1], 0.8, 1.3),
        (shifted[:, 0, 2], -2.3, 2.3),
        (shifted[:, 1, 2], -3.1, 3.1),
    ]:
        expected = np.linspace(low, high, 21)[1:-1]
        actual = np.quantile(draws, np.linspace(0, 1, 21)[1:-1])
        assert np.abs(actual - expected).max() < 0.05 * (high - low)
        assert low <= draws.min() < draws.max() <= high
    assert abs(np.corrcoef(zoomed[:, 0, 0], zoomed[:, 1, 1])[0, 1]) < 0.1


def test_shifts_move_and_rotations_turn_the_picture():
    image = noise(15, 15, 3)
    moved = warped(image, geometry.shifting(down=2.0, right=-3.0))
    np.testing.assert_array_equal(moved[2:, :-3], image[:-2, 3:])
    np.testing.assert_array_equal(moved[:2], np.broadcast_to(FILL_COLOUR, (2, 15, 3)))
    turned = warped(image, geometry.rotating(np.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(image), rtol=0, atol=0.01)


def test_two_warps_are_one_of_the_composed_maps():
    # Exact only where no pixel is interpolated: whole shifts and a quarter of a turn.
    image = noise(15, 15, 3)
    first, second = geometry.rotating(np.pi / 2), geometry.shifting(down=3.0, right=1.0)
    twice = warped(warped(image, first, fill="nearest"), second, fill="nearest")
    once = warped(image, geometry.compose(first, second), fill="nearest")
    np.testing.assert_allclose(once[3:, 1:], twice[3:, 1:], rtol=0, atol=0.01)

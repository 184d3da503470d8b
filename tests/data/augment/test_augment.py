"""Augmentation with all its steps: their order, their keys, and the range of the result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tl_jax.config import AugmentConfig
from tl_jax.data.augment import colour
from tl_jax.data.augment.augment import augment
from tl_jax.data.augment.geometry import random_box
from tl_jax.data.preprocess import Preprocess

pytestmark = pytest.mark.slow

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
OFF = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
# What comes out are pixels in [0, 1].
PREPROCESS = Preprocess(size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CROPS = {"scale": SCALE, "ratio": RATIO, "horizontal_flip": True}
EVERYTHING = CROPS | {
    "rotation": 15.0,
    "zoom": (0.8, 1.2),
    "policy": "randaugment",
    "brightness": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "erase": 0.5,
}


def changed(changes: dict) -> functools.partial:
    """Returns `augment` with some fields of the options or of the preprocessing changed."""
    fields = {field.name for field in dataclasses.fields(Preprocess)}
    preprocess = {name: value for name, value in changes.items() if name in fields}
    options = {name: value for name, value in changes.items() if name not in fields}
    return functools.partial(
        augment,
        options=dataclasses.replace(OFF, **options),
        preprocess=dataclasses.replace(PREPROCESS, **preprocess),
    )


@functools.cache
def compiled(**changes):
    return jax.jit(changed(changes))


def run(images, sizes, *, seed=0, **changes):
    sizes = jnp.asarray(sizes, jnp.int32)
    return np.asarray(compiled(**changes)(jax.random.key(seed), jnp.asarray(images), sizes))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def repeat(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` times the same square image of noise, and the sizes."""
    images = np.broadcast_to(noise(side, side, 3), (count, side, side, 3))
    return images, np.full((count, 2), side)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Returns six different pictures, of different original sizes."""
    return noise(6, 40, 40, 3), np.random.default_rng(1).integers(20, 90, (6, 2))


def test_a_stretched_image_is_cut_as_the_original_would_be():
    # The canvas loses little of a smooth image: cutting it gives the box of the original. Box and
    # flip come from the keys below, or runs started by earlier versions would go on differently.
    y, x = np.mgrid[:200, :400]
    waves = [np.sin(x / 60 + y / 90), np.cos(x / 110 - y / 70), np.sin(y / 50)]
    original = Image.fromarray(np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8))
    canvas = np.asarray(original.resize((40, 40), Image.Resampling.BICUBIC))
    out = run(np.stack([canvas] * 6), [[200, 400]] * 6, seed=5, **CROPS) * 255
    draw_box = jax.jit(functools.partial(random_box, scale=SCALE, ratio=RATIO))
    flips = []
    for key, picture in zip(jax.random.split(jax.random.key(5), 6), out, strict=True):
        crop_key, flip_key = jax.random.split(key)
        top, left, height, width = np.asarray(draw_box(crop_key, jnp.asarray([200, 400])))
        box = (left, top, left + width, top + height)
        expected = np.asarray(original.resize((32, 32), Image.Resampling.BICUBIC, box), np.float32)
        flips.append(bool(jax.random.bernoulli(flip_key, shape=(2,))[0]))
        if flips[-1]:
            expected = expected[:, ::-1]
        assert np.abs(picture - expected).max() < 3.0
    assert 0 < sum(flips) < 6


def test_both_flips_are_independent():
    images, sizes = repeat(200, 32)
    plain = images[0] / 255
    out = run(images, sizes, horizontal_flip=True, vertical_flip=True)
    flips = [plain, plain[:, ::-1], plain[::-1], plain[::-1, ::-1]]
    counts = [(np.abs(out - flip).max(axis=(1, 2, 3)) < 1e-4).sum() for flip in flips]
    assert sum(counts) == 200
    assert min(counts) > 25


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="got interpolation 'box'; expected bilinear, bicubic"):
        run(noise(1, 8, 8, 3), [[8, 8]], interpolation="box")


def test_an_examples_result_depends_on_its_own_key_alone():
    images, sizes = pictures()
    first = run(images, sizes, **EVERYTHING)
    np.testing.assert_array_equal(first, run(images, sizes, **EVERYTHING))
    others = images.copy()
    others[[0, 1, 3, 4, 5]] = 255 - images[[5, 4, 3, 1, 0]]
    mixed_sizes = sizes[[4, 3, 2, 1, 0, 5]]
    np.testing.assert_array_equal(first[2], run(others, mixed_sizes, **EVERYTHING)[2])
    another_key = run(images, sizes, seed=1, **EVERYTHING)
    assert (np.abs(first - another_key).max(axis=(1, 2, 3)) > 0.05).all()
    alike = run(*repeat(6, 40), **EVERYTHING)
    assert all(np.abs(alike[i] - alike[i + 1]).max() > 0.05 for i in range(5))
    assert np.isfinite(first).all()


def test_the_draws_of_a_step_do_not_depend_on_the_other_steps():
    images, sizes = pictures()
    cropped = run(images, sizes, **CROPS)
    erased = run(images, sizes, **CROPS, erase=0.5)
    is_erased = (erased == 0).all(axis=-1) & (cropped != 0).any(axis=-1)
    assert 0 < is_erased.any(axis=(1, 2)).sum() < 6
    np.testing.assert_allclose(erased[~is_erased], cropped[~is_erased], rtol=0, atol=1e-6)
    everything = run(images, sizes, **EVERYTHING)
    assert (everything[is_erased] == 0).all()
    untouched = ~is_erased.any(axis=(1, 2))
    assert ((everything[untouched] == 0).all(axis=-1).mean(axis=(1, 2)) < 0.5).all()


def test_moves_come_before_colours():
    # The mean colour that fills the outside is made darker or brighter with the rest.
    images, sizes = np.full((50, 16, 16, 3), 200, np.uint8), np.full((50, 2), 16)
    mean = (0.2, 0.4, 0.6)
    options = {"mean": mean, "size": (16, 16), "shift": 1.0, "brightness": 0.5}
    out = run(images, sizes, **options) + np.asarray(mean, np.float32)
    for picture in out:
        factor = picture[..., 0].max() / (200 / 255)
        is_filled = np.abs(picture - factor * np.asarray(mean)).max(axis=-1) < 1e-3
        is_inside = np.abs(picture - factor * 200 / 255).max(axis=-1) < 1e-3
        if is_inside.any() and 0.5 < factor < 1.2:
            # The rest are blends of both, at the border.
            assert (is_filled | is_inside).mean() > 0.85


@pytest.mark.full
@pytest.mark.parametrize("policy", ["trivialaugment", "augmix"])
def test_a_policy_changes_the_pictures_and_stays_within_the_range(policy):
    images = noise(6, 32, 32, 3)
    out = run(images, np.full((6, 2), 32), policy=policy)
    assert 0 <= out.min() < out.max() <= 1
    assert (np.abs(out - images / 255).max(axis=(1, 2, 3)) > 0.02).mean() >= 0.5


def test_a_network_of_one_channel_gets_luma():
    images = noise(6, 32, 32, 3)
    gray = run(images, np.full((6, 2), 32), mean=(0.5,), std=(0.25,))
    luma = colour.luma(jnp.asarray(images / 255))
    assert gray.shape == (6, 32, 32, 1)
    np.testing.assert_allclose(gray, (luma - 0.5) / 0.25, rtol=0, atol=1e-4)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "augmix"])
def test_results_need_not_be_square(policy):
    images, sizes = pictures()
    traced = changed(EVERYTHING | {"size": (20, 28), "policy": policy})
    out = jax.eval_shape(traced, jax.random.key(0), images, sizes)
    assert (out.shape, out.dtype) == ((6, 20, 28, 3), jnp.float32)

"""Augmentation as a whole: its order, its keys, and what each option adds to it."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tl_jax.config import AugmentConfig
from tl_jax.data.augment import colour
from tl_jax.data.augment.augment import augment, normalize
from tl_jax.data.augment.geometry import crop_and_resize, random_box

ROOT = Path(__file__).parents[2]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
PLAIN = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
GIVEN = {
    "size": (32, 32),
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "interpolation": "bicubic",
}
EVERYTHING = {
    "scale": SCALE,
    "ratio": RATIO,
    "horizontal_flip": True,
    "rotation": 15.0,
    "zoom": (0.8, 1.2),
    "policy": "randaugment",
    "brightness": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "erase": 0.5,
}


def whole(changes: dict) -> functools.partial:
    """Returns `augment` with some of its values or options changed."""
    options = {name: value for name, value in changes.items() if name not in GIVEN}
    given = GIVEN | {name: value for name, value in changes.items() if name in GIVEN}
    return functools.partial(augment, options=dataclasses.replace(PLAIN, **options), **given)


@functools.cache
def compiled(**changes):
    return jax.jit(whole(changes))


def run(images, sizes, *, seed=0, **changes):
    out = compiled(**changes)(jax.random.key(seed), jnp.asarray(images), jnp.asarray(sizes))
    return np.asarray(out)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def same(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` times the same square image of noise, and its sizes."""
    images = np.broadcast_to(noise(*shape, 3), (count, *shape, 3))
    return images, np.full((count, 2), shape, np.int32)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 13), np.cos(x / 17 - y / 11), np.sin(y / 7)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_without_crop_and_flip_images_are_only_normalised(interpolation):
    images = noise(4, 32, 32, 3)
    out = run(images, np.full((4, 2), 32), mean=MEAN, std=STD, interpolation=interpolation)
    np.testing.assert_allclose(out, normalize(images, MEAN, STD), rtol=0, atol=1e-4)


def test_normalize_is_what_it_says():
    images = noise(2, 5, 4, 3)
    expected = (images.astype(np.float64) / 255 - MEAN) / STD
    out = normalize(images, MEAN, STD)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


def test_results_stay_within_the_range_of_pixels():
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    out = run(stripes, [[32, 32]], size=(80, 80))
    assert out.min() == 0
    assert out.max() == 1


def test_a_stretched_image_is_cut_as_the_original_would_be():
    # What the canvas loses is little where the image is smooth: the path by way of the canvas
    # gives the box of the original, at its original aspect ratio.
    original = smooth(200, 400)
    canvas = np.asarray(Image.fromarray(original).resize((256, 256), Image.Resampling.BICUBIC))
    options = {"scale": (0.3, 0.5), "ratio": RATIO, "size": (64, 64)}
    out = run(canvas[None], [[200, 400]], seed=5, **options)[0] * 255
    key = jax.random.split(jax.random.split(jax.random.key(5), 1)[0])[0]
    top, left, height, width = np.asarray(
        random_box(key, jnp.asarray([200, 400]), scale=(0.3, 0.5), ratio=RATIO)
    )
    theirs = Image.fromarray(original).resize(
        (64, 64), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    assert np.abs(out - np.asarray(theirs, np.float32)).max() < 2.0


def test_the_key_alone_decides():
    images, sizes = same(6, 40, 40)
    options = {"scale": SCALE, "ratio": RATIO, "horizontal_flip": True}
    first = run(images, sizes, **options)
    np.testing.assert_array_equal(first, run(images, sizes, **options))
    assert np.abs(first - run(images, sizes, seed=1, **options)).max() > 0.1
    for i in range(5):  # Each example has a key of its own.
        assert np.abs(first[i] - first[i + 1]).max() > 0.1


@pytest.mark.parametrize(
    ("option", "flip"),
    [("horizontal_flip", np.s_[:, ::-1]), ("vertical_flip", np.s_[::-1])],
)
def test_flips_flip_half_of_the_images(option, flip):
    images, sizes = same(200, 32, 32)
    plain = images[0] / 255
    out = run(images, sizes, **{option: True})
    kept = np.abs(out - plain).max(axis=(1, 2, 3)) < 1e-4
    flipped = np.abs(out - plain[flip]).max(axis=(1, 2, 3)) < 1e-4
    assert (kept ^ flipped).all()
    assert 70 < flipped.sum() < 130


def test_both_flips_are_independent():
    images, sizes = same(200, 32, 32)
    plain = images[0] / 255
    out = run(images, sizes, horizontal_flip=True, vertical_flip=True)
    turns = [plain, plain[:, ::-1], plain[::-1], plain[::-1, ::-1]]
    counts = [(np.abs(out - t).max(axis=(1, 2, 3)) < 1e-4).sum() for t in turns]
    assert sum(counts) == 200
    assert min(counts) > 25


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="got interpolation 'cubic'; expected bilinear, bicubic"):
        run(noise(1, 8, 8, 3), [[8, 8]], interpolation="cubic")


def test_the_module_needs_no_images_and_no_files():
    code = "import sys, tl_jax.data.augment.augment; print({'PIL', 'grain', 'tensorflow_datasets'} & set("
    code += "sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "set()"


# ---- keys and the options


def pictures(count: int, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Returns different pictures, of different original sizes."""
    rng = np.random.default_rng(1)
    return noise(count, side, side, 3), rng.integers(20, 90, (count, 2)).astype(np.int32)


def test_crops_and_flips_keep_the_draws_they_had():
    # Runs that were started before the other options came go on with the same bits.
    images, sizes = pictures(3)
    found = run(images, sizes, seed=7, scale=SCALE, ratio=RATIO, horizontal_flip=True)
    for image, size, key, out in zip(
        images, sizes, jax.random.split(jax.random.key(7), 3), found, strict=True
    ):
        crop_key, flip_key = jax.random.split(key)
        box = random_box(crop_key, jnp.asarray(size), scale=SCALE, ratio=RATIO)
        corner, extent = jnp.split(box * 40 / jnp.tile(size, 2), 2)
        expected = crop_and_resize(
            jnp.asarray(image), corner, extent, size=(32, 32), interpolation="bicubic"
        )
        if jax.random.bernoulli(flip_key, shape=(2,))[0]:
            expected = expected[:, ::-1]
        np.testing.assert_allclose(out, expected / 255, rtol=0, atol=1e-5)


def test_what_is_off_is_not_in_the_program():
    changes = {"fill": "wrap", "policy_operations": 5, "policy_magnitude": 3, "policy_severity": 1}
    changes |= {"blur_sigma": (1.0, 3.0), "erase_fill": "pixel", "erase_area": (0.1, 0.2)}
    images, sizes = pictures(2)
    key = jax.random.key(0)
    plain = compiled().lower(key, images, sizes).as_text()
    assert compiled(**changes).lower(key, images, sizes).as_text() == plain
    for option in ({"rotation": 1.0}, {"hue": 0.1}, {"blur": 0.1}, {"erase": 0.1}):
        assert len(compiled(**option).lower(key, images, sizes).as_text()) > len(plain)


def test_the_whole_is_decided_by_each_examples_key_alone():
    images, sizes = pictures(5)
    first = run(images, sizes, **EVERYTHING)
    np.testing.assert_array_equal(first, run(images, sizes, **EVERYTHING))
    changed = images.copy()
    changed[[0, 1, 3, 4]] = 255 - images[[4, 3, 1, 0]]
    np.testing.assert_array_equal(first[2], run(changed, sizes[[4, 3, 2, 1, 0]], **EVERYTHING)[2])
    others = run(images, sizes, seed=1, **EVERYTHING)
    assert (np.abs(first - others).max(axis=(1, 2, 3)) > 0.05).all()
    alike = run(*same(5, 40, 40), **EVERYTHING)
    assert all(np.abs(alike[i] - alike[i + 1]).max() > 0.05 for i in range(4))
    assert np.isfinite(first).all()


def test_each_step_draws_the_same_whatever_else_is_on():
    images, sizes = pictures(4)
    crops = {"scale": SCALE, "ratio": RATIO, "horizontal_flip": True}
    cropped = run(images, sizes, **crops)
    erased = run(images, sizes, **crops, erase=1.0)
    gone = (erased == 0).all(axis=-1)
    assert gone.any(axis=(1, 2)).all()
    np.testing.assert_allclose(erased[~gone], cropped[~gone], rtol=0, atol=1e-6)
    both = run(images, sizes, **crops, erase=1.0, brightness=0.4)
    np.testing.assert_array_equal((both == 0).all(axis=-1) | gone, (both == 0).all(axis=-1))


def test_moves_come_before_colours():
    # What is filled with the mean colour is made darker or brighter with the rest.
    images, sizes = np.full((50, 16, 16, 3), 200, np.uint8), np.full((50, 2), 16, np.int32)
    mean = (0.2, 0.4, 0.6)
    given = {"mean": mean, "size": (16, 16), "shift": 1.0, "brightness": 0.5}
    out = run(images, sizes, **given) + np.asarray(mean, np.float32)
    for picture in out:
        factor = picture[..., 0].max() / (200 / 255)
        filled = np.abs(picture - factor * np.asarray(mean)).max(axis=-1) < 1e-3
        kept = np.abs(picture - factor * 200 / 255).max(axis=-1) < 1e-3
        if kept.any() and 0.5 < factor < 1.2:
            assert (filled | kept).mean() > 0.85  # The rest are blends of both, at the border.


@pytest.mark.parametrize(
    "policy", ["trivialaugment", pytest.param("augmix", marks=pytest.mark.full)]
)
def test_a_policy_changes_the_pictures_and_stays_within_the_range(policy):
    images, sizes = pictures(8)
    out = run(images, sizes, policy=policy)
    assert 0 <= out.min() < out.max() <= 1
    assert (np.abs(out - run(images, sizes)).max(axis=(1, 2, 3)) > 0.02).mean() > 0.5


def test_a_network_of_one_channel_gets_luma():
    images, sizes = pictures(2)
    gray = run(images, sizes, mean=(0.5,), std=(0.25,), brightness=0.4)
    rgb = run(images, sizes, brightness=0.4)
    assert gray.shape == (2, 32, 32, 1)
    np.testing.assert_allclose(gray, (colour.gray(rgb) - 0.5) / 0.25, rtol=0, atol=1e-4)


def test_results_need_not_be_square():
    images, sizes = pictures(2)
    for policy in ("randaugment", "trivialaugment", "augmix"):
        made = whole(EVERYTHING | {"size": (20, 28), "policy": policy})
        out = jax.eval_shape(made, jax.random.key(0), images, sizes)
        assert (out.shape, out.dtype) == ((2, 20, 28, 3), jnp.float32)


@pytest.mark.parametrize(
    "field",
    [
        {"scale": (0.5, 1.5)},
        {"ratio": (2.0, 1.0)},
        {"rotation": -1.0},
        {"shear": 90.0},
        {"zoom": (0.0, 1.0)},
        {"shift": 15.0},
        {"fill": "mirror"},
        {"policy": "autoaugment"},
        {"policy_operations": 0},
        {"policy_magnitude": 31},
        {"policy_severity": 0},
        {"contrast": -0.1},
        {"hue": 0.6},
        {"grayscale": 1.1},
        {"blur": -0.1},
        {"blur_sigma": (0.0, 1.0)},
        {"erase_area": (0.5, 0.2)},
        {"erase_ratio": (0.0, 1.0)},
        {"erase_fill": "noise"},
    ],
)
def test_wrong_values_are_refused_and_named(field):
    with pytest.raises(
        ValueError, match=f"augment.*{next(iter(field))}.*(must be|are probabilities|expected)"
    ):
        AugmentConfig(**field)

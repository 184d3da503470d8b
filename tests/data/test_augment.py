"""Augmentation on the device: boxes by their definition, resampling as Pillow does it."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tl_jax.data.augment import augment, crop_and_resize, mixup, normalize, random_box

ROOT = Path(__file__).parents[2]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {
    "size": (32, 32),
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "horizontal_flip": False,
    "vertical_flip": False,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "interpolation": "bicubic",
}
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@functools.cache
def compiled(**changes):
    return jax.jit(functools.partial(augment, **(PLAIN | changes)))


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


@functools.partial(jax.jit, static_argnames=("scale", "ratio"))
def draw(keys, size, *, scale, ratio):
    return jax.vmap(lambda key: random_box(key, size, scale=scale, ratio=ratio))(keys)


def boxes(height: int, width: int, *, scale=SCALE, ratio=RATIO) -> np.ndarray:
    keys = jax.random.split(jax.random.key(1), 20_000)
    return np.asarray(draw(keys, jnp.asarray([height, width]), scale=scale, ratio=ratio))


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


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "box", [(0, 0, 256, 256), (10, 20, 200, 90), (100, 30, 40, 50), (206, 176, 50, 80)]
)
def test_crops_are_resized_as_pillow_does(interpolation, box):
    image = smooth(256, 256)
    top, left, height, width = box
    how = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    theirs = Image.fromarray(image).resize(
        (64, 48), how[interpolation], box=(left, top, left + width, top + height)
    )
    ours = crop_and_resize(
        jnp.asarray(image),
        jnp.asarray([top, left], jnp.float32),
        jnp.asarray([height, width], jnp.float32),
        size=(48, 64),
        interpolation=interpolation,
    )
    assert np.abs(np.asarray(ours) - np.asarray(theirs, np.float32)).max() < 1.5


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


def test_the_module_needs_nothing_but_jax():
    code = "import sys, tl_jax.data.augment; print({'PIL', 'grain', 'tensorflow_datasets'} & set("
    code += "sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "set()"


# ---- mixup


def mixed(alpha: float, *, seed: int = 0, count: int = 6):
    """Returns images and targets mixed, and the share of lambda that every example shows."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, 4, 5, 3)).astype(np.float32)
    targets = np.eye(count, dtype=np.float32)
    run = jax.jit(functools.partial(mixup, alpha=alpha))
    found = [np.asarray(x) for x in run(jax.random.key(seed), images, targets)]
    return images, targets, found, found[1][0, 0]


def test_mixup_adds_the_batch_in_reverse_with_one_share():
    images, targets, (found, soft), share = mixed(0.4)
    assert 0 < share < 1
    np.testing.assert_allclose(found, share * images + (1 - share) * images[::-1], atol=1e-6)
    np.testing.assert_allclose(soft, share * targets + (1 - share) * targets[::-1], atol=1e-6)


def test_mixup_is_timms():
    from experiments.torch_peer import import_timm

    import_timm()
    import torch
    from timm.data.mixup import mixup_target

    labels = np.array([2, 0, 1, 1, 0])
    smooth = np.eye(3, dtype=np.float32)[labels] * 0.9 + 0.1 / 3
    images = np.zeros((5, 2, 2, 3), np.float32)
    images[0] = 1
    found, soft = mixup(jax.random.key(3), images, jnp.asarray(smooth), 0.4)
    share = float(found[0, 0, 0, 0])
    expected = mixup_target(torch.tensor(labels), 3, lam=share, smoothing=0.1)
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    # Smoothed after it was mixed, as the loss does it, it is the same.
    _, hard = mixup(jax.random.key(3), images, jnp.eye(3)[labels], 0.4)
    np.testing.assert_allclose(optax.smooth_labels(hard, 0.1), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_the_share_has_the_betas_mean_and_variance(alpha):
    one = np.ones((1, 1, 1, 1), np.float32)
    images, targets = np.concatenate([one, 0 * one]), np.eye(2, dtype=np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    shares = jax.jit(jax.vmap(lambda key: mixup(key, images, targets, alpha)[0][0, 0, 0, 0]))(keys)
    np.testing.assert_allclose(shares.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.1)


def test_another_key_gives_another_share_and_the_same_key_the_same():
    shares = [mixed(0.4, seed=seed)[3] for seed in (0, 1, 2, 0)]
    assert len(set(shares)) == 3
    assert shares[0] == shares[3]


def test_mixup_of_alpha_zero_is_the_identity():
    images, targets, (found, soft), _ = mixed(0.0)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(soft, targets)


def test_mixup_keeps_the_types():
    images, targets = jnp.ones((2, 3, 3, 3), jnp.bfloat16), jnp.eye(2)
    found, soft = mixup(jax.random.key(0), images, targets, 1.0)
    assert (found.dtype, soft.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    ("targets", "alpha", "complaint"),
    [
        (np.eye(4, dtype=np.float32), -0.1, "alpha=-0.1"),
        (np.eye(4, dtype=np.float32), float("nan"), "alpha=nan"),
        (np.eye(3, dtype=np.float32), 0.1, r"float32\[3, 3\] for 4 images"),
        (np.arange(4), 0.1, r"int64\[4\] for 4 images"),
        (np.eye(4, dtype=np.int32), 0.1, r"int32\[4, 4\] for 4 images"),
    ],
)
def test_mixup_of_what_cannot_be_mixed_is_an_error(targets, alpha, complaint):
    with pytest.raises(ValueError, match=complaint):
        mixup(jax.random.key(0), np.zeros((4, 2, 2, 3), np.float32), targets, alpha)

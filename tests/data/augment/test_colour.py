"""Colours: each operation against torchvision or Pillow, and the draws of the jitter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageFilter, ImageOps

from experiments.torch_peer import import_timm
from tl_jax.data.augment import colour

import_timm()  # It makes torchvision importable where its compiled part is missing.
import torch  # noqa: E402
from torchvision.transforms import ColorJitter  # noqa: E402
from torchvision.transforms import functional as tv  # noqa: E402

SHAPE = (37, 29, 3)


def photo() -> np.ndarray:
    """Returns 8-bit values: noise over waves, with some gray pixels and both ends of the range."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x / 7 - y / 4), np.sin(y / 6)], axis=-1)
    noise = np.random.default_rng(0).normal(size=SHAPE)
    pixels = np.clip(120 + 90 * waves + 30 * noise, 0, 255).round().astype(np.uint8)
    pixels[:4] = pixels[:4, :, :1]
    return pixels


PHOTO = photo()


@functools.partial(jax.jit, static_argnums=0)
def compiled(function, image, *values):
    return function(image, *values)


def ours(function, *values) -> np.ndarray:
    return np.asarray(compiled(function, jnp.asarray(PHOTO, jnp.float32), *values))


def theirs(function, *values) -> np.ndarray:
    """Returns what torchvision makes of the photo in floats, which it does not round."""
    pixels = torch.tensor(PHOTO / 255.0, dtype=torch.float32).permute(2, 0, 1)
    return 255 * function(pixels, *values).permute(1, 2, 0).numpy()


# Torchvision's weights of luma are rounded to four digits and add up to 0.9999.
@pytest.mark.parametrize("factor", [0.0, 1.0, 1.9])
@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (colour.adjust_brightness, tv.adjust_brightness),
        (colour.adjust_contrast, tv.adjust_contrast),
        (colour.adjust_saturation, tv.adjust_saturation),
    ],
)
def test_blends_are_torchvisions(function, reference, factor):
    expected = theirs(reference, factor)
    np.testing.assert_allclose(ours(function, factor), expected, rtol=0, atol=0.06)


def test_the_hue_turns_as_torchvisions():
    rng = np.random.default_rng(0)
    amounts = np.concatenate([np.linspace(-0.5, 0.5, 25), rng.uniform(-0.5, 0.5, 75)])
    photos = rng.integers(0, 256, (len(amounts), 16, 16, 3), np.uint8)
    photos[:, :2] = photos[:, :2, :, :1]  # Gray, of one hue, and with two equal channels.
    photos[:, 2:4, :, 1:] = photos[:, 2:4, :, 1:2]
    photos[:, 4:6, :, 0] = photos[:, 4:6, :, 1]
    photos[:, 6, :, 1:], photos[:, 7, :4], photos[:, 7, 4:8] = 0, 0, 255
    images = jnp.asarray(photos, jnp.float32)
    turned = jax.jit(jax.vmap(colour.adjust_hue))(images, jnp.asarray(amounts, jnp.float32))
    for image, amount, result in zip(photos, amounts, np.asarray(turned), strict=True):
        pixels = torch.tensor(image / 255.0, dtype=torch.float32).permute(2, 0, 1)
        expected = 255 * tv.adjust_hue(pixels, float(np.float32(amount))).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(result, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_is_torchvisions(sigma):
    expected = theirs(tv.gaussian_blur, [23, 23], [sigma, sigma])
    np.testing.assert_allclose(ours(colour.gaussian_blur, sigma), expected, rtol=0, atol=0.01)


def test_a_small_image_is_blurred_too():
    flat = jnp.full((3, 5, 3), 77.0)
    blurred = compiled(colour.gaussian_blur, flat, 2.0)
    np.testing.assert_allclose(blurred, flat, rtol=0, atol=1e-3)


def test_gray_is_pillows():
    expected = np.asarray(Image.fromarray(PHOTO).convert("L"), np.float32)
    assert np.abs(ours(colour.luma)[..., 0] - expected).max() < 0.6


def test_smoothing_is_pillows():
    expected = Image.fromarray(PHOTO).filter(ImageFilter.SMOOTH)
    assert np.abs(ours(colour.smooth) - np.asarray(expected, np.float32)).max() < 0.6


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterizing_is_pillows(bits):
    expected = ImageOps.posterize(Image.fromarray(PHOTO), bits)
    np.testing.assert_array_equal(ours(colour.posterize, float(bits)), expected)


@pytest.mark.parametrize("threshold", [0, 100, 255, 256])
def test_solarizing_is_pillows(threshold):
    expected = ImageOps.solarize(Image.fromarray(PHOTO), threshold)
    np.testing.assert_array_equal(ours(colour.solarize, threshold), expected)


def test_equalizing_is_pillows():
    expected = ImageOps.equalize(Image.fromarray(PHOTO))
    np.testing.assert_array_equal(ours(colour.equalize), expected)


def test_an_image_of_few_pixels_is_not_equalized():
    few = jnp.asarray(PHOTO[5:10, 5:10], jnp.float32)
    expected = ImageOps.equalize(Image.fromarray(PHOTO[5:10, 5:10]))
    np.testing.assert_array_equal(compiled(colour.equalize, few), expected)


def test_autocontrast_is_torchvisions():
    low = PHOTO // 2 + 20
    actual = compiled(colour.autocontrast, jnp.asarray(low, jnp.float32))
    reference = tv.autocontrast(torch.tensor(low / 255.0, dtype=torch.float32).permute(2, 0, 1))
    np.testing.assert_allclose(actual, 255 * reference.permute(1, 2, 0), rtol=0, atol=0.01)
    flat = jnp.full((4, 4, 3), 9.0)
    np.testing.assert_array_equal(compiled(colour.autocontrast, flat), flat)


# ---- draws


@functools.cache
def jittering(**strengths):
    every = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | strengths
    one = functools.partial(colour.colour_jitter, **every)
    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def jittered(image: np.ndarray, count: int, **strengths) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jittering(**strengths)(keys, jnp.asarray(image, jnp.float32)))


def close_quantiles(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    """Says whether two samples have the same quantiles, up to a share of their spread."""
    at = np.linspace(0.05, 0.95, 19)
    distance = np.abs(np.quantile(ours, at) - np.quantile(theirs, at)).max()
    return distance < tolerance * np.ptp(np.quantile(theirs, [0.05, 0.95]))


def test_a_factor_is_uniform_about_one():
    factors = jittered(np.full((2, 2, 3), 100), 4000, brightness=0.4)[:, 0, 0, 0] / 100
    expected = np.random.default_rng(0).uniform(0.6, 1.4, 100_000)
    assert close_quantiles(factors, expected, 0.04)
    assert 0.6 <= factors.min() < factors.max() <= 1.4
    dark = jittered(np.full((2, 2, 3), 100), 4000, brightness=3.0)
    assert dark.min() < 1  # From 0, not from 1 - 3.


@pytest.mark.slow
def test_all_four_are_drawn_as_torchvisions():
    image = PHOTO[10:16, 10:16]
    strengths = {"brightness": 0.9, "contrast": 0.9, "saturation": 0.9, "hue": 0.4}
    actual = jittered(image, 4000, **strengths).reshape(4000, -1)
    pixels = torch.tensor(image / 255.0, dtype=torch.float32).permute(2, 0, 1)
    torch.manual_seed(0)
    reference = ColorJitter(**strengths)
    expected = 255 * torch.stack([reference(pixels).flatten() for _ in range(500)]).numpy()
    for statistic in (np.mean, np.std, np.max, np.min):
        # 0.077 is exceeded in one of a hundred cases.
        samples = [statistic(x, axis=1) for x in (actual, expected)]
        assert scipy.stats.ks_2samp(*samples).statistic < 0.09, statistic


def test_each_order_is_as_likely():
    # Black and white, brightened and of less contrast: where the white is cut off before the
    # contrast falls, the two add up to 255, and to more where it is cut off after.
    image = np.repeat(np.array([[[0], [255]]]), 3, axis=-1)
    actual = jittered(image, 4000, brightness=0.5, contrast=0.5)[:, 0, :, 0]
    total = actual.sum(axis=1)
    decided = total[(actual[:, 0] > 0.5) & (total > 254.9)]
    assert 0.2 < len(decided) / 4000 < 0.3
    assert 0.45 < (decided < 255.1).mean() < 0.55


def test_without_strength_the_jitter_keeps_every_bit():
    np.testing.assert_array_equal(jittered(PHOTO, 1)[0], PHOTO)
    # Factors of one, drawn from an interval of one point, as far as float32 resolves it.
    np.testing.assert_array_equal(jittered(PHOTO, 1, brightness=1e-12, saturation=1e-12)[0], PHOTO)


def test_grayscale_comes_as_often_as_asked():
    keys = jax.random.split(jax.random.key(3), 2000)
    one = functools.partial(colour.random_grayscale, probability=0.2)
    image = jnp.asarray(PHOTO[20:23, 20:23], jnp.float32)
    actual = np.asarray(jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, image))
    is_gray = (np.ptp(actual, axis=-1) == 0).all(axis=(1, 2))
    assert 0.17 < is_gray.mean() < 0.23
    np.testing.assert_array_equal(actual[~is_gray], np.broadcast_to(image, actual[~is_gray].shape))


def test_the_blur_comes_as_often_and_as_strong_as_asked():
    spike = jnp.zeros((45, 45, 3)).at[22, 22].set(255.0)
    keys = jax.random.split(jax.random.key(4), 1000)
    one = functools.partial(colour.random_blur, probability=0.3, sigma=(0.5, 2.0))
    actual = np.asarray(jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, spike))[..., 0]
    line = actual.sum(axis=1) / 255
    sigma = np.sqrt((line * (np.arange(45) - 22) ** 2).sum(axis=1))
    blurred = sigma > 0
    assert 0.26 < blurred.mean() < 0.34
    expected = np.random.default_rng(0).uniform(0.5, 2.0, 100_000)
    assert close_quantiles(sigma[blurred], expected, 0.1)

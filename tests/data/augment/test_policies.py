"""Policies: operations, magnitudes and draws against torchvision's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments.torch_peer import import_timm
from tl_jax.data.augment import geometry, policies
from tl_jax.data.augment.policies import OPERATIONS

import_timm()  # It makes torchvision importable where its compiled part is missing.
import torch  # noqa: E402
from torchvision.transforms import InterpolationMode, autoaugment  # noqa: E402

SIZE = (40, 56)
NAMES = dict(
    zip(
        OPERATIONS,
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness "
        "Posterize Solarize AutoContrast Equalize".split(),
        strict=True,
    )
)
SPACES = {
    "randaugment": (
        policies.rand_augment_space(SIZE, 9),
        autoaugment.RandAugment()._augmentation_space(31, SIZE),
    ),
    "trivialaugment": (
        policies.trivial_augment_space(),
        autoaugment.TrivialAugmentWide()._augmentation_space(31),
    ),
    "augmix": (
        policies.aug_mix_space(SIZE, 3),
        autoaugment.AugMix()._augmentation_space(10, SIZE),
    ),
}
BINS = {"randaugment": slice(9, 10), "trivialaugment": slice(None), "augmix": slice(0, 3)}


def photo(*size: int) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.stack([np.sin(x / 9 + y / 13), np.cos(x / 7 - y / 11), np.sin(y / 7)], axis=-1)
    return np.round(127.5 + 100 * waves).astype(np.uint8)


PHOTO = photo(*SIZE)


# Black: another colour torchvision mixes in twice where it meets the image.
BLACK = geometry.Fill("constant", jnp.zeros(3))


@jax.jit
def chained(image, operations, magnitudes):
    return policies.apply_operations(image, operations, magnitudes, fill=BLACK)


def ours(*steps: tuple[str, float]) -> np.ndarray:
    operations = jnp.asarray([OPERATIONS.index(name) for name, _ in steps])
    magnitudes = jnp.asarray([magnitude for _, magnitude in steps], jnp.float32)
    return np.asarray(chained(jnp.asarray(PHOTO, jnp.float32), operations, magnitudes))


def theirs(*steps: tuple[str, float]) -> np.ndarray:
    pixels = torch.tensor(PHOTO).permute(2, 0, 1)
    for name, magnitude in steps:
        pixels = autoaugment._apply_op(
            pixels, NAMES[name], magnitude, InterpolationMode.BILINEAR, None
        )
    return pixels.permute(1, 2, 0).numpy().astype(np.float32)


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [
        ("identity", 0.0),
        ("shear_x", 0.3),
        ("shear_x", -0.9),
        ("shear_y", 0.25),
        ("translate_x", 7.0),
        ("translate_y", -11.0),
        ("rotate", 30.0),
        ("rotate", -135.0),
        ("brightness", 0.6),
        ("brightness", -0.6),
        ("color", 0.9),
        ("contrast", -0.7),
        ("contrast", 0.7),
        ("sharpness", 0.9),
        ("sharpness", -0.9),
        ("posterize", 3.0),
        ("solarize", 100.0),
        ("autocontrast", 0.0),
        ("equalize", 0.0),
    ],
)
def test_operations_are_torchvisions(name, magnitude):
    # Torchvision cuts each result, and the gray or smooth image of a blend, down to 8 bits.
    difference = np.abs(ours((name, magnitude)) - theirs((name, magnitude)))
    assert difference.max() <= 2.0
    assert difference.mean() <= 1.0


@pytest.mark.parametrize(
    "steps",
    [
        [("rotate", 20.0), ("contrast", 0.5)],
        [("shear_x", 0.2), ("solarize", 128.0)],
        [("brightness", -0.4), ("posterize", 4.0)],
        [("equalize", 0.0), ("color", -0.5)],
    ],
)
def test_a_chain_is_its_operations_in_turn(steps):
    # A value at a threshold may fall to the other side of it.
    assert np.quantile(np.abs(ours(*steps) - theirs(*steps)), 0.98) <= 3.0


def test_two_moves_are_one_resampling():
    # Where no fill comes in, and up to what a second resampling blurs of a smooth picture.
    difference = np.abs(
        ours(("shear_x", 0.2), ("rotate", 25.0)) - theirs(("shear_x", 0.2), ("rotate", 25.0))
    )[12:-12, 20:-20]
    assert difference.max() < 2.5
    other = ours(("rotate", 25.0), ("shear_x", 0.2))[12:-12, 20:-20]
    assert np.abs(other - ours(("shear_x", 0.2), ("rotate", 25.0))[12:-12, 20:-20]).max() > 5


@pytest.mark.parametrize("name", OPERATIONS[:11])
def test_no_magnitude_is_the_identity_bit_by_bit(name):
    magnitude = 8.0 if name == "posterize" else 0.0
    np.testing.assert_array_equal(ours((name, magnitude)), PHOTO)


@pytest.mark.parametrize("policy", sorted(SPACES))
def test_magnitudes_are_torchvisions(policy):
    space, reference = SPACES[policy]
    assert {OPERATIONS[i] for i in space.operations} == {
        name for name in OPERATIONS if NAMES[name] in reference
    }
    for index, actual in zip(space.operations, space.magnitudes, strict=True):
        magnitudes, _ = reference[NAMES[OPERATIONS[index]]]
        expected = magnitudes.numpy()[BINS[policy]] if magnitudes.ndim else np.zeros_like(actual)
        if OPERATIONS[index].startswith("translate"):
            # As `_apply_op` does; torch's `linspace` ends up just below some whole numbers.
            expected = np.trunc(expected + 1e-4)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("policy", sorted(SPACES))
def test_operations_magnitudes_and_signs_are_drawn_evenly(policy):
    space, reference = SPACES[policy]
    count = 40_000
    operations, magnitudes = (
        np.asarray(x) for x in policies.draw_operations(jax.random.key(0), space, (count,))
    )
    for row, index in enumerate(space.operations):
        drawn = magnitudes[operations == index]
        assert abs(len(drawn) / count * len(space.operations) - 1) < 0.1
        levels = np.unique(np.abs(space.magnitudes[row]))
        np.testing.assert_array_equal(np.unique(np.abs(drawn)), levels)
        signed = reference[NAMES[OPERATIONS[index]]][1] and levels.max() > 0
        assert (0.4 < (drawn[drawn != 0] < 0).mean() < 0.6) if signed else drawn.min() >= 0


def mean_change(images: np.ndarray, original: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(images, np.float32) - original).mean(axis=(1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "reference"),
    [
        (functools.partial(policies.rand_augment, count=2, magnitude=9), autoaugment.RandAugment),
        pytest.param(
            policies.trivial_augment, autoaugment.TrivialAugmentWide, marks=pytest.mark.full
        ),
        pytest.param(
            functools.partial(policies.aug_mix, severity=3),
            autoaugment.AugMix,
            marks=pytest.mark.full,
        ),
    ],
)
def test_results_are_distributed_as_torchvisions(one, reference):
    image, count = photo(16, 16), 400
    keys = jax.random.split(jax.random.key(1), count)
    many = jax.jit(jax.vmap(functools.partial(one, fill=BLACK), in_axes=(0, None)))
    actual = many(keys, jnp.asarray(image, jnp.float32))
    torch.manual_seed(0)
    policy = reference(interpolation=InterpolationMode.BILINEAR)
    pixels = torch.tensor(image).permute(2, 0, 1)
    expected = torch.stack([policy(pixels) for _ in range(count)]).permute(0, 2, 3, 1).numpy()
    samples = [np.maximum(mean_change(images, image), 2) for images in (actual, expected)]
    # Two samples of one distribution differ by 0.12 at most in 99 of 100 cases. Besides, an
    # operation that is drawn in 1 of 14 cases may have one result, and ours is not rounded.
    assert scipy.stats.ks_2samp(*samples).statistic < 0.15


def test_a_first_move_is_composed_with_the_operations():
    @jax.jit
    def apply(image, first_move):
        shift = jnp.asarray([OPERATIONS.index("translate_x")]), jnp.asarray([4.0])
        return policies.apply_operations(image, *shift, first_move=first_move, fill=BLACK)

    square = jnp.asarray(photo(30, 30), jnp.float32)
    actual = apply(square, geometry.rotating(np.pi / 2))
    expected = apply(jnp.rot90(square), jnp.eye(3))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.05)

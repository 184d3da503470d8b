"""Random erasing: rectangles distributed as timm's, and what they are painted with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.torch_peer import import_timm
from tl_jax.data.augment.erasing import erase

import_timm()
import torch  # noqa: E402
from timm.data.random_erasing import RandomErasing  # noqa: E402

SIZE = (24, 36)
COUNT = 2000


@functools.partial(jax.jit, static_argnames="fill")
def erase_many(keys, image, probability, area, ratio, fill):
    def erase_one(key):
        return erase(key, image, probability=probability, area=area, ratio=ratio, fill=fill)

    return jax.vmap(erase_one)(keys)


@functools.cache
def erased(probability=1.0, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), fill="const") -> np.ndarray:
    """Returns images [COUNT, H, W, 3] of sevens, erased."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    images = erase_many(keys, jnp.full((*SIZE, 3), 7.0), probability, area, ratio, fill)
    return np.asarray(images)


def test_rectangles_are_distributed_as_timms():
    ours = (erased() == 0).all(axis=-1)
    torch.manual_seed(0)
    reference = RandomErasing(probability=1.0, device="cpu")
    theirs = reference(torch.full((COUNT, 3, *SIZE), 7.0)).permute(0, 2, 3, 1).numpy()
    theirs = (theirs == 0).all(axis=-1)
    for measure in (
        lambda x: x.mean(axis=(1, 2)),
        lambda x: x.any(axis=2).sum(axis=1),
        lambda x: x.any(axis=1).sum(axis=1),
        lambda x: x.any(axis=2).argmax(axis=1),
        lambda x: x.any(axis=1).argmax(axis=1),
    ):  # 0.052 is exceeded in one of a hundred cases.
        assert scipy.stats.ks_2samp(measure(ours), measure(theirs)).statistic < 0.06


def test_one_whole_rectangle_is_erased_and_no_other_pixel():
    images = erased()
    gone = (images == 0).all(axis=-1)
    assert set(np.unique(images)) == {0, 7}
    rows, columns = gone.any(axis=2), gone.any(axis=1)
    np.testing.assert_array_equal(gone, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert (np.abs(np.diff(line.astype(int), axis=1)).sum(axis=1) <= 2).all()


def test_it_comes_as_often_as_asked():
    touched = (erased(probability=0.25) != 7).any(axis=(1, 2, 3))
    assert 0.22 < touched.mean() < 0.28
    np.testing.assert_array_equal(erased(probability=0.0), 7)


def test_noise_is_normal_and_one_for_each_pixel():
    values = erased(fill="pixel")
    values = values[values != 7][:20_000]
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert len(np.unique(values)) > 0.99 * len(values)


def test_a_random_colour_is_one_for_each_rectangle():
    images = erased(fill="rand")
    gone = (images != 7).all(axis=-1)[..., None]
    low = np.where(gone, images, np.inf).min(axis=(1, 2))
    np.testing.assert_array_equal(low, np.where(gone, images, -np.inf).max(axis=(1, 2)))
    assert np.abs(low.mean(axis=0)).max() < 0.2
    assert np.abs(low.std(axis=0) - 1).max() < 0.2


def test_what_does_not_fit_is_not_erased():
    # As high and as wide as the image, or wider.
    for ratio in (SIZE[0] / SIZE[1], 0.4):
        np.testing.assert_array_equal(erased(area=(1.0, 1.0), ratio=(ratio, ratio)), 7)

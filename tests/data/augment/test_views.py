"""Augmentation of several views: each as one image with its own key, and what is handed on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.config import AugmentConfig
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.preprocess import Preprocess

PREPROCESS = Preprocess(size=(8, 8))
OPTIONS = AugmentConfig(brightness=0.4, erase=0.5)
MASK = [[True, True, False], [True, False, True]]


@pytest.fixture(scope="module")
def augment_fn():
    return jax.jit(make_augment_fn(OPTIONS, PREPROCESS))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    mask = np.asarray(MASK)
    images = rng.integers(0, 256, (2, 3, 12, 12, 3), np.uint8)
    return {
        "image": jnp.asarray(images * mask[..., None, None, None]),
        "size": jnp.asarray(rng.integers(20, 40, (2, 3, 2)) * mask[..., None], jnp.int32),
        "view_mask": jnp.asarray(mask),
        "label": jnp.zeros(2, jnp.int32),
    }


@pytest.fixture(scope="module")
def augmented(augment_fn, batch):
    return augment_fn(jax.random.key(0), batch)


def test_views_keep_their_places(augmented):
    assert augmented.keys() == {"image", "view_mask"}
    assert augmented["image"].shape == (2, 3, 8, 8, 3)
    assert augmented["view_mask"].tolist() == MASK


def test_equal_views_are_augmented_differently_and_do_not_depend_on_each_other(augment_fn, batch):
    same = {
        **batch,
        "image": jnp.broadcast_to(batch["image"][:, :1], batch["image"].shape),
        "size": jnp.broadcast_to(batch["size"][:, :1], batch["size"].shape),
        "view_mask": jnp.ones((2, 3), bool),
    }
    images = np.asarray(augment_fn(jax.random.key(1), same)["image"])
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert not np.allclose(images[:, first], images[:, second])
    changed = {**same, "image": same["image"].at[:, 1].set(0)}
    others = np.asarray(augment_fn(jax.random.key(1), changed)["image"])
    np.testing.assert_array_equal(others[:, ::2], images[:, ::2])


def test_missing_views_are_the_mean_colour_and_finite(augmented):
    images, mask = np.asarray(augmented["image"]), np.asarray(MASK)
    assert np.isfinite(images).all()
    assert not images[~mask].any()
    assert all(view.any() for view in images[mask])


def test_further_inputs_are_handed_on_as_they_are():
    fn = make_augment_fn(OPTIONS, PREPROCESS)
    batch = {
        "image": jax.ShapeDtypeStruct((2, 12, 12, 3), jnp.uint8),
        "size": jax.ShapeDtypeStruct((2, 2), jnp.int32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    key = jax.random.key(0)
    assert jax.eval_shape(fn, key, batch).shape == (2, 8, 8, 3)
    batch |= {
        "numeric": jax.ShapeDtypeStruct((2, 4), jnp.float32),
        "categorical": jax.ShapeDtypeStruct((2, 1), jnp.int32),
        "tokens": jax.ShapeDtypeStruct((2, 5), jnp.int32),
        "vector": jax.ShapeDtypeStruct((2, 7), jnp.float32),
    }
    result = jax.eval_shape(fn, key, batch)
    assert result.keys() == {"image", "numeric", "categorical", "tokens", "vector"}
    assert result["image"].shape == (2, 8, 8, 3)
    assert result["tokens"] == batch["tokens"]

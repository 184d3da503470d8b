"""Evaluation of a split: every example counts once, whatever the batch, or nothing is reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tl_jax.data.loading import host_batches
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.views import Views
from tl_jax.training import sharding
from tl_jax.training.evaluator import Measure


class Brightness(nn.Module):
    """Says 1 for images brighter than the middle, 0 for others."""

    @nn.compact
    def __call__(self, x, *, train=False):
        mean = x.mean((1, 2, 3))
        return jnp.stack([-mean, mean], axis=1)


class Grays:
    """`count` gray images, of label 1 where bright; every third label is wrong."""

    name, split, class_names, skipped = "grays", "all", ("dark", "bright"), ()

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        bright = i % 2
        image = np.full((8, 8, 3), 200 if bright else 50, np.uint8)
        return {"image": image, "label": bright if i % 3 else 1 - bright}


class Rings(Grays):
    """One bright image with a dark middle."""

    def __init__(self):
        super().__init__(1)

    def __getitem__(self, i):
        image = np.full((16, 16, 3), 250, np.uint8)
        image[4:12, 4:12] = 80
        return {"image": image, "label": 1}


PREPROCESS = Preprocess(size=(8, 8), crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)


MESH = sharding.data_mesh(jax.devices()[:1])


def measure(batch_size):
    return Measure(Brightness(), PREPROCESS, mesh=MESH, batch_size=batch_size)


@pytest.mark.parametrize("count", [1, 3, 7, 8, 13])
def test_every_example_counts_once(count):
    found, confusion = measure(4)({}, Grays(count))
    wrong = len(range(0, count, 3))
    assert found["count"] == confusion.sum() == count
    assert found["accuracy"] == pytest.approx((count - wrong) / count)


def test_a_loader_that_drops_examples_is_found_out(monkeypatch):
    whole = host_batches.eval_batches

    def without_the_last(*args, **kwargs):
        return list(whole(*args, **kwargs))[:-1]

    monkeypatch.setattr(host_batches, "eval_batches", without_the_last)
    with pytest.raises(RuntimeError, match="counted 4 of the 7"):
        measure(4)({}, Grays(7))


def test_several_views_are_cut_from_what_one_view_drops():
    half = dataclasses.replace(PREPROCESS, crop_pct=0.5)
    one = Measure(Brightness(), half, mesh=MESH, batch_size=2)
    five = Measure(Brightness(), half, mesh=MESH, batch_size=2, views=Views(crops=5))
    assert one({}, Rings())[0]["accuracy"] == 0
    assert five({}, Rings())[0]["accuracy"] == 1

"""Tests of layers that drop at random: what they drop, and that the mean stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.torch_layers import KEY, maps
from tl_jax.models import layers

timm = import_timm()


def dropped(layer, x: jax.Array) -> np.ndarray:
    """Returns the layer's output in training mode."""
    return np.asarray(jax.jit(lambda x: layer.apply({}, x, train=True, rngs={"dropout": KEY}))(x))


def test_dropout_keeps_the_mean_and_drops_single_values():
    y = dropped(layers.Dropout(0.25), jnp.ones((64, 500)))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.02
    assert np.all((y == 0).any(1))


def test_drop_path_drops_whole_examples():
    y = dropped(layers.DropPath(0.25), jnp.ones((400, 2, 2, 3)))
    kept = y[:, 0, 0, 0] > 0
    assert 0.65 < kept.mean() < 0.85
    np.testing.assert_allclose(y[kept], 4 / 3, rtol=1e-6)
    np.testing.assert_array_equal(y[~kept], 0)


@pytest.mark.parametrize("layer", [layers.Dropout, layers.DropPath, layers.DropBlock])
def test_nothing_is_dropped_in_evaluation_mode_or_at_rate_0_and_no_key_is_needed(layer):
    x = maps(1, 8, 8, 2)
    assert layer(0.5).apply({}, x, train=False) is x
    assert layer(0.0).apply({}, x, train=True) is x


@pytest.mark.parametrize("size, block", [((24, 24), 7), ((24, 20), 4), ((3, 2), 7)])
def test_drop_block_drops_squares_in_all_channels_and_keeps_the_mean(size, block):
    y = dropped(layers.DropBlock(0.2, block), jnp.ones((64, *size, 3)))
    np.testing.assert_array_equal(y[..., 0], y[..., 2])
    kept = y[..., 0] > 0
    assert y.mean() == pytest.approx(1.0, abs=1e-5)
    # As many seeds as timm's: what they drop together is the same share, within its spread.
    torch.manual_seed(0)
    peer = timm.layers.DropBlock2d(0.2, block).train()
    theirs = (peer(torch.ones(64, 3, *size)) > 0).float().mean().item()
    assert kept.mean() == pytest.approx(theirs, abs=0.06)
    if min(size) > block:
        first = np.argwhere(~kept[:, block:-block, block:-block])[0] + (0, block, block)
        around = ~kept[first[0]]
        runs = [
            around[first[1] - i : first[1] - i + block, first[2] - j : first[2] - j + block].all()
            for i in range(block)
            for j in range(block)
        ]
        assert any(runs)

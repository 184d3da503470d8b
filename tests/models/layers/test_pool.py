"""Tests of pooling and blurring against torch's and timm's."""

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.torch_layers import maps, nchw, nhwc
from tl_jax.models import layers

timm = import_timm()

# Window, stride, padding, ceil_mode.
WINDOWS = [
    (2, 2, 0, False),
    (2, 2, 0, True),
    (3, 2, 1, False),
    (3, 2, 1, True),
    (3, 1, 1, False),
    (3, 2, 0, True),
    (3, 3, 1, True),
]


def assert_equal(pairs: dict, x: np.ndarray) -> None:
    """Compares pairs (layer, module) by name; ours run as one program."""
    ours = jax.jit(lambda x: {name: layer.apply({}, x) for name, (layer, _) in pairs.items()})(x)
    for name, y in ours.items():
        expected = nhwc(pairs[name][1](nchw(x)))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6, err_msg=str(name))


@pytest.mark.parametrize("size", [(8, 9), (7, 5), (11, 12)])
def test_pools_equal_torchs(size):
    pairs = {}
    for window in WINDOWS:
        *sizes, ceil_mode = window
        theirs = torch.nn.MaxPool2d(*sizes, ceil_mode=ceil_mode)
        pairs["max", window] = layers.MaxPool(*sizes, ceil_mode), theirs
        for counted in (True, False):
            theirs = torch.nn.AvgPool2d(*sizes, ceil_mode, counted)
            pairs["average", window, counted] = layers.AvgPool(*window, counted), theirs
    assert_equal(pairs, maps(2, *size, 3) - 10)  # Below 0, where a padded zero would win.


@pytest.mark.parametrize("size", [(8, 9), (7, 5)])
def test_pools_that_pad_as_tensorflow_equal_timms(size):
    pool = timm.layers.pool2d_same
    pairs = {
        "max": (layers.MaxPool(3, 2, "same"), pool.MaxPool2dSame(3, 2)),
        "average": (layers.AvgPool(3, 2, "same"), pool.AvgPool2dSame(3, 2)),
    }
    assert_equal(pairs, maps(2, *size, 3))


def test_blur_equals_timms():
    pairs = {
        (stride, window): (
            layers.BlurPool(stride, window),
            timm.layers.BlurPool2d(3, window, stride),
        )
        for stride, window in [(2, 3), (1, 3), (2, 5)]
    }
    assert_equal(pairs, maps(2, 8, 9, 3))


def test_adaptive_average_equals_torchs():
    sizes = [(7, 7), (3, 4), (9, 8), (1, 1)]
    xs = {size: maps(2, *size, 3) for size in sizes}
    average = jax.jit(lambda xs: [layers.adaptive_average(xs[size], (7, 7)) for size in sizes])
    for size, y in zip(sizes, average(xs), strict=True):
        expected = torch.nn.functional.adaptive_avg_pool2d(nchw(xs[size]), (7, 7))
        np.testing.assert_allclose(y, nhwc(expected), atol=1e-6)

"""ResNetV2: each of its normalisations keeps the types of the computation."""

import jax
import jax.numpy as jnp
import pytest

from tests.support.families import PAIRS
from tests.support.peers import check_bfloat16
from tl_jax.models import layers

NORMS = [layers.BatchNorm, layers.GroupNorm, layers.EvoNormS0, layers.FilterResponseNorm]


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_maps_and_float32_logits(norm):
    model = PAIRS["bit"].network.clone(norm=norm, in_channels=1)
    _, feature_map = check_bfloat16(model, jax.ShapeDtypeStruct((2, 35, 47, 1), jnp.float32))
    assert feature_map.shape == (2, 5, 6, 256)

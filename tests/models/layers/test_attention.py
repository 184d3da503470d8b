"""Tests of channel attention against timm's, and of the rounding of widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.torch_layers import KEY, converted, maps, nchw, nhwc
from tl_jax.models import layers

timm = import_timm()


def test_attentions_equal_timms():
    squeeze = timm.layers.squeeze_excite
    torch.manual_seed(0)
    pairs = {
        "se": (layers.SEModule(ratio=0.25), squeeze.SEModule(32, rd_ratio=0.25)),
        "se, reduced": (
            layers.SEModule(5, act=layers.silu, gate=layers.hard_sigmoid),
            squeeze.SEModule(32, rd_channels=5, act_layer=torch.nn.SiLU, gate_layer="hard_sigmoid"),
        ),
        "effective se": (layers.EffectiveSE(), squeeze.EffectiveSEModule(32)),
        "eca": (layers.EfficientChannelAttention(), timm.layers.EcaModule(32)),
        "eca, 5": (layers.EfficientChannelAttention(5), timm.layers.EcaModule(kernel_size=5)),
        "context": (layers.GlobalContext(), timm.layers.GlobalContext(32)),
    }
    x = maps(2, 5, 7, 32)
    variables = {name: converted(layer, module, x) for name, (layer, module) in pairs.items()}
    run = jax.jit(lambda v, x: {name: pairs[name][0].apply(v[name], x) for name in pairs})
    for name, y in run(variables, x).items():
        expected = nhwc(pairs[name][1](nchw(x)))
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("channels, size", [(64, 3), (128, 5), (256, 5), (2048, 7)])
def test_the_kernel_of_eca_grows_as_timms(channels, size):
    shapes = jax.eval_shape(
        layers.EfficientChannelAttention().init, KEY, jnp.zeros((1, 2, 2, channels))
    )
    assert shapes["params"]["conv"]["kernel"].shape == (size, 1, 1)
    assert timm.layers.EcaModule(channels).conv.kernel_size == (size,)


@pytest.mark.parametrize("width", [3.0, 10.6, 17.0, 36.5, 99.9, 24 * 0.35])
@pytest.mark.parametrize("round_limit", [0.0, 0.9])
def test_widths_are_rounded_as_timms(width, round_limit):
    theirs = timm.layers.make_divisible(width, 8, round_limit=round_limit)
    assert layers.make_divisible(width, 8, round_limit=round_limit) == theirs

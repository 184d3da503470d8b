"""Tests of convolutions and their gradients against torch's and timm's.

What is compared in one test is compiled as one program, which takes most of the time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.torch_layers import KEY, converted, maps, nchw, nhwc
from tl_jax.models import layers

timm = import_timm()
pytestmark = pytest.mark.usefixtures("without_and_with_onednn")


def assert_equal(pairs: dict, size: tuple[int, int]) -> None:
    """Compares outputs and gradients of pairs (layer, module) by name, on maps of 8 channels."""
    x = maps(2, *size, 8)
    variables = {name: converted(layer, module, x) for name, (layer, module) in pairs.items()}

    @jax.jit
    def run(variables, x):
        def loss(name, variables, x):
            y = pairs[name][0].apply(variables, x)
            return jnp.sum(jnp.square(y)), y

        grad = jax.grad(loss, argnums=(1, 2), has_aux=True)
        return {name: grad(name, variables[name], x) for name in pairs}

    for name, ((of_variables, of_x), y) in run(variables, x).items():
        module, tensor = pairs[name][1], nchw(x).requires_grad_()
        expected = module(tensor)
        expected.square().sum().backward()
        kernel = np.moveaxis(np.asarray(of_variables["params"]["kernel"]), (-1, -2), (0, 1))
        for what, ours, theirs in (
            ("output", y, nhwc(expected)),
            ("gradient of the map", of_x, nhwc(tensor.grad)),
            ("gradient of the kernel", kernel, module.weight.grad.numpy()),
        ):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-4, atol=2e-5 * scale, err_msg=f"{name}: {what}"
            )


# Side of the kernel, stride, groups. The map has an odd and an even side, which padding tells apart
# where the stride is 2.
SHAPES = [(3, 1, 1), (3, 2, 1), (5, 2, 8), (3, 1, 8), (1, 2, 1), (1, 1, 4), (3, 2, 2)]


@pytest.mark.parametrize("padding", ["symmetric", "same", 0])
def test_conv_and_its_gradients_equal_torchs(padding):
    timms = {"symmetric": "", "same": "same", 0: "valid"}[padding]
    torch.manual_seed(0)
    pairs = {
        (side, stride, groups): (
            layers.Conv(8, side, stride, padding, groups, use_bias=True),
            timm.layers.create_conv2d(
                8, 8, side, stride=stride, padding=timms, groups=groups, bias=True
            ),
        )
        for side, stride, groups in SHAPES
    }
    assert_equal(pairs, (7, 10))


def test_special_convolutions_and_their_gradients_equal_timms():
    std = timm.layers.std_conv
    torch.manual_seed(0)
    pairs = {
        "standardised": (layers.StdConv(6, 3, 2), std.StdConv2d(8, 6, 3, 2)),
        "scaled": (
            layers.ScaledStdConv(6, 3, 2, use_bias=True, gamma=1.7, groups=2),
            std.ScaledStdConv2d(8, 6, 3, 2, gamma=1.7, groups=2),
        ),
        "scaled, same": (
            layers.ScaledStdConv(6, 3, 2, "same", use_bias=True),
            std.ScaledStdConv2dSame(8, 6, 3, 2),
        ),
        "rectangular": (
            layers.Conv(6, (1, 7), padding=(0, 3)),
            torch.nn.Conv2d(8, 6, (1, 7), padding=(0, 3), bias=False),
        ),
        "rectangular, symmetric": (
            layers.Conv(6, (3, 1), 2),
            torch.nn.Conv2d(8, 6, (3, 1), 2, padding=(1, 0), bias=False),
        ),
        "multiplied channels": (
            layers.Conv(16, 3, groups=8),
            torch.nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False),
        ),
    }
    assert_equal(pairs, (9, 12))


def test_symmetric_padding_is_not_same_padding():
    x = maps(1, 8, 8, 3)
    conv = layers.Conv(4, 3, 2)
    variables = conv.init(KEY, x)
    same = layers.Conv(4, 3, 2, "same").apply(variables, x)
    assert not np.allclose(conv.apply(variables, x), same, atol=0.1)


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match="8 input and 9 output channels; both must be multiples"):
        layers.Conv(9, 3, groups=2, name="c").init(KEY, maps(1, 4, 4, 8))

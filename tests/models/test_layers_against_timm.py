"""Norms, pools, attentions and special convolutions against torch's and timm's own layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.weights.state_dict import torch_key

timm = import_timm()
KEY = jax.random.key(0)


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.0, size=shape).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for value in [
        *module.parameters(),
        *(b for b in module.buffers() if b.dtype.is_floating_point),
    ]:
        torch.nn.init.uniform_(value, 0.2, 1.0)


def converted(layer, module: torch.nn.Module, x: np.ndarray, **kwargs) -> dict:
    """Returns the module's parameters and buffers as the layer's variables; all must be used."""
    state_dict = {k: v.numpy().copy() for k, v in module.state_dict().items()}
    shapes = jax.eval_shape(functools.partial(layer.init, KEY, **kwargs), x)
    flat = {}
    for path, leaf in trees.flatten(shapes).items():
        value = state_dict.pop(torch_key(path))
        if path[-1] == "kernel":
            value = np.moveaxis(value, (0, 1), (-1, -2))
        assert value.shape == leaf.shape, path
        flat[path] = jnp.asarray(value)
    assert {key for key in state_dict if not key.endswith("num_batches_tracked")} <= {"filt"}
    return trees.unflatten(flat)


def norms() -> dict:
    evo, frn, norm = timm.layers.evo_norm, timm.layers.filter_response_norm, timm.layers.norm
    return {
        "group": (layers.GroupNorm(groups=4), norm.GroupNorm(8, 4)),
        "group size": (
            layers.GroupNorm(group_size=2, epsilon=1e-3),
            norm.GroupNorm(8, 4, eps=1e-3),
        ),
        "layer": (layers.LayerNorm(), norm.LayerNorm2d(8)),
        "rms": (layers.RmsNorm(), norm.RmsNorm2d(8)),
        "evo b0": (layers.EvoNormB0(), evo.EvoNorm2dB0(8)),
        "evo b0, affine": (layers.EvoNormB0(activate=False), evo.EvoNorm2dB0(8, apply_act=False)),
        "evo s0": (layers.EvoNormS0(groups=4), evo.EvoNorm2dS0(8, groups=4)),
        "evo s0, affine": (
            layers.EvoNormS0(groups=4, activate=False),
            evo.EvoNorm2dS0(8, groups=4, apply_act=False),
        ),
        "evo s0a, affine": (
            layers.EvoNormS0(groups=4, activate=False, always_normalise=True, epsilon=1e-3),
            evo.EvoNorm2dS0a(8, groups=4, apply_act=False),
        ),
        "filter response": (layers.FilterResponseNorm(), frn.FilterResponseNormTlu2d(8)),
        "filter response, act": (
            layers.FilterResponseNorm(threshold=False, act=layers.relu),
            frn.FilterResponseNormAct2d(8),
        ),
    }


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", norms())
def test_norms_equal_timms(name, train):
    layer, module = norms()[name]
    randomise(module)
    x = maps(3, 5, 7, 8)
    variables = converted(layer, module, x, train=False)
    ours, updated = layer.apply(variables, x, train=train, mutable=["batch_stats"])
    theirs = module.train(train)(nchw(x))
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=2e-5, atol=2e-6)
    for key, value in trees.flatten(updated.get("batch_stats", {})).items():
        np.testing.assert_allclose(value, getattr(module, f"running_{key[-1]}"), rtol=1e-5)


def test_groups_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="8 channels do not divide into 3 groups"):
        layers.GroupNorm(groups=3).init(KEY, maps(1, 4, 4, 8))


def attentions() -> dict:
    squeeze = timm.layers.squeeze_excite
    return {
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


@pytest.mark.parametrize("name", attentions())
def test_attentions_equal_timms(name):
    layer, module = attentions()[name]
    x = maps(2, 5, 7, 32)
    theirs = module(nchw(x))
    np.testing.assert_allclose(
        layer.apply(converted(layer, module, x), x), nhwc(theirs), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("channels, size", [(64, 3), (128, 5), (256, 5), (2048, 7)])
def test_the_kernel_of_eca_grows_as_timms(channels, size):
    shapes = jax.eval_shape(
        layers.EfficientChannelAttention().init, KEY, jnp.zeros((1, 2, 2, channels))
    )
    assert shapes["params"]["conv"]["kernel"].shape == (size, 1, 1)
    assert timm.layers.EcaModule(channels).conv.kernel_size == (size,)


def convolutions() -> dict:
    std = timm.layers.std_conv
    return {
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


@pytest.mark.parametrize("name", convolutions())
def test_convolutions_and_their_gradients_equal_timms(name):
    layer, module = convolutions()[name]
    x = maps(2, 9, 12, 8)
    variables, tensor = converted(layer, module, x), nchw(x).requires_grad_()
    theirs = module(tensor)
    theirs.square().sum().backward()
    ours, gradients = jax.value_and_grad(
        lambda v, x: jnp.sum(jnp.square(layer.apply(v, x))), argnums=(0, 1)
    )(variables, x)
    np.testing.assert_allclose(layer.apply(variables, x), nhwc(theirs), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours, theirs.square().sum().item(), rtol=1e-5)
    np.testing.assert_allclose(gradients[1], nhwc(tensor.grad), rtol=1e-3, atol=1e-4)
    kernel = np.moveaxis(np.asarray(gradients[0]["params"]["kernel"]), (-1, -2), (0, 1))
    np.testing.assert_allclose(kernel, module.weight.grad, rtol=1e-3, atol=1e-3)


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match="8 input and 9 output channels do not divide into 2"):
        layers.Conv(9, 3, groups=2, name="c").init(KEY, maps(1, 4, 4, 8))


@pytest.mark.parametrize("size", [(8, 9), (7, 5), (11, 12)])
@pytest.mark.parametrize(
    "window, stride, padding, ceil_mode",
    [(2, 2, 0, False), (2, 2, 0, True), (3, 2, 1, False), (3, 2, 1, True), (3, 1, 1, False),
     (3, 2, 0, True), (3, 3, 1, True)],
)  # fmt: skip
def test_pools_equal_torchs(size, window, stride, padding, ceil_mode):
    x = maps(2, *size, 3)
    ours = layers.MaxPool(window, stride, padding, ceil_mode).apply({}, x)
    theirs = torch.nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode)(nchw(x))
    np.testing.assert_array_equal(ours, nhwc(theirs))
    for counted in (True, False):
        ours = layers.AvgPool(window, stride, padding, ceil_mode, counted).apply({}, x)
        theirs = torch.nn.AvgPool2d(window, stride, padding, ceil_mode, counted)(nchw(x))
        np.testing.assert_allclose(ours, nhwc(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 9), (7, 5)])
def test_pools_that_pad_as_tensorflow_equal_timms(size):
    x = maps(2, *size, 3)
    pool = timm.layers.pool2d_same
    ours = layers.MaxPool(3, 2, "same").apply({}, x)
    np.testing.assert_array_equal(ours, nhwc(pool.MaxPool2dSame(3, 2)(nchw(x))))
    ours = layers.AvgPool(3, 2, "same").apply({}, x)
    np.testing.assert_allclose(ours, nhwc(pool.AvgPool2dSame(3, 2)(nchw(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride, window", [(2, 3), (1, 3), (2, 5)])
def test_blur_equals_timms(stride, window):
    x = maps(2, 8, 9, 3)
    theirs = timm.layers.BlurPool2d(3, window, stride)(nchw(x))
    ours = layers.BlurPool(stride, window).apply({}, x)
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size, block", [((24, 24), 7), ((24, 20), 4), ((3, 2), 7)])
def test_drop_block_drops_squares_in_all_channels_and_keeps_the_mean(size, block):
    layer, x = layers.DropBlock(0.2, block), jnp.ones((64, *size, 3))
    y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": KEY}))
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


def test_drop_block_does_nothing_in_evaluation_or_at_rate_0():
    x = maps(1, 8, 8, 2)
    assert layers.DropBlock(0.5).apply({}, x, train=False) is x
    assert layers.DropBlock(0.0).apply({}, x, train=True) is x


@pytest.mark.parametrize("width", [3.0, 10.6, 17.0, 36.5, 99.9, 24 * 0.35])
@pytest.mark.parametrize("round_limit", [0.0, 0.9])
def test_widths_are_rounded_as_timms(width, round_limit):
    theirs = timm.layers.make_divisible(width, 8, round_limit=round_limit)
    assert layers.make_divisible(width, 8, round_limit=round_limit) == theirs


@pytest.mark.parametrize("kernel_size, groups", [(1, 1), (3, 8), (3, 2)])
def test_both_forms_of_a_convolution_are_equal(kernel_size, groups):
    """The form for CPUs, and the one that accelerators run."""
    layer, x = layers.Conv(8, kernel_size, 2, groups=groups), maps(2, 9, 12, 8)
    variables = layer.init(KEY, x)

    def traced():
        def outputs(variables, x):
            y = layer.apply(variables, x)
            return jnp.sum(jnp.square(y)), y

        # A new function each time: one that is traced already keeps its form.
        return jax.jit(jax.grad(outputs, argnums=(0, 1), has_aux=True)).trace(variables, x)

    here = traced()
    with layers.as_on_accelerators():
        there = traced()
    assert "platform_index" in str(here.jaxpr)
    assert "platform_index" not in str(there.jaxpr)
    ours, theirs = (each.lower().compile()(variables, x) for each in (here, there))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)

"""Folding of BatchNorm into convolutions: what is folded, and that nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.families import PAIRS
from tests.support.peers import random_variables
from tests.support.tiny import TinyNet, batch, randomised
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.outputs import features
from tl_jax.transfer import freeze
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF

KEY = jax.random.key(0)
IMAGES = batch()["image"]
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def folds_here():
    """On a CPU nothing is folded unless asked for."""
    with layers.fold_norms("always"):
        yield


def num_norms(function, *args) -> int:
    """Returns how many times a function normalises, as it is traced."""
    return str(jax.make_jaxpr(lambda *args: function(*args))(*args)).count("name=normalized")


def applied(model, **options):
    return functools.partial(model.apply, **options)


def assert_folds(model, variables, *, left: int) -> None:
    """Asserts that folding leaves some norms and changes no output."""
    folded = layers.folded(model.apply)
    assert num_norms(folded, variables, IMAGES) == left
    close(jit(folded)(variables, IMAGES), jit(model.apply)(variables, IMAGES))


def test_norms_after_convolutions_are_folded():
    assert num_norms(TinyNet().apply, randomised(TinyNet()), IMAGES) == 2
    assert_folds(TinyNet(), randomised(TinyNet()), left=0)


@pytest.mark.parametrize(("when", "left"), [("accelerators", 2), ("never", 2), ("always", 0)])
def test_a_cpu_folds_only_where_it_is_told_to(when, left):
    with layers.fold_norms(when):
        assert num_norms(layers.folded(TinyNet().apply), randomised(TinyNet()), IMAGES) == left


class Net(nn.Module):
    """Convolution and BatchNorm, by `form`."""

    form: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = layers.Conv(3, 3, groups=3, name="conv"), layers.BatchNorm(name="norm")
        match self.form:
            case "bias, act":
                conv = layers.Conv(4, 3, use_bias=True, name="biased")
                y = layers.BatchNorm(act=layers.silu, epsilon=0.1, name="norm_act")(
                    conv(x), train=False
                )
            case "no conv":
                y = norm(x, train=False)
            case "output used twice":
                y = conv(x)
                y = y + norm(y, train=False)
            case "act between":
                y = norm(layers.relu(conv(x)), train=False)
            case "norm shared":
                y = norm(conv(x), train=False) + norm(
                    layers.Conv(3, 3, name="conv2")(x), train=False
                )
            case "conv shared":
                y = norm(conv(x), train=False) + conv(x)
            case "both shared":
                y = norm(conv(norm(conv(x), train=False)), train=False)
            case "standardised":
                y = norm(layers.StdConv(4, 3, name="conv3")(x), train=False)
        return y


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("bias, act", 0),
        ("no conv", 1),
        ("output used twice", 1),
        ("act between", 1),
        ("norm shared", 2),
        ("conv shared", 1),
        ("both shared", 2),
        ("standardised", 1),
    ],
)
def test_what_is_not_a_convolution_and_its_norm_alone_is_left(form, left):
    assert_folds(Net(form), randomised(Net(form)), left=left)


def test_an_output_that_is_captured_is_that_of_the_layer():
    """Of modules before and after a BatchNorm, and of a stage."""
    variables = randomised(TinyNet())
    at = ["conv1", "bn1", "block"]
    capture = functools.partial(features, TinyNet(), at=at)
    found, expected = (jit(f)(variables, IMAGES) for f in (layers.folded(capture), capture))
    jax.tree.map(close, found, expected)
    assert num_norms(layers.folded(capture), variables, IMAGES) == 1


def test_training_folds_frozen_layers_only():
    """The trained norm takes the batch's statistics and updates its own; so do the moments."""
    model, variables = TinyNet(), randomised(TinyNet())
    plan = trees.label(variables["params"], (("block", "backbone"), ("*", freeze.FROZEN)))
    interceptor = freeze.interceptor(plan)

    def run(apply, variables, images):
        with nn.intercept_methods(interceptor):
            return apply(variables, images, train=True, mutable=["batch_stats", "batch_moments"])

    inside = functools.partial(run, layers.folded(model.apply))
    outside = layers.folded(functools.partial(run, model.apply))
    expected = jit(functools.partial(run, model.apply))(variables, IMAGES)
    for folded in (inside, outside):
        assert num_norms(folded, variables, IMAGES) == 1
        jax.tree.map(close, jit(folded)(variables, IMAGES), expected)


@pytest.mark.parametrize("trained", ["update", "affine_only", "frozen"])
def test_gradients_are_those_without_folding(trained):
    """Of kernels, scales and biases, through the head, by a step of the trainer."""
    model, variables = TinyNet(), randomised(TinyNet())
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    plan, fixed = freeze.apply_batch_norm_policies(
        plan, variables["batch_stats"], {freeze.BACKBONE: trained}
    )

    def gradients(apply):
        def loss(params):
            with nn.intercept_methods(freeze.interceptor(plan, fixed)):
                y, _ = apply({**variables, "params": params}, IMAGES, train=True,
                             mutable=["batch_stats"])  # fmt: skip
            return jnp.square(y).mean()

        return jax.grad(loss)(variables["params"])

    found, expected = (
        jit(lambda f=f: gradients(f))() for f in (layers.folded(model.apply), model.apply)
    )
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    ("adaptation", "left"),
    [
        (LoRA(rank=2), 0),
        (SSF(), 0),
        (Adapters(at=("block",)), 0),
        (Adapters(at=("block.conv", "bn1")), 1),  # The output of the convolution is changed.
    ],
)
def test_adapted_networks_compute_the_same(adaptation, left):
    adapted = Adapted(TinyNet(), adaptation)
    variables = adapted.add_to(KEY, randomised(TinyNet()))
    rng = np.random.default_rng(0)
    noise = lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32)  # noqa: E731
    variables = {**variables, "params": jax.tree.map(noise, variables["params"])}
    assert_folds(adapted, variables, left=left)


def test_a_folded_bfloat16_network_rounds_and_no_more():
    model = TinyNet(dtype=jnp.bfloat16)
    variables = randomised(model)
    exact = jit(TinyNet().apply)(variables, IMAGES)
    found = jit(layers.folded(model.apply))(variables, IMAGES)
    np.testing.assert_allclose(found, exact, rtol=0.1, atol=0.05)


def families(*fast: str) -> list:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.full) for name in PAIRS]


@pytest.mark.parametrize("name", families("resnet", "vgg"))
def test_every_family_computes_the_same(name):
    pair = PAIRS[name]
    variables = random_variables(pair.network, low=-0.2, high=0.2)
    stats = jax.tree.map(np.abs, variables.get("batch_stats", {}))
    variables = variables | ({"batch_stats": stats} if stats else {})
    images = np.random.default_rng(0).normal(size=(2, *pair.size, 3)).astype(np.float32)
    apply = pair.network.apply
    found, expected = (jit(f)(variables, images) for f in (layers.folded(apply), apply))
    assert np.abs(expected).max() > 0
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4

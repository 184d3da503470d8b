"""LoRA: an exact start, merged weights, factors of every kind of kernel, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.adaptations import (
    KEY,
    adapted_names,
    case,
    changed,
    check_abstract_init,
    check_gradients,
    check_merged,
    check_start,
    check_training,
)
from tests.support.every_layer import NAME
from tests.support.tiny import TinyNet, assert_equal_trees, randomised
from tl_jax import trees
from tl_jax.models import layers, outputs
from tl_jax.transfer.peft import lora
from tl_jax.transfer.peft.base import Adapted, draw_kernels, is_added
from tl_jax.transfer.peft.lora import LoRA

pytestmark = pytest.mark.slow

MORE = ("test_efficientnet", "test_convnext", "test_nfnet")


@pytest.mark.parametrize(
    "name",
    [NAME, "test_resnet", *(pytest.param(name, marks=pytest.mark.full) for name in MORE)],
)
def test_it_starts_as_the_network_and_merges_into_it(name):
    # Where kernels are standardised, XLA sums over the products too.
    rounding = 1e-6 if name in (NAME, "test_nfnet") else 0.0
    adapted, variables = check_start(name, LoRA(rank=4, alpha=8.0), rounding=rounding)
    check_merged(name, adapted, variables)


def test_gradients_reach_the_factors():
    known = case(NAME)
    adapted = Adapted(known.model, LoRA(rank=2))
    # lora_a has none as long as lora_b is zero.
    check_gradients(adapted, adapted.add_to(KEY, known.variables), zero=("lora_a",))
    moved = changed(adapted.add_to(KEY, known.variables))
    check_gradients(adapted, moved, zero=())


def test_a_step_changes_the_factors_alone():
    check_training(LoRA(rank=2))


def test_init_is_abstract_too():
    known = case(NAME)
    adapted = Adapted(known.model, LoRA(rank=4))
    check_abstract_init(adapted, adapted.add_to(KEY, known.variables))


def test_init_draws_what_add_to_does():
    adapted = Adapted(TinyNet(), LoRA(rank=2))
    drawn = adapted.init({"params": KEY, "dropout": KEY}, jnp.zeros((1, 8, 8, 3)))["params"]
    assert adapted_names(drawn) == {
        f"{module}.{leaf}" for module in ("conv1", "block.conv") for leaf in ("lora_a", "lora_b")
    }
    assert drawn["conv1"]["lora_a"].shape == (3, 3, 3, 2)
    assert not drawn["conv1"]["lora_b"].any()
    # Uniform in +-1 / sqrt(27), and another draw for every kernel.
    assert 0.5 < np.abs(drawn["conv1"]["lora_a"]).max() * np.sqrt(27) <= 1
    assert drawn["conv1"]["lora_a"].ravel()[0] != drawn["block"]["conv"]["lora_a"].ravel()[0]


class OneConv(layers.Conv):
    """A convolution as a network of its own."""

    classifier = "none"


@pytest.mark.parametrize("groups", [1, 2, 6], ids=["plain", "grouped", "depthwise"])
def test_the_change_is_a_convolution_to_few_channels_and_a_1x1_one_after_it(groups):
    """The factors of a grouped kernel: the filters are applied to each group of the inputs."""
    rank, rng = 3, np.random.default_rng(0)
    a = rng.normal(size=(3, 3, 6 // groups, rank)).astype("f4")
    b = rng.normal(size=(rank, 12)).astype("f4")
    x = rng.normal(size=(2, 7, 5, 6)).astype("f4")
    adapted = Adapted(OneConv(12, 3, groups=groups), LoRA(rank=rank, alpha=6.0))
    params = {"kernel": jnp.zeros((3, 3, 6 // groups, 12)), "lora_a": a, "lora_b": b}
    found = adapted.apply({"params": params}, x)

    def branch(x: np.ndarray, b: np.ndarray) -> jax.Array:
        narrow = layers.convolve(x, a, stride=1, padding="symmetric")
        return 6.0 / rank * narrow @ b

    inputs, outputs = np.split(x, groups, -1), np.split(b, groups, -1)
    expected = np.concatenate(list(map(branch, inputs, outputs)), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class ManyLayers(nn.Module):
    """One layer of each kind with a kernel, and a normalisation."""

    classifier = "none"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Conv(8, 3, use_bias=True, name="conv")(x)
        x = layers.BatchNorm(name="norm")(x, train=train)
        x = layers.relu(layers.Conv(8, 1, 2, name="pointwise")(x))
        x = layers.relu(layers.StdConv(8, 3, name="standardised")(x))
        x = layers.relu(layers.Conv(8, 3, groups=4, name="grouped")(x))
        x = nn.Dense(8, name="dense")(x).astype(jnp.float32)
        return layers.Dense(5, kernel_init=nn.initializers.ones, name="fc")(x.mean((1, 2)))


@pytest.mark.parametrize("train", [True, False], ids=["training", "folded"])
def test_gradients_are_the_same_in_whatever_way_they_are_computed(monkeypatch, train):
    """By `low_rank_layer` or not; in evaluation mode BatchNorm is folded in the first case."""
    model, x = ManyLayers(), jax.random.normal(KEY, (2, 6, 6, 3))
    adapted = Adapted(model, LoRA(rank=2, alpha=3.0))
    variables = changed(adapted.add_to(KEY, randomised(model), x.shape))

    def loss(params, images):
        outputs, _ = layers.folded(adapted.apply)(
            {**variables, "params": params}, images, train=train, mutable=["batch_stats"]
        )
        return jnp.sin(outputs).sum(), outputs

    found = []
    for is_own in (True, False):
        monkeypatch.setattr(lora, "pays", lambda *_, is_own=is_own: is_own)
        gradient = jax.grad(loss, (0, 1), has_aux=True)
        with layers.fold_norms("always" if is_own else "never"):
            # A new function: jax keeps what it traced.
            traced = str(jax.make_jaxpr(lambda *p: loss(*p))(variables["params"], x))
            compiled = jax.jit(lambda *p, gradient=gradient: gradient(*p))
            found.append(compiled(variables["params"], x))
        assert traced.count("name=low_rank_layer") == (4 if is_own else 0)
    if train:
        assert_equal_trees(found[0][1], found[1][1])  # The outputs, bit for bit.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    leaves = zip(*(jax.tree.leaves(gradients) for gradients, _ in found), strict=True)
    names = [*trees.names(variables["params"]), "x"]
    for name, (one, other) in zip(names, leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_rank_is_at_most_the_kernels_own():
    adapted = Adapted(OneConv(12, 3, groups=6), LoRA(rank=100))
    variables = adapted.add_to(KEY, {"params": {"kernel": jnp.zeros((3, 3, 1, 12))}}, (1, 5, 5, 6))
    assert variables["params"]["lora_a"].shape == (3, 3, 1, 9)
    assert variables["params"]["lora_b"].shape == (9, 12)


def test_the_change_is_scaled_by_alpha_over_rank():
    variables = changed(Adapted(TinyNet(), LoRA(rank=2)).add_to(KEY, randomised(TinyNet())))
    kernel, a, b = (variables["params"]["conv1"][leaf] for leaf in ("kernel", "lora_a", "lora_b"))
    merged = Adapted(TinyNet(), LoRA(rank=2, alpha=5.0)).merged(variables)["params"]
    expected = kernel + 2.5 * np.einsum("hwir,ro->hwio", a, b)
    np.testing.assert_allclose(merged["conv1"]["kernel"], expected, rtol=1e-5, atol=1e-6)
    assert adapted_names(merged) == set()
    np.testing.assert_array_equal(merged["fc"]["kernel"], variables["params"]["fc"]["kernel"])


def test_only_the_targets_get_factors():
    variables = randomised(TinyNet())

    def names(**options) -> set[str]:
        adapted = Adapted(TinyNet(), LoRA(rank=1, **options))
        params = adapted.add_to(KEY, variables)["params"]
        return {name.rpartition(".")[0] for name in adapted_names(params)}

    assert names(targets=("block",)) == {"block.conv"}
    assert names(targets=("*conv1", "block.*")) == {"conv1", "block.conv"}
    assert names(classifier=True) == {"conv1", "block.conv", "fc"}
    assert names(targets=("fc",), classifier=True) == {"fc"}


def test_what_is_drawn_does_not_depend_on_the_order_of_the_variables():
    adapted, variables = Adapted(TinyNet(), LoRA(rank=1)), randomised(TinyNet())
    turned = {**variables, "params": dict(reversed(variables["params"].items()))}
    assert list(turned["params"]) != list(variables["params"])
    assert_equal_trees(adapted.add_to(KEY, turned), adapted.add_to(KEY, variables))
    shapes = {("a",): (2, 3), ("b",): (4, 5)}
    turned = dict(reversed(shapes.items()))
    assert_equal_trees(draw_kernels(KEY, turned, 1.0), draw_kernels(KEY, shapes, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("conv2",)}, "'conv2' matches none of the kernels; did you mean 'conv1'?"),
        ({"targets": ("block", "bn1")}, "'bn1' matches none of the kernels"),
        ({"targets": ("fc",)}, "matches only the classifier 'fc', which classifier=True adapts"),
    ],
)
def test_a_target_that_matches_nothing_is_an_error(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Adapted(TinyNet(), LoRA(**options)).add_to(KEY, randomised(TinyNet()))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank is 0; it must be at least 1"), ({"alpha": 0.0}, "must be positive")],
)
def test_options_without_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**options)


def test_leaves_are_not_added_twice():
    adapted = Adapted(TinyNet(), LoRA())
    variables = adapted.add_to(KEY, randomised(TinyNet()))
    with pytest.raises(
        ValueError, match=r"already hold 4 added leaves, first 'block\.conv\.lora_a'"
    ):
        adapted.add_to(KEY, variables)


def test_an_adapted_network_is_used_as_a_network_is():
    adapted = Adapted(TinyNet(), LoRA(rank=2))
    variables = changed(adapted.add_to(KEY, randomised(TinyNet())))
    x = jnp.ones((2, 8, 8, 3))
    assert (adapted.classifier, adapted.in_channels) == ("fc", 3)
    assert Adapted(case(NAME).model, LoRA()).num_classes == 11
    assert hash(adapted) == hash(Adapted(TinyNet(), LoRA(rank=2)))
    maps = outputs.features(adapted, variables, x, at=["block"])
    expected = outputs.features(TinyNet(), adapted.merged(variables), x, at=["block"])
    np.testing.assert_allclose(maps["block"], expected["block"], rtol=1e-6)
    _, updates = adapted.apply(variables, x, train=True, mutable=["batch_stats"])
    assert trees.names(updates) == trees.names({"batch_stats": variables["batch_stats"]})


def test_names_tell_what_was_added():
    assert is_added("layer1.0.conv1.lora_a")
    assert is_added("ssf_shift")
    assert is_added("layer1.adapter.adapter_up")
    assert not is_added("layer1.0.conv1.kernel")
    assert not is_added("lora_net.adapter_conv.kernel")

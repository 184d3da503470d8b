"""Residual adapters: an exact start, where they stand, what they compute, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.adaptations import (
    KEY,
    adapted_names,
    case,
    changed,
    check_abstract_init,
    check_gradients,
    check_start,
    check_training,
)
from tests.support.every_layer import NAME, STAGES
from tests.support.tiny import TinyNet, randomised
from tl_jax import trees
from tl_jax.models import layers, outputs
from tl_jax.models.registry import FAMILIES, architecture, create_model
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adapted, is_added, leaves_by_module

pytestmark = pytest.mark.slow

NETWORKS = ("test_resnet", "test_efficientnet", "test_convnext")


def stages_of(name: str) -> tuple[str, ...]:
    return STAGES if name == NAME else architecture(name).stages


@pytest.mark.parametrize(
    "name", [NAME, *(pytest.param(name, marks=pytest.mark.full) for name in NETWORKS)]
)
def test_it_starts_as_the_network(name):
    stages = stages_of(name)
    # The LayerNorm behind a stage sums over what the adapter is added to.
    rounding = 1e-6 if name in (NAME, "test_convnext") else 0.0
    _, variables = check_start(name, Adapters(at=stages), rounding=rounding)
    assert {each for each in adapted_names(variables["params"]) if each.endswith("_up")} == {
        f"{stage}.adapter.adapter_up" for stage in stages
    }


def test_gradients_reach_the_adapters_of_all_stages():
    known = case(NAME)
    adapted = Adapted(known.model, Adapters(at=STAGES, reduction=1))
    variables = adapted.add_to(KEY, known.variables)
    # The inner leaves have none as long as adapter_up is zero.
    check_gradients(adapted, variables, zero=("adapter_down", "adapter_down_bias"))


def test_a_step_changes_the_adapters_alone():
    check_training(Adapters(at=("block",), reduction=2))


def test_init_is_abstract_too():
    known = case(NAME)
    adapted = Adapted(known.model, Adapters(at=STAGES))
    check_abstract_init(adapted, adapted.add_to(KEY, known.variables))


@pytest.mark.parametrize(
    ("at", "act"), [("block", layers.relu), ("block", layers.gelu), ("block.conv", layers.relu)]
)
def test_the_output_of_a_module_gets_its_bottleneck_added(at, act):
    """The output alone: a convolution has other methods too, which return its kernel."""
    model = TinyNet()
    adapted = Adapted(model, Adapters(at=(at,), reduction=2, act=act))
    variables = changed(adapted.add_to(KEY, randomised(model)), spread=1.0)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    plain = {**variables, "params": adapted.adaptation.effective_params(variables["params"])}
    y = outputs.features(model, plain, x, at=[at])[at]
    leaves = leaves_by_module(variables["params"])[(*at.split("."), "adapter")]
    assert leaves["adapter_down"].shape == (4, 2)
    hidden = act(y @ leaves["adapter_down"] + leaves["adapter_down_bias"])
    expected = y + hidden @ leaves["adapter_up"] + leaves["adapter_up_bias"]
    found = outputs.features(adapted, variables, x, at=[at])[at]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_widths_are_divided_and_never_nothing():
    variables = randomised(TinyNet())
    for reduction, hidden in ((1, 4), (3, 1), (100, 1)):
        adapted = Adapted(TinyNet(), Adapters(at=("block",), reduction=reduction))
        leaves = adapted.add_to(KEY, variables)["params"]["block"]["adapter"]
        assert {name: leaf.shape for name, leaf in leaves.items()} == {
            "adapter_down": (4, hidden),
            "adapter_down_bias": (hidden,),
            "adapter_up": (hidden, 4),
            "adapter_up_bias": (4,),
        }


def test_bfloat16_stays_bfloat16():
    model = TinyNet(dtype=jnp.bfloat16)
    adapted = Adapted(model, Adapters(at=("block",)))
    variables = adapted.add_to(KEY, randomised(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    x = jnp.ones((1, 8, 8, 3))
    assert outputs.features(adapted, variables, x, at=["block"])["block"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        adapted.apply(variables, x), model.apply(randomised(model), x)
    )  # fmt: skip
    moved = adapted.apply(changed(variables), x)
    assert moved.dtype == jnp.float32
    assert (moved != adapted.apply(variables, x)).any()


def test_each_part_of_a_pattern_stands_for_one_part_of_a_name():
    known = case(NAME)

    def adapted_modules(*at: str) -> set[str]:
        adapted = Adapted(known.model, Adapters(at=at))
        variables = jax.eval_shape(adapted.add_to, KEY, known.variables)
        names = adapted_names(variables["params"])
        return {name.removesuffix(".adapter.adapter_up") for name in names if name.endswith("_up")}

    assert adapted_modules("layer*") == {"layer1", "layer2", "layer3"}
    assert adapted_modules("layer[12].*conv", "bn1") == {"layer1.conv", "layer2.std_conv", "bn1"}
    # A module without parameters of its own may have an adapter too.
    assert adapted_modules("act1") == {"act1"}


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (("blok",), "'blok' matches no module of the network; did you mean 'block'?"),
        (("block", "layer9.*"), "'layer9.*' matches no module of the network"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(at, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Adapted(TinyNet(), Adapters(at=at)).add_to(KEY, randomised(TinyNet()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": ()}, "at is empty; name modules"),
        ({"at": ("block",), "reduction": 0}, "reduction is 0; it must be at least 1"),
    ],
)
def test_options_without_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Adapters(**options)


def test_it_cannot_be_merged_and_says_so():
    adapted = Adapted(TinyNet(), Adapters(at=("block",)))
    variables = adapted.add_to(KEY, randomised(TinyNet()))
    with pytest.raises(ValueError, match="Adapters inserts modules, which cannot be merged"):
        adapted.merged(variables)


ONE_OF_EACH = [next(iter(family.architectures)) for family in FAMILIES.values()]


@pytest.mark.full
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_adapters_behind_the_stages_of_every_family_are_heard(name):
    """The pooled features depend on every adapter."""
    model = create_model(name, num_classes=0)
    stages = architecture(name).stages
    adapted = Adapted(model, Adapters(at=stages))
    x = jax.random.normal(KEY, (1, 96, 96, 3))

    def gradient(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        variables = adapted.init(key, x)
        leaves, own = trees.split(variables["params"], is_added)

        def scalar(leaves: dict) -> jax.Array:
            y = adapted.apply({**variables, "params": trees.merge(leaves, own)}, x)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

        return jax.grad(scalar)(leaves)

    with layers.convolution_form("general"):
        found = jax.jit(gradient)(jax.random.key(0, impl="unsafe_rbg"), x)
    heard = {trees.dotted(path[:-2]) for path, leaf in trees.flatten(found).items() if leaf.any()}
    assert heard == set(stages)

"""Scale-and-shift tuning: an exact start, merged weights, what each layer does with it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.adaptations import (
    KEY,
    adapted_names,
    case,
    check_abstract_init,
    check_gradients,
    check_merged,
    check_start,
    check_training,
)
from tests.support.every_layer import NAME
from tests.support.tiny import TinyNet, randomised
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.families import convnext
from tl_jax.models.registry import ARCHITECTURES, FAMILIES, create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.transfer.peft.base import Adapted, is_added, leaves_by_module
from tl_jax.transfer.peft.ssf import SSF

pytestmark = pytest.mark.slow

MORE_NETWORKS = ("test_efficientnet", "test_convnext2", "test_nfnet")


@pytest.mark.parametrize(
    "name",
    [NAME, "test_resnet", *(pytest.param(name, marks=pytest.mark.full) for name in MORE_NETWORKS)],
)
def test_it_starts_as_the_network_and_merges_into_it(name):
    # Where kernels are standardised, XLA sums over the products too.
    rounding = 1e-6 if name in (NAME, "test_nfnet") else 0.0
    adapted, variables = check_start(name, SSF(), rounding=rounding)
    check_merged(name, adapted, variables)


def test_gradients_reach_factors_and_offsets():
    known = case(NAME)
    adapted = Adapted(known.model, SSF())
    check_gradients(adapted, adapted.add_to(KEY, known.variables), zero=())


def test_a_step_changes_factors_and_offsets_alone():
    check_training(SSF())


def test_init_is_abstract_too():
    known = case(NAME)
    adapted = Adapted(known.model, SSF())
    check_abstract_init(adapted, adapted.add_to(KEY, known.variables))


class Norm(layers.BatchNorm):
    classifier = "none"


class Conv(layers.Conv):
    classifier = "none"


class GainConv(layers.ScaledStdConv):
    classifier = "none"


class Dense(layers.Dense):
    classifier = "none"


class Frn(layers.FilterResponseNorm):
    classifier = "none"


class Rms(layers.RmsNorm):
    classifier = "none"


class Simple(convnext.SimpleNorm):
    classifier = "none"


@pytest.mark.parametrize(
    ("layer", "keywords", "shifts"),
    [
        (Norm(), {"train": False}, True),
        (Norm(), {"train": True, "mutable": ["batch_stats"]}, True),
        (Frn(threshold=False), {}, True),
        (Rms(), {}, False),
        (Simple(), {}, False),
        (Conv(6, 3, use_bias=True), {}, True),
        (Conv(6, 3, use_bias=True, groups=2), {}, True),
        (GainConv(6, 3, use_bias=True), {}, True),
        (Dense(6), {}, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Conv | Norm) else None,
)
def test_the_output_of_a_layer_is_scaled_and_shifted(layer, keywords, shifts):
    x = jax.random.normal(KEY, (3, 5, 4, 6))
    rng = np.random.default_rng(0)
    call = {"train": False} if "train" in keywords else {}
    shapes = jax.eval_shape(lambda: layer.init(KEY, x, **call))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype("f4"), shapes)
    adapted = Adapted(layer, SSF())
    tuned = adapted.add_to(KEY, variables, x.shape)
    leaves = {"ssf_scale": rng.normal(size=6).astype("f4")}
    if shifts:
        leaves["ssf_shift"] = rng.normal(size=6).astype("f4")
    assert adapted_names(tuned["params"]) == set(leaves)
    tuned["params"] |= leaves

    def output(model, variables):
        y = model.apply(variables, x, **keywords)
        return y[0] if "mutable" in keywords else y

    expected = output(layer, variables) * leaves["ssf_scale"] + leaves.get("ssf_shift", 0)
    np.testing.assert_allclose(output(adapted, tuned), expected, rtol=1e-4, atol=1e-4)


def test_only_the_targets_are_adapted():
    variables = randomised(TinyNet())

    def names(**options) -> set[str]:
        params = Adapted(TinyNet(), SSF(**options)).add_to(KEY, variables)["params"]
        return {name.rpartition(".")[0] for name in adapted_names(params)}

    assert names() == {"bn1", "block.bn"}
    assert names(targets=("block",)) == {"block.bn"}
    assert names(classifier=True) == {"bn1", "block.bn", "fc"}


def test_a_target_that_matches_nothing_is_an_error():
    # The convolution has no bias: there is nothing that could be shifted.
    message = "'conv1' matches none of the layers with a scale or a bias"
    with pytest.raises(ValueError, match=re.escape(message)):
        Adapted(TinyNet(), SSF(targets=("conv1",))).add_to(KEY, randomised(TinyNet()))


# What stays without a factor: a convolution before a normalisation, and what follows an adapted
# layer. CondConv's `weight` holds the kernels of its experts.
UNREACHED = {("kernel",), ("weight",), ("gamma",), ("skipinit_gain",)}
ONE_OF_EACH = {next(iter(family.architectures)) for family in FAMILIES.values()}
MORE = {"test_convnext2", "tf_efficientnet_cc_b0_4e", "mobilenetv4_hybrid_medium", "resnet50_gn"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in MORE else pytest.param(name, marks=pytest.mark.full)
        for name in sorted(ARCHITECTURES)
        if name in MORE | ONE_OF_EACH
    ],
)
def test_what_is_not_reached_in_the_registry(name):
    """Everything else is; and no standardised convolution without a gain has a bias."""
    model = create_model(name, num_classes=3)
    variables = abstract_variables(model)
    assert [each for each in trees.names(variables["params"]) if is_added(each)] == []
    tuned = jax.eval_shape(lambda v: Adapted(model, SSF()).add_to(KEY, v), variables)
    modules = leaves_by_module(tuned["params"])
    unreached = {
        tuple(leaves)
        for path, leaves in modules.items()
        if "ssf_scale" not in leaves and not trees.is_under(trees.dotted(path), model.classifier)
    }
    assert unreached <= UNREACHED
    assert any("ssf_scale" in leaves for leaves in modules.values())


def test_types_are_float32():
    params = Adapted(TinyNet(), SSF()).add_to(KEY, randomised(TinyNet()))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}

"""Networks as modules of NNX: the same paths, logits, updates and random values."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import tl_jax
from tests.support.every_layer import EveryLayer
from tests.support.families import PAIRS
from tests.support.peers import random_variables
from tl_jax import trees
from tl_jax.models.registry import FAMILIES, create_model
from tl_jax.models.variables import abstract_variables

PAGE = Path(__file__).parents[2] / "docs" / "nnx.md"
# One network of each family, tiny where there is one.
NETWORKS = {pair.family: pair.network for pair in PAIRS.values()} | {
    "simple_cnn": create_model("simple_cnn", num_classes=3),
    "alexnet": create_model("torchvision/alexnet", num_classes=3),
    "hardcorenas": create_model("hardcorenas_a", num_classes=3),
}
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))


def small(drop_rate: float = 0.0):
    """Returns a small network with every kind of layer, and its variables."""
    model = EveryLayer(num_classes=3, in_channels=4, drop_rate=drop_rate)
    return model, random_variables(model)


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(np.array_equal, one, other)
    )


def test_every_family_is_here():
    assert NETWORKS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", NETWORKS)
def test_paths_and_values_are_the_variables(family):
    model = NETWORKS[family]
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract_variables(model))
    module = tl_jax.to_nnx(model, variables)
    flat = {path for path, _ in nnx.to_flat_state(nnx.state(module))}
    assert flat == {path for tree in variables.values() for path in trees.flatten(tree)}
    assert same(tl_jax.from_nnx(module), variables)


def test_logits_and_updates_are_the_networks():
    model, variables = small(drop_rate=0.5)
    module = tl_jax.to_nnx(model, variables, rngs=nnx.Rngs(dropout=7))
    logits = nnx.jit(lambda module, images: module(images))(module, IMAGES)
    np.testing.assert_array_equal(logits, jax.jit(model.apply)(variables, IMAGES))
    assert same(tl_jax.from_nnx(module), variables)

    trained = nnx.jit(lambda module, images: module(images, train=True))(module, IMAGES)
    key = nnx.Rngs(dropout=7).dropout()

    @jax.jit
    def apply(variables, images):
        rngs = {"dropout": key}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    expected, updated = apply(variables, IMAGES)
    np.testing.assert_array_equal(trained, expected)
    assert same(tl_jax.from_nnx(module), {"params": variables["params"], **updated})
    assert not same(updated["batch_stats"], variables["batch_stats"])


def test_the_mode_is_that_of_nnx():
    """`train` and `eval` of a module that holds the network."""

    class Holder(nnx.Module):
        def __init__(self):
            self.network = tl_jax.to_nnx(*small())

    holder = Holder()
    before = tl_jax.from_nnx(holder.network)
    holder.train()
    holder.network(IMAGES)
    after = tl_jax.from_nnx(holder.network)
    assert not same(after["batch_stats"], before["batch_stats"])
    holder.eval()
    holder.network(IMAGES)
    assert same(tl_jax.from_nnx(holder.network), after)


def test_a_network_that_drops_needs_a_stream():
    model, variables = small(drop_rate=0.5)
    with pytest.raises(ValueError, match=r"rngs=nnx.Rngs\(dropout=0\)"):
        tl_jax.to_nnx(model, variables)(IMAGES, train=True)
    with pytest.raises(ValueError, match="no stream 'dropout'"):
        tl_jax.to_nnx(model, variables, rngs=nnx.Rngs(params=0))


def test_a_layer_that_does_not_fit_is_refused_with_the_way_to_replace_it():
    model, variables = small()
    module = tl_jax.to_nnx(model, variables)
    kernel = variables["params"][model.classifier]["kernel"]
    getattr(module, model.classifier)["kernel"] = nnx.Param(jnp.zeros((len(kernel), 7)))
    with pytest.raises(ValueError, match="load the network with num_classes=N"):
        module(IMAGES)


def test_an_optimizer_of_nnx_trains_it_and_leaves_the_given_arrays():
    model, variables = small()
    given = jax.tree.map(np.array, variables)
    module = tl_jax.to_nnx(model, variables)
    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        grads = nnx.grad(lambda module: jnp.square(module(IMAGES, train=True)).mean())(module)
        optimizer.update(module, grads)

    step(module, optimizer)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), tl_jax.from_nnx(module), given)
    assert jax.tree.all(moved)
    assert same(variables, given)


@pytest.mark.full
def test_the_loop_of_the_documents_runs():
    """The page's code trains all parameters, moves the statistics and ends in the same logits."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict = {}
    exec(compile(code, PAGE.name, "exec"), scope)
    assert jnp.isfinite(scope["loss"])
    moved = jax.tree.map(
        lambda new, old: not np.array_equal(new, old), scope["trained"], scope["variables"]
    )
    assert jax.tree.all(moved)
    np.testing.assert_allclose(scope["logits"], scope["module"](scope["images"]), atol=1e-5)

"""Networks beside their peers in timm, and checks that every adaptation of a network passes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from experiments import parity
from experiments.torch_peer import random_images
from tests.support import every_layer, tiny
from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.variables import abstract_variables, from_state_dict
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze
from tl_jax.transfer.peft.base import Adaptation, Adapted, is_added
from tl_jax.weights.state_dict import to_state_dict

KEY = jax.random.key(0)
SIZE = (48, 48)


class Case(NamedTuple):
    """A network with random weights, its peer in timm if it has one, and its logits."""

    model: nn.Module
    variables: dict[str, Any]
    peer: torch.nn.Module | None
    logits: np.ndarray


@functools.cache
def case(name: str) -> Case:
    """Returns a network with the weights of its peer, and its logits of `images()`."""
    if name == every_layer.NAME:
        tiny_network = every_layer.EveryLayer(num_classes=parity.CLASSES)
        variables = tiny.randomised(tiny_network)
        return Case(tiny_network, variables, None, logits(tiny_network, variables))
    peer = parity.make_peer(name, SIZE)
    model = parity.build(name)
    variables = from_state_dict(model, peer.state_dict())
    return Case(model, variables, peer, logits(model, variables))


def images() -> jax.Array:
    return jnp.asarray(parity.channels_last(random_images(SIZE, parity.BATCH)))


@functools.cache
def _compiled(model: nn.Module | Adapted):
    def forward(variables: Any, images: jax.Array) -> jax.Array:
        with layers.convolution_form("general"):
            return model.apply(variables, images)

    return jax.jit(forward)


def logits(model: nn.Module | Adapted, variables: Any) -> np.ndarray:
    """Returns a network's logits of `images()`; it is compiled once."""
    return np.asarray(_compiled(model)(variables, images()))


def changed(variables: Any, *, seed: int = 0, spread: float = 0.2) -> dict[str, Any]:
    """Returns variables whose added leaves have moved at random from where they start."""
    rng = np.random.default_rng(seed)
    flat = {
        path: leaf + rng.normal(0, spread, leaf.shape).astype("f4") if is_added(path[-1]) else leaf
        for path, leaf in trees.flatten(variables["params"]).items()
    }
    return {**variables, "params": trees.unflatten(flat)}


def adapted_names(params: Any) -> set[str]:
    """Returns the dotted names of the added leaves."""
    return {name for name in trees.names(params) if is_added(name)}


def check_start(
    name: str, adaptation: Adaptation, *, rounding: float = 0.0
) -> tuple[Adapted, dict[str, Any]]:
    """Asserts that an adapted network starts as the original network, bit for bit.

    Args:
      name: of the network.
      adaptation: what is added.
      rounding: relative error that is allowed in the logits, not in the parameters: where XLA
        fuses an added module with a sum of the network, it may add in another order.

    Returns:
      The adapted network and its variables.
    """
    known = case(name)
    adapted = Adapted(known.model, adaptation)
    variables = adapted.add_to(KEY, known.variables)
    _, own = trees.split(variables["params"], is_added)
    assert_equal_trees(own, known.variables["params"])
    assert adapted_names(variables["params"])
    assert_equal_trees(adaptation.effective_params(variables["params"]), known.variables["params"])
    assert parity.relative_error(logits(adapted, variables), known.logits) <= rounding
    return adapted, variables


def check_merged(name: str, adapted: Adapted, variables: dict[str, Any]) -> None:
    """Asserts that merged weights give the adapted logits, in this library and in the peer."""
    known = case(name)
    moved = changed(variables)
    found = logits(adapted, moved)
    assert parity.relative_error(found, known.logits) > 0.01
    merged = adapted.merged(moved)
    assert trees.names(merged) == trees.names(known.variables)
    assert parity.relative_error(logits(known.model, merged), found) <= 1e-5
    if known.peer is not None:
        assert parity.relative_error(_timm_logits(known.peer, merged), found) <= 1e-5


def _timm_logits(peer: torch.nn.Module, variables: dict[str, Any]) -> np.ndarray:
    before = {key: value.clone() for key, value in peer.state_dict().items()}
    tensors = {key: torch.from_numpy(value) for key, value in to_state_dict(variables).items()}
    counters = {key: value for key, value in before.items() if key.endswith("num_batches_tracked")}
    try:
        peer.load_state_dict(tensors | counters, strict=True)
        with torch.no_grad():
            return peer(random_images(SIZE, parity.BATCH)).numpy()
    finally:
        peer.load_state_dict(before)


def check_abstract_init(adapted: Adapted, variables: dict[str, Any]) -> None:
    """Asserts that `init` gives the structure, shapes and dtypes of `variables`."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    assert abstract_variables(adapted) == shapes


def check_training(adaptation: Adaptation) -> None:
    """Asserts that two steps that train the added leaves change these and nothing else."""
    model = TinyNet()
    adapted = Adapted(model, adaptation)
    variables = adapted.add_to(KEY, tiny.randomised(model))
    names = adapted_names(variables["params"])
    rules = [(name, freeze.BACKBONE) for name in names] + [("*", freeze.FROZEN)]
    plan = trees.label(variables["params"], rules)
    tx = optim.optimizer("sgd", {freeze.BACKBONE: 0.1}, plan, weight_decay=0.1)
    train_step = jax.jit(
        step.make_train_step(adapted, tx, plan, augment_fn=images_unchanged, seed_key=KEY)
    )
    after = state.create(variables, tx, plan)
    for seed in range(2):
        after, _ = train_step(after, batch(seed=seed))
    before, now = trees.flatten(variables["params"]), trees.flatten(after.params)
    moved = {trees.dotted(path) for path in now if (now[path] != before[path]).any()}
    assert now.keys() == before.keys()
    assert moved == names
    states = [leaf.shape for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
    assert len(states) == len(names)


@functools.cache
def _compiled_gradient(adapted: Adapted):
    def gradient(variables: Any, images: jax.Array) -> Any:
        leaves, own = trees.split(variables["params"], is_added)

        def scalar(leaves: Any) -> jax.Array:
            with layers.convolution_form("general"):
                found = adapted.apply({**variables, "params": trees.merge(leaves, own)}, images)
            return jnp.sum(found * jnp.cos(jnp.arange(found.size).reshape(found.shape)))

        return jax.grad(scalar)(leaves)

    return jax.jit(gradient)


def check_gradients(adapted: Adapted, variables: dict[str, Any], *, zero: tuple[str, ...]) -> None:
    """Asserts that at the start the gradient reaches all added leaves but those named `zero`.

    It is differentiated by the added leaves alone.
    """
    leaves, _ = trees.split(variables["params"], is_added)
    gradient = trees.flatten(_compiled_gradient(adapted)(variables, images()))
    assert {trees.dotted(path) for path in gradient} == adapted_names(variables["params"])
    zeros = {trees.dotted(path) for path, leaf in gradient.items() if not leaf.any()}
    assert zeros == {name for name in trees.names(leaves) if name.endswith(zero)}

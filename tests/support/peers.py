"""Holds a network against its peer in torch: outputs, fresh weights, drop rates, types."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments import parity
from experiments.torch_peer import import_timm, random_images, settle
from tests.support.pairs import Pair
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.network import Network
from tl_jax.models.variables import abstract_variables, from_state_dict

timm = import_timm()
Images = np.ndarray | jax.ShapeDtypeStruct


class Call(NamedTuple):
    """A call of a layer: the layer, the shape of its input and the keywords."""

    layer: nn.Module
    shape: tuple[int, ...]
    keywords: dict[str, Any]


def in_torch(images: np.ndarray) -> torch.Tensor:
    """Returns images [B, H, W, C] as torch has them: [B, C, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def abstract_images(model: Network, *size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of two images for a network; one number for square ones."""
    height, width = size if len(size) == 2 else size * 2
    return jax.ShapeDtypeStruct((2, height, width, model.in_channels), jnp.float32)


def random_variables(model: Network, *, low: float = 0.1, high: float = 0.5) -> dict:
    """Returns uniform random variables, drawn without a compilation."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.uniform(low, high, leaf.shape).astype(np.float32),
        abstract_variables(model),
    )


def settled_peer(pair: Pair) -> tuple[torch.nn.Module, torch.Tensor]:
    """Returns the peer with seeded weights and statistics, and the images they were fitted to."""
    torch.manual_seed(0)
    network, x = pair.peer(), random_images(pair.size, parity.BATCH)
    settle(network, pair.network.classifier, x)
    return network, x


def errors_in_float32(pair: Pair) -> dict[str, float]:
    """Compares a tiny network with its peer: logits, stages, gradient, training, export.

    Returns:
      The relative error of each output.
    """
    network, x = settled_peer(pair)
    errors, exported = parity.compare_networks(pair.architecture, pair.network, network, x)
    assert exported
    return errors


def errors_in_float64(pair: Pair) -> dict[str, float]:
    """Compares as `errors_in_float32`.

    float64 leaves no room for what rounding may excuse in float32, such as another epsilon.
    """
    network, x = settled_peer(pair)
    state_dict = network.state_dict()
    variables = from_state_dict(pair.network, state_dict)
    assert parity.check_export(network, variables, state_dict)
    theirs = parity.torch_outputs(network.double(), pair.architecture, x.double())
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        ours = parity.our_outputs(
            pair.network.clone(dtype=jnp.float64), pair.architecture, variables, x.double()
        )
    return parity.errors(ours, theirs)


def abstract_output(model: Network, images: Images, *, train: bool = False) -> tuple[Any, dict]:
    """Returns the shapes of a network's output, and of what it updates or sows."""

    def run(variables: dict, images: jax.Array) -> tuple[Any, dict]:
        rngs, mutable = {"dropout": jax.random.key(1)}, ["batch_stats", "auxiliary"]
        return model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)

    return jax.eval_shape(run, abstract_variables(model), images)


@contextlib.contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Yields a list that gets the calls, in order, of layers that differ in training."""
    calls = []

    def record(following, args, kwargs, context):
        layer = context.module
        is_layer = isinstance(layer, layers.WITH_TRAINING_MODE)
        if is_layer and context.method_name == "__call__" and not layer.is_initializing():
            calls.append(Call(layer, args[0].shape, kwargs))
        return following(*args, **kwargs)

    with nn.intercept_methods(record):
        yield calls


def calls_in_training(model: Network, images: Images) -> list[Call]:
    """Returns the calls, in order, of layers that behave differently in training."""
    with recorded_calls() as calls:
        abstract_output(model, images, train=True)
    return calls


def check_drop_paths(
    calls: Sequence[Call],
    theirs: torch.nn.Module,
    *,
    drops: Callable[[torch.nn.Module], bool] = lambda block: True,
) -> None:
    """Asserts that the drop paths that act are those of timm's network, at its rates.

    Args:
      calls: of the network in training.
      theirs: timm's network.
      drops: whether a block of timm's calls its drop path. Blocks without a shortcut may have one
        that they never call.
    """
    expected = {
        name: module.drop_prob
        for name, module in theirs.named_modules()
        if isinstance(module, timm.layers.DropPath)
        and drops(theirs.get_submodule(name.rpartition(".")[0]))
    }
    calls = [call for call in calls if isinstance(call.layer, layers.DropPath)]
    rates = {trees.dotted(c.layer.path): c.layer.rate for c in calls if c.layer.rate > 0}
    assert rates == pytest.approx(expected), (rates, expected)


def check_spread(ours: np.ndarray, theirs: torch.Tensor, *, key: str) -> None:
    """Asserts that two draws of a kernel have the same standard deviation, up to chance."""
    spread = 5 / np.sqrt(theirs.numel())
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=spread, err_msg=key)


def check_fresh(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, torch.Tensor],
    *,
    classifier: str | None = None,
) -> None:
    """Asserts that fresh weights are drawn as the peer's, for all keys that the peer has.

    Scales and biases are equal; kernels have the same spread about 0; the classifier is zero.

    Args:
      ours: state dict of the fresh network.
      theirs: the peer's, or the part of it to compare.
      classifier: dotted name of the last layer, None where there is none.
    """
    for key, value in theirs.items():
        if key.endswith("num_batches_tracked"):
            continue
        assert ours[key].shape == value.shape, key
        if classifier is not None and key.startswith(f"{classifier}."):
            np.testing.assert_array_equal(ours[key], 0, err_msg=key)
        elif key.endswith("weight") and value.ndim == 3:
            # Channel attention draws a few uniform values.
            assert np.abs(ours[key]).max() <= 1 / np.sqrt(ours[key].size), key
        elif key.endswith("weight") and value.ndim > 1:
            check_spread(ours[key], value, key=key)
            assert abs(ours[key].mean()) < 5 / np.sqrt(value.numel()) * ours[key].std(), key
        else:
            np.testing.assert_array_equal(ours[key], value, err_msg=key)


def check_bfloat16(model: Network, images: Images) -> tuple[dict, jax.ShapeDtypeStruct]:
    """Asserts that a bfloat16 network has bfloat16 maps, and float32 variables and logits.

    A map in another type would round between the layers, or cost the half type's speed.

    Returns:
      The variables and the last feature map, both abstract, for further checks.
    """
    half = model.clone(dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(half.init_with_output, jax.random.key(0), images)
    assert logits.shape == (images.shape[0], model.num_classes), logits
    assert logits.dtype == jnp.float32, logits
    types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert types == {jnp.dtype("float32")}, types
    bare = half.clone(num_classes=0, global_pool="")
    apply = functools.partial(bare.apply, capture_intermediates=True, mutable="intermediates")
    feature_map, captured = jax.eval_shape(apply, variables, images)
    # Weights of a routing, [B, experts], are float32.
    maps = [leaf for leaf in jax.tree.leaves((feature_map, captured)) if leaf.ndim == 4]
    types = {leaf.dtype for leaf in maps}
    assert types == {jnp.dtype("bfloat16")}, types
    return variables, feature_map

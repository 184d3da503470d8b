"""Holds a network against its peer in torch: fresh weights, logits, rates of drop path, types."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm, settle
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.network import Network
from tl_jax.weights.state_dict import abstract_variables, from_state_dict

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


def abstract_images(model: Network, side: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of two square images for a network."""
    return jax.ShapeDtypeStruct((2, side, side, model.in_channels), jnp.float32)


def random_variables(model: Network, *, low: float = 0.1, high: float = 0.5) -> dict:
    """Returns uniform random variables, drawn without a compilation."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.uniform(low, high, leaf.shape).astype(np.float32),
        abstract_variables(model),
    )


def abstract_output(model: Network, images: Images, *, train: bool = False) -> tuple[Any, dict]:
    """Returns the shapes of what a network makes of images, and of what it changes or hands out."""

    def run(variables: dict, images: jax.Array) -> tuple[Any, dict]:
        rngs, mutable = {"dropout": jax.random.key(1)}, ["batch_stats", "auxiliary"]
        return model.apply(variables, images, train=train, rngs=rngs, mutable=mutable)

    return jax.eval_shape(run, abstract_variables(model), images)


@contextlib.contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Yields a list that gets the calls, in order, of layers that behave otherwise in training."""
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
    """Returns the calls, in order, of layers that behave otherwise in training."""
    with recorded_calls() as calls:
        abstract_output(model, images, train=True)
    return calls


def check_drop_paths(
    model: Network,
    theirs: torch.nn.Module,
    images: Images,
    *,
    acts: Callable[[torch.nn.Module], bool] = lambda block: True,
) -> dict[str, float]:
    """Asserts that the drop paths that act are those of timm's network, and are told the mode.

    Args:
      model: the network.
      theirs: timm's.
      images: what the network is called on, without computing anything.
      acts: whether a block of timm's calls its drop path. Those without a shortcut may have one
        idly.

    Returns:
      The rates by name.
    """
    expected = {
        name: module.drop_prob
        for name, module in theirs.named_modules()
        if isinstance(module, timm.layers.DropPath)
        and acts(theirs.get_submodule(name.rpartition(".")[0]))
    }
    calls = calls_in_training(model, images)
    calls = [call for call in calls if isinstance(call.layer, layers.DropPath)]
    rates = {trees.dotted(c.layer.path): c.layer.rate for c in calls if c.layer.rate > 0}
    assert all(call.keywords == {"train": True} for call in calls), calls
    assert rates == pytest.approx(expected), (rates, expected)
    return rates


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
        elif key.endswith("weight") and value.ndim > 1:
            check_spread(ours[key], value, key=key)
            assert abs(ours[key].mean()) < 5 / np.sqrt(value.numel()) * ours[key].std(), key
        else:
            np.testing.assert_array_equal(ours[key], value, err_msg=key)


def check_logits(
    model: Network, theirs: torch.nn.Module, images: np.ndarray, *, rtol: float = 1e-7
) -> None:
    """Asserts that a network has the logits of its peer, once that one is settled on the images."""
    settle(theirs, model.classifier, in_torch(images))
    found = jax.jit(model.apply)(from_state_dict(model, theirs.state_dict()), images)
    with torch.no_grad():
        expected = theirs(in_torch(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-5 * np.abs(expected).max())


def check_bfloat16(model: Network, images: Images) -> tuple[dict, jax.ShapeDtypeStruct]:
    """Asserts that in bfloat16 a network has such a map, and float32 variables and logits.

    Returns:
      The variables and the last feature map, both abstract, for what more they should be.
    """
    half = model.clone(dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(half.init_with_output, jax.random.key(0), images)
    assert logits.shape == (images.shape[0], model.num_classes), logits
    assert logits.dtype == jnp.float32, logits
    types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert types == {jnp.dtype("float32")}, types
    bare = half.clone(num_classes=0, global_pool="")
    feature_map = jax.eval_shape(bare.apply, variables, images)
    assert feature_map.dtype == jnp.bfloat16, feature_map
    return variables, feature_map

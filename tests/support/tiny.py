"""A tiny network that compiles quickly, random variables, and batches for it."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.model import abstract_inputs

CLASSES = 3


class Block(nn.Module):
    """A residual branch of convolution, BatchNorm and DropPath."""

    drop_path_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = layers.Conv(x.shape[-1], 3, dtype=self.dtype, name="conv")(x)
        y = layers.BatchNorm(dtype=self.dtype, name="bn")(y, train=train)
        return x + layers.DropPath(self.drop_path_rate, name="drop_path")(y, train=train)


class TinyNet(nn.Module):
    """Stem, one residual block, classifier; every kind of layer that a plan can freeze."""

    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32

    classifier: ClassVar[str] = "fc"
    auxiliary: ClassVar[tuple[str, ...]] = ()
    in_channels: ClassVar[int] = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Conv(4, 3, 2, dtype=self.dtype, name="conv1")(images)
        x = layers.relu(layers.BatchNorm(dtype=self.dtype, name="bn1")(x, train=train))
        x = Block(self.drop_path_rate, self.dtype, name="block")(x, train=train)
        x = layers.global_average(x)
        x = layers.Dropout(self.drop_rate, name="drop")(x, train=train)
        return layers.Dense(CLASSES, name="fc")(x)


def randomised(model: nn.Module, *, side: int = 8, seed: int = 0) -> dict[str, Any]:
    """Returns random variables of a network; none is zero, not even in the classifier."""
    inputs = abstract_inputs(model, (1, side, side, 3))
    rng = np.random.default_rng(seed)
    flat = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
    return trees.unflatten({path: _draw(rng, path, leaf.shape) for path, leaf in flat.items()})


def _draw(rng: np.random.Generator, path: trees.Path, shape: tuple[int, ...]) -> jax.Array:
    if path[-1] in ("scale", "var", "ssf_scale"):
        return jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32)
    if path[-1] == "p":  # An exponent.
        return jnp.asarray(rng.uniform(2, 4, shape), jnp.float32)
    fan_in = np.prod(shape[:-1]) if path[-1] == "kernel" else 100
    return jnp.asarray(rng.normal(0, fan_in**-0.5, shape), jnp.float32)


def batch(size: int = 8, *, side: int = 8, seed: int = 0, classes: int = CLASSES) -> dict[str, Any]:
    """Returns float images [size, side, side, 3] and labels, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(size, side, side, 3)).astype(np.float32),
        "label": rng.integers(0, classes, size).astype(np.int32),
    }


def images_unchanged(key: jax.Array, batch: dict[str, Any]) -> jax.Array:
    """Returns the images of a batch: the `augment_fn` of a step whose images are ready."""
    del key
    return batch["image"]


def assert_equal_trees(found: Any, expected: Any) -> None:
    """Asserts that two trees have the same structure, dtypes and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))

"""Feature maps in both layouts, and variables taken from torch layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from tl_jax import trees
from tl_jax.weights.state_dict import torch_key

KEY = jax.random.key(0)


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns random values of mean 0.3, float32."""
    return np.random.default_rng(seed).normal(0.3, 1.0, size=shape).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    """Returns a feature map in torch's layout."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    """Returns a feature map of torch in our layout."""
    return x.detach().permute(0, 2, 3, 1).numpy()


def randomise(module: torch.nn.Module) -> None:
    """Draws all parameters and buffers from [0.2, 1)."""
    torch.manual_seed(0)
    buffers = [value for value in module.buffers() if value.dtype.is_floating_point]
    for value in [*module.parameters(), *buffers]:
        torch.nn.init.uniform_(value, 0.2, 1.0)


def converted(layer: nn.Module, module: torch.nn.Module, x: np.ndarray, **kwargs) -> dict:
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

"""An interceptor that makes networks faster to trace, where only shapes and types are asked for.

Loading weights traces a network in this way.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.layers.calls import around_methods
from tl_jax.models.layers.conv import Conv
from tl_jax.models.layers.norm import BatchNorm


def as_shapes() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which networks are traced for shapes and types; values are arbitrary.

    For `jax.eval_shape`: kernels are not drawn and BatchNorm returns its input. jax caches a trace
    by its function, so the function must be one that nothing else traces.
    """
    return nn.intercept_methods(around_methods(_shapes_only))


def _shapes_only(
    module: nn.Module, name: str, args: tuple[Any, ...], proceed: Callable[..., Any]
) -> Any:
    if isinstance(module, Conv) and name == "raw_kernel":
        return module.param("kernel", nn.initializers.zeros, args[0], jnp.float32)
    if isinstance(module, BatchNorm) and name == "normalize":
        x: jax.Array = args[0]
        return x.astype(module.dtype)
    return proceed()

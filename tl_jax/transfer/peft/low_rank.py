"""Layers whose kernel is a frozen one plus a product of two factors, with gradients of the factors.

By the chain rule the gradient of the factors passes through that of the whole kernel, which costs
as much as the layer itself. It is also the gradient of two thin layers, to and from r channels.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from tl_jax.models import layers

Linear = Callable[[jax.Array, jax.Array], jax.Array]

# Multiply-adds that a CPU does while it reads one number from its memory: an estimate of 75 G/s and
# 2.5 G float32/s on two cores of a server.
_BALANCE = 30
_COLUMNS = 24  # A matrix of fewer columns is taken to need as long as one of so many.


def pays(shape: Sequence[int], rank: int, *, on_cpu: bool | None = None) -> bool:
    """Returns whether `low_rank_layer` takes less time than the gradient of the whole kernel.

    It takes fewer operations, and reads the inputs and the outputs' gradient twice instead of once.
    On a CPU operations count. Accelerators are bound by memory, and keep the whole gradient.

    Args:
      shape: of the kernel, [..., I, O].
      rank: columns of the first factor.
      on_cpu: whether it is for a CPU; None: if that is what jax computes on.
    """
    if on_cpu is None:
        on_cpu = jax.default_backend() == "cpu"
    rows, outputs = math.prod(shape[:-1]), shape[-1]
    thin = 2 * max(rank, _COLUMNS) * (rows + outputs) + _BALANCE * (shape[-2] + outputs)
    return on_cpu and thin < rows * outputs


def sum_of_kernels(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns `kernel + a @ b`, [..., I, O], of factors [..., I, r] and [r, O]."""
    # These are weights, not activations: a GPU's TF32 would cut their precision.
    return kernel + jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def low_rank_layer(
    linear: Linear, x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array
) -> jax.Array:
    """Returns `linear(x, kernel + a @ b)`; its derivative by the factors is that of thin layers.

    Args:
      linear: a layer, `linear(x, kernel)` linear in both; outputs on the last axis of both.
      x: inputs.
      kernel: float32 [..., I, O].
      a, b: float32 [..., I, r] and [r, O].

    Examples:
      >>> x, kernel = jnp.ones((1, 2)), jnp.zeros((2, 3))
      >>> a, b = jnp.ones((2, 1)), jnp.ones((1, 3))
      >>> low_rank_layer(jnp.matmul, x, kernel, a, b).tolist()
      [[2.0, 2.0, 2.0]]
      >>> jax.grad(lambda a: low_rank_layer(jnp.matmul, x, kernel, a, b).sum())(a).tolist()
      [[3.0], [3.0]]
    """
    return linear(x, sum_of_kernels(kernel, a, b).astype(x.dtype))


def _mixed(z: jax.Array, b: jax.Array) -> jax.Array:
    """Returns `z @ b`; of maps as a convolution, whose gradient by b is faster on a CPU."""
    if z.ndim == 4:
        return layers.convolve(z, b[None, None], stride=1, padding=0)
    return z @ b


@functools.partial(low_rank_layer.defjvp, symbolic_zeros=True)
def _tangent(
    linear: Linear, primals: Sequence[jax.Array], tangents: Sequence[jax.Array | SymbolicZero]
) -> tuple[jax.Array, jax.Array]:
    x, kernel, a, b = primals
    dx, dkernel, da, db = (None if isinstance(t, SymbolicZero) else t for t in tangents)

    def thin(a: jax.Array, b: jax.Array) -> jax.Array:
        return _mixed(linear(x, a.astype(x.dtype)), b.astype(x.dtype))

    y = low_rank_layer(linear, x, kernel, a, b)
    dy = jnp.zeros_like(y)
    if dx is not None:
        dy += linear(dx, sum_of_kernels(kernel, a, b).astype(x.dtype))
    if dkernel is not None:
        dy += linear(x, dkernel.astype(x.dtype))
    if da is not None:
        dy += thin(da, b)
    if db is not None:
        dy += thin(a, db)
    return y, dy

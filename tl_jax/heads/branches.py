"""The branch from shared features to several heads, with gradients of one norm."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def equal_gradients(
    x: jax.Array, branches: int, axis_name: str | None = None
) -> tuple[jax.Array, ...]:
    """Returns the features for each of several heads; their gradients count alike.

    The gradient that comes back from a head is scaled to the mean norm over the heads, so that no
    task shapes the shared layers more than another only because its loss is on a larger scale. A
    head whose gradient is zero, such as that of a task without a label in the batch, stays at zero
    and does not count in the mean. The heads' own gradients are not scaled. Nothing is kept from
    step to step, other than in GradNorm (arXiv:1711.02257), which learns weights for the same end.

    Norms are those of the gradient of the whole batch, under `jit` over a mesh too.

    Args:
      x: shared features.
      branches: number of heads.
      axis_name: mapped axis that the batch is split over, for `pmap`; None under `jit`.

    Examples:
      >>> def loss(x):
      ...     one, other = equal_gradients(x, 2)
      ...     return 30.0 * one.sum() + 10.0 * other.sum()
      >>> jax.grad(loss)(jnp.ones(4)).tolist()
      [40.0, 40.0, 40.0, 40.0]
      >>> jax.grad(lambda x: 30.0 * equal_gradients(x, 2)[0].sum())(jnp.ones(2)).tolist()
      [30.0, 30.0]
    """
    del axis_name
    return (x,) * branches


def _forward(
    x: jax.Array, branches: int, axis_name: str | None
) -> tuple[tuple[jax.Array, ...], None]:
    return equal_gradients(x, branches, axis_name), None


def _backward(
    branches: int, axis_name: str | None, residuals: None, gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array]:
    del residuals
    squares = jnp.stack([jnp.sum(jnp.square(g.astype(jnp.float32))) for g in gradients])
    if axis_name is not None:
        squares = lax.psum(squares, axis_name)
    some = squares > 0
    norms = jnp.sqrt(jnp.where(some, squares, 1.0))
    mean = jnp.sum(jnp.where(some, norms, 0.0)) / jnp.maximum(jnp.sum(some), 1)
    scales = jnp.where(some, mean / norms, 0.0)
    scaled = [scales[i].astype(g.dtype) * g for i, g in enumerate(gradients)]
    return (functools.reduce(jnp.add, scaled),)


equal_gradients.defvjp(_forward, _backward)

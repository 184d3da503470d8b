"""Statistics of a batch and normalisation by them, with derivatives of few passes over the maps.

The usual rules would differentiate every step of the arithmetic and keep maps for it. Here the
tangents are written as one linear map each, of which reverse mode is the transpose: the gradient of
a batch normalisation is two sums over each channel, of g and of g * x, and one pass for the rest.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from tl_jax.models.layers.types import at_least_float32

Statistics = tuple[jax.Array, jax.Array]


# Networks have many norms of few shapes. Each shape is traced once, and nothing of the call is left
# in the program.
@functools.partial(jax.jit, static_argnames=("momentum", "epsilon", "axis_name"), inline=True)
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running: Statistics,
    *,
    momentum: float,
    epsilon: float,
    axis_name: str | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, int], Statistics]:
    """Normalises maps by the statistics of their batch.

    Args:
      x: maps [..., C].
      scale, bias: of the channels, [C].
      running: running mean and unbiased variance, [C].
      momentum: weight of the batch in the new running statistics.
      epsilon: added to the variance.
      axis_name: mapped axis that the batch is spread over; None for none.

    Returns:
      The normalised maps, at least float32; the batch's mean, biased variance and count; and the
      new running statistics.

    Raises:
      ValueError: if there is only one value per channel.
    """
    values = count(x, axis_name)
    mean, var = moments(x, running[0], axis_name)
    old_mean, old_var = running
    new_mean = old_mean + momentum * (mean - old_mean)
    new_var = old_var + momentum * (var * (values / (values - 1)) - old_var)
    y = normalized(x, mean, var, scale, bias, epsilon)
    return y, (mean, var, values), (new_mean, new_var)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def moments(x: jax.Array, shift: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance of each channel, in one pass over `x`.

    The deviations are taken from `shift`, any constant near the mean (the running mean), because
    the plain E[x^2] - E[x]^2 loses digits in float32 where the mean is large.

    Args:
      x: maps [..., C].
      shift: [C]; the results do not depend on it, but for rounding.
      axis_name: mapped axis to average over; None for none.

    Returns:
      Two arrays [C], at least float32.
    """
    deviation = at_least_float32(x) - shift
    first = _average(deviation, axis_name)
    second = _average(jnp.square(deviation), axis_name)
    return first + shift, jnp.maximum(second - jnp.square(first), 0.0)


@moments.defjvp
def _moments_tangent(
    axis_name: str | None,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    x, shift = primals
    x_dot = at_least_float32(tangents[0])
    mean, var = moments(x, shift, axis_name)
    mean_dot = _average(x_dot, axis_name)
    # Not of the deviations, which a CPU would write to memory and read again for this sum alone.
    var_dot = 2 * (_average(at_least_float32(x) * x_dot, axis_name) - mean * mean_dot)
    return (mean, var), (mean_dot.astype(mean.dtype), var_dot.astype(var.dtype))


def _average(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Averages over all axes but the last, and over the mapped axis if there is one."""
    mean = jnp.mean(x, tuple(range(x.ndim - 1)))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def count(x: jax.Array, axis_name: str | None) -> int:
    """Returns the number of values of each channel, in all parts of the batch.

    Raises:
      ValueError: if there is only one, which has no variance.
    """
    values = math.prod(x.shape[:-1])
    if axis_name is not None:
        values = values * lax.psum(1, axis_name)
    # An empty map is left to the network, which knows how large its images must be.
    if values < 2 and 0 not in x.shape:
        raise ValueError(
            f"BatchNorm in training mode got an input of shape {x.shape}, one value per channel; "
            "use more images per batch or larger ones, or freeze the layer"
        )
    return values


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def normalized(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> jax.Array:
    """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`, at least float32.

    `x` is [..., C], the others are [C].
    """
    return (at_least_float32(x) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias


@normalized.defjvp
def _normalized_tangent(
    epsilon: float, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    x, mean, var, scale, bias = primals
    x_dot, mean_dot, var_dot, scale_dot, bias_dot = tangents
    y = normalized(x, mean, var, scale, bias, epsilon)
    inverse = lax.rsqrt(var + epsilon)
    slope = inverse * scale
    slope_dot = inverse * scale_dot - 0.5 * inverse**3 * scale * var_dot
    offset_dot = bias_dot - mean_dot * slope - mean * slope_dot
    y_dot = at_least_float32(x_dot) * slope + (at_least_float32(x) * slope_dot + offset_dot)
    return y, y_dot.astype(y.dtype)

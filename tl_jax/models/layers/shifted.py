"""Depthwise convolutions as sums of products of shifted maps, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tl_jax.models.layers.geometry import Function, Geometry, Kind
from tl_jax.models.layers.types import at_least_float32

# Blocks of rows that are added up before the rest is summed; fewer blocks were slower.
_ROW_BLOCKS = 16
# From this height on, the rows of the kernel are a loop in the program, which compiles much faster
# and runs a little slower.
_LOOPED_ROWS = 5


def shifted_form(kind: Kind, geometry: Geometry, *, on_cpu: bool) -> Function:
    """Returns the function of the two operands; it adds in float32 or wider.

    Args:
      kind: what it computes.
      geometry: of a depthwise convolution.
      on_cpu: write padded maps out before they are read once for each place of the kernel, which
        takes the test of the border out of the loops, and sum in an order that a CPU's compiler
        turns into vectors. A GPU would rather compute a map than read and write it.
    """
    function = {
        "forward": _forward,
        "input_gradient": _input_gradient,
        "kernel_gradient": _kernel_gradient,
    }[kind]
    return functools.partial(function, geometry=geometry, on_cpu=on_cpu)


def _forward(x: jax.Array, kernel: jax.Array, *, geometry: Geometry, on_cpu: bool) -> jax.Array:
    padded = with_borders(at_least_float32(x), geometry, on_cpu=on_cpu)
    total = sum(
        shifted_map(padded, geometry, i, j) * kernel[i, j, 0]
        for i, j in np.ndindex(geometry.kernel)
    )
    return jnp.asarray(total, x.dtype)


def _kernel_gradient(x: jax.Array, g: jax.Array, *, geometry: Geometry, on_cpu: bool) -> jax.Array:
    height, width = geometry.kernel
    wide = at_least_float32(g)
    padded = with_borders(at_least_float32(x), geometry, on_cpu=on_cpu)
    sum_of_products = _sum_on_cpu if on_cpu else _sum_on_accelerators

    def of_row(i: int, padded: jax.Array) -> jax.Array:
        return jnp.stack([sum_of_products(padded, wide, geometry, i, j) for j in range(width)])

    def in_loop(i: jax.Array) -> jax.Array:
        span = (geometry.output[0] - 1) * geometry.stride + 1
        return of_row(0, lax.dynamic_slice_in_dim(padded, i, span, axis=1))

    if on_cpu and height >= _LOOPED_ROWS:
        rows = lax.map(in_loop, jnp.arange(height))
    else:
        rows = jnp.stack([of_row(i, padded) for i in range(height)])
    return rows[:, :, None].astype(g.dtype)


def _sum_on_accelerators(
    padded: jax.Array, g: jax.Array, geometry: Geometry, i: int, j: int
) -> jax.Array:
    return jnp.sum(shifted_map(padded, geometry, i, j) * g, (0, 1, 2))


def _sum_on_cpu(padded: jax.Array, g: jax.Array, geometry: Geometry, i: int, j: int) -> jax.Array:
    """Returns the sum over all pixels of the products with a shifted map, [C].

    The CPU compiler's loop for a sum over pixels takes one channel at a time. So blocks of rows are
    added first, as whole maps, and what is left is summed by a matrix product.
    """
    height = g.shape[1]
    rows = -(-height // _ROW_BLOCKS)
    total: jax.Array | float = 0.0
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        block = shifted_map(padded, geometry, i, j, start, stop) * g[:, start:stop]
        total = total + jnp.pad(block, ((0, 0), (0, start + rows - stop), (0, 0), (0, 0)))
    flat = lax.optimization_barrier(jnp.asarray(total)).reshape(-1, g.shape[3])
    return jnp.matmul(jnp.ones((1, flat.shape[0]), flat.dtype), flat, precision="highest")[0]


def with_borders(x: jax.Array, geometry: Geometry, *, on_cpu: bool) -> jax.Array:
    """Returns a map with the rows and columns of zeros that are added around it."""
    if geometry.pads == ((0, 0), (0, 0)):
        return x
    x = jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))
    return lax.optimization_barrier(x) if on_cpu else x


def shifted_map(
    padded: jax.Array, geometry: Geometry, i: int, j: int, start: int = 0, stop: int | None = None
) -> jax.Array:
    """Returns the pixels [B, stop - start, W', I] that place (i, j) of the kernel meets.

    Args:
      padded: the map with its borders.
      geometry: of the convolution.
      i: row of the kernel.
      j: column of the kernel.
      start: the first row of the output that is asked for.
      stop: the row after the last one; None for all.
    """
    stride, (height, width) = geometry.stride, geometry.output
    stop = height if stop is None else stop
    rows = slice(i + start * stride, i + (stop - 1) * stride + 1, stride)
    return padded[:, rows, j : j + (width - 1) * stride + 1 : stride]


def _input_gradient(
    g: jax.Array, kernel: jax.Array, *, geometry: Geometry, on_cpu: bool
) -> jax.Array:
    """Computes each phase of the map, the pixels that lie `stride` apart, and interleaves them.

    The alternative, zeros between the pixels of `g`, multiplies mostly zeros.
    """
    stride, (height, width) = geometry.stride, geometry.image
    rows, columns = _Terms(geometry, 0), _Terms(geometry, 1)
    wide = at_least_float32(g)
    zero = jnp.zeros((), wide.dtype)
    padded = lax.pad(wide, zero, ((0, 0, 0), rows.pad, columns.pad, (0, 0, 0)))
    if on_cpu:
        padded = lax.optimization_barrier(padded)

    def phase(a: int, b: int) -> jax.Array:
        total = sum(
            padded[:, r : r + rows.count, c : c + columns.count] * kernel[i, j, 0]
            for i, r in rows.of_phase[a]
            for j, c in columns.of_phase[b]
        )
        # A number, zero, where the kernel is smaller than the stride.
        return jnp.broadcast_to(total, (g.shape[0], rows.count, columns.count, geometry.groups))

    maps = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2)
    maps = maps.reshape(g.shape[0], rows.count * stride, columns.count * stride, geometry.groups)
    return maps[:, :height, :width].astype(g.dtype)


class _Terms:
    """Which rows of the kernel and of the output's gradient meet in each phase of the map's rows.

    Row `stride * q + phase` of the map meets the kernel's row `i` in the output's row `q + shift`,
    where `stride * shift = phase + before - i`. Columns do alike.

    Attributes:
      count: rows of the map in one phase, rounded up.
      pad: rows to add before the gradient and after it, of any sign, and between its rows.
      of_phase: for each phase, pairs of a row of the kernel and the first row of the padded
        gradient that it meets.
    """

    def __init__(self, geometry: Geometry, axis: int) -> None:
        stride, before = geometry.stride, geometry.pads[axis][0]
        shifts = [
            [
                (i, (phase + before - i) // stride)
                for i in range(geometry.kernel[axis])
                if (phase + before - i) % stride == 0
            ]
            for phase in range(stride)
        ]
        first = min(shift for terms in shifts for _, shift in terms)
        last = max(shift for terms in shifts for _, shift in terms)
        self.count = -(-geometry.image[axis] // stride)
        self.pad = (-first, self.count + last - geometry.output[axis], 0)
        self.of_phase = [[(i, shift - first) for i, shift in terms] for terms in shifts]

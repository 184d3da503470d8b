"""Maximum over windows, with a derivative by comparison: no scatter, and no map kept for it.

XLA's own gradient is a select-and-scatter, which a GPU runs as atomic additions and a CPU as a loop
over single values. Here the place of each window's maximum, a number of 8 bits, is found once, and
every cell of the map gathers what the windows over it send.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models.layers.padding import Pads
from tl_jax.models.layers.types import at_least_float32


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, pads: Pads) -> jax.Array:
    """Returns the maximum of each square window of [B, H, W, C].

    The gradient of a window goes to the first of its largest values, row by row, as in torch. A NaN
    makes the window's maximum NaN, and its gradient goes to any one cell of the window.

    Args:
      x: maps.
      window: side of the windows, at most 15.
      stride: step in both directions.
      pads: cells around the map, which never win.
    """
    return nn.max_pool(x, (window, window), (stride, stride), padding=pads)


@max_pool.defjvp
def _tangent(
    window: int,
    stride: int,
    pads: Pads,
    primals: tuple[jax.Array],
    tangents: tuple[jax.Array],
) -> tuple[jax.Array, jax.Array]:
    y = max_pool(*primals, window, stride, pads)
    # The places are found from the cells alone. A test for `cell == y` may hold nowhere: XLA
    # computes the map again for each of its uses, and may round it in another way.
    largest, *others = _cells(primals[0], -jnp.inf, window, stride, pads)
    places = jnp.zeros(y.shape, jnp.uint8)
    for place, cell in enumerate(others, 1):
        is_larger = cell > largest
        largest = jnp.where(is_larger, cell, largest)
        places = jnp.where(is_larger, jnp.uint8(place), places)
    cells = _cells(at_least_float32(tangents[0]), 0.0, window, stride, pads)
    y_dot = sum(jnp.where(places == place, cell, 0) for place, cell in enumerate(cells))
    return y, jnp.asarray(y_dot, y.dtype)


def _cells(x: jax.Array, fill: float, window: int, stride: int, pads: Pads) -> list[jax.Array]:
    """Returns the first cell of all windows, the second, and so on: `window`^2 arrays [B, h, w, C].

    The map is split into the `stride`^2 grids of every `stride`-th row and column, of which each
    array is a slice. The transpose puts the grids together again: it pads and concatenates, and
    scatters nothing.
    """
    size = [
        (cells + sum(pad) - window) // stride + 1
        for cells, pad in zip(x.shape[1:3], pads, strict=True)
    ]
    steps = [(window - 1) // stride + cells for cells in size]
    borders = [
        (before, count * stride - before - cells, 0)
        for count, cells, (before, _) in zip(steps, x.shape[1:3], pads, strict=True)
    ]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *borders, (0, 0, 0)))
    x = x.reshape(x.shape[0], steps[0], stride, steps[1], stride, x.shape[-1])
    grids = [lax.split(rows, (1,) * stride, axis=4) for rows in lax.split(x, (1,) * stride, axis=2)]
    found = []
    for i, j in itertools.product(range(window), repeat=2):
        grid = grids[i % stride][j % stride][:, :, 0, :, 0]
        row, column = i // stride, j // stride
        found.append(grid[:, row : row + size[0], column : column + size[1]])
    return found

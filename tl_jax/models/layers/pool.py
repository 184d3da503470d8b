"""Pooling and blurring with torch's borders."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from tl_jax.models.layers import max_pool
from tl_jax.models.layers.padding import Pads, same_pads
from tl_jax.models.layers.types import at_least_float32

_SPACE = (1, 2)


class MaxPool(nn.Module):
    """Maximum over square windows (torch's MaxPool2d).

    Attributes:
      window: side of the windows.
      stride: step in both directions.
      padding: cells on each side, which never win; `"same"` is TensorFlow's.
      ceil_mode: keep a last window that reaches over the border.
    """

    window: int
    stride: int
    padding: int | Literal["same"] = 0
    ceil_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pads = _pads(x.shape[1:3], self.window, self.stride, self.padding, ceil=self.ceil_mode)
        return max_pool.max_pool(x, self.window, self.stride, pads)


class AvgPool(nn.Module):
    """Mean over square windows (torch's AvgPool2d).

    Attributes:
      window, stride, padding, ceil_mode: as those of `MaxPool`; padded cells are zeros.
      count_include_pad: count padded cells in the mean; those that `ceil_mode` adds never count.
    """

    window: int
    stride: int
    padding: int | Literal["same"] = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[1:3]
        pads = _pads(size, self.window, self.stride, self.padding, ceil=self.ceil_mode)
        y = at_least_float32(x)
        total = lax.reduce_window(
            y,
            np.zeros((), y.dtype),
            lax.add,
            (1, self.window, self.window, 1),
            (1, self.stride, self.stride, 1),
            ((0, 0), *pads, (0, 0)),
        )
        if not self.count_include_pad:
            counted: Pads = ((0, 0), (0, 0))
        elif self.padding == "same":
            counted = pads
        else:  # Cells that `ceil_mode` adds do not count.
            counted = ((self.padding, self.padding), (self.padding, self.padding))
        rows, columns = (
            _window_cells(cells, self.window, self.stride, pad, counted_pad)
            for cells, pad, counted_pad in zip(size, pads, counted, strict=True)
        )
        counts = np.outer(rows, columns).astype(np.float32)
        return (total / counts[..., None]).astype(x.dtype)


def _window_cells(
    cells: int, window: int, stride: int, pad: tuple[int, int], counted: tuple[int, int]
) -> np.ndarray:
    """Returns how many cells of each window count, along one axis.

    Args:
      cells: length of the map.
      window, stride: of the pooling.
      pad: cells added before and after.
      counted: how many of these count.
    """
    starts = np.arange(-pad[0], cells + pad[1] - window + 1, stride)
    first = np.maximum(starts, -counted[0])
    return np.minimum(starts + window, cells + counted[1]) - first


def _pads(
    size: Sequence[int], window: int, stride: int, padding: int | Literal["same"], *, ceil: bool
) -> Pads:
    if padding == "same":
        return same_pads(size, (window, window), stride)
    rows, columns = (_torch_pad(cells, window, stride, padding, ceil=ceil) for cells in size)
    return rows, columns


def _torch_pad(
    cells: int, window: int, stride: int, padding: int, *, ceil: bool
) -> tuple[int, int]:
    if not ceil:
        return padding, padding
    room = cells + 2 * padding - window
    windows = -(room // -stride) + 1
    # torch drops a last window that would start in the padding at the end.
    if (windows - 1) * stride >= cells + padding:
        windows -= 1
    return padding, max((windows - 1) * stride - room, 0) + padding


class BlurPool(nn.Module):
    """Binomial blur and subsampling (arXiv:1904.11486); no parameters.

    Attributes:
      stride: step in both directions.
      window: side of the filter.
      border: values beyond the border: the map reflected, or zeros (`"constant"`).
    """

    stride: int = 2
    window: int = 3
    border: Literal["reflect", "constant"] = "reflect"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row = np.array([math.comb(self.window - 1, i) for i in range(self.window)])
        row = row / row.sum()
        pad = (self.stride - 1 + self.window - 1) // 2
        y = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=self.border)
        for axis in _SPACE:
            y = _weighted(y, row, self.stride, axis)
        return y.astype(x.dtype)


def _weighted(x: jax.Array, row: np.ndarray, stride: int, axis: int) -> jax.Array:
    """Returns the weighted sum of the neighbours along an axis, at every `stride`-th position."""
    count = (x.shape[axis] - len(row)) // stride + 1
    last = (count - 1) * stride + 1
    total = sum(
        float(weight) * lax.slice_in_dim(x, i, i + last, stride, axis)
        for i, weight in enumerate(row)
    )
    return jnp.asarray(total)


def global_average(x: jax.Array) -> jax.Array:
    """Averages a feature map over space: [B, H, W, C] -> [B, C], at least float32."""
    return jnp.mean(at_least_float32(x), axis=_SPACE)


def adaptive_average(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Averages a feature map to `size` (height, width), as torch's `adaptive_avg_pool2d`.

    Output cell i of n covers the input cells floor(i * m / n) to ceil((i + 1) * m / n) of m, so
    that a map smaller than `size` is enlarged.
    """
    y = at_least_float32(x)
    rows = jnp.asarray(_bins(x.shape[1], size[0]), y.dtype)
    columns = jnp.asarray(_bins(x.shape[2], size[1]), y.dtype)
    y = jnp.einsum("ih,bhwc->biwc", rows, y, precision=lax.Precision.HIGHEST)
    y = jnp.einsum("jw,biwc->bijc", columns, y, precision=lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _bins(cells: int, bins: int) -> np.ndarray:
    """Returns the averaging matrix [bins, cells] of one axis."""
    weights = np.zeros((bins, cells))
    for i in range(bins):
        start, end = i * cells // bins, -((i + 1) * cells // -bins)
        weights[i, start:end] = 1 / (end - start)
    return weights

"""The forms in which convolutions run on NVIDIA's GPUs, where cuDNN is slow in some shapes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tl_jax.models.layers.general import general_form, of_kind
from tl_jax.models.layers.geometry import Function, Geometry, Kind

# The most channels of a map that are few: those of an image, and one more.
_FEW_CHANNELS = 4
# cuDNN's kernels for tensor cores take channels in multiples of this, and else copy the map first.
_MULTIPLE = 8


def fastest_form(
    kind: Kind, geometry: Geometry, a: Any, b: Any, *, precision: str
) -> Function | None:
    """Returns what was measured to be fastest on an H200, or None for XLA's own convolution.

    Only the order of the additions differs.

    Args:
      kind: what is computed.
      geometry: of the convolution.
      a: the first operand, or anything with its shape and dtype.
      b: the second operand, alike.
      precision: of matrix products.
    """
    if not geometry.has_sizes(kind, a.shape, b.shape):
        return None
    result = geometry.result_shape(kind, a.shape, b.shape)
    channels = (result if kind == "input_gradient" else a.shape)[3]
    if geometry.groups == 1 and geometry.stride > 1 and channels <= _FEW_CHANNELS:
        return _block_form(kind, geometry, precision)
    if kind == "kernel_gradient" and _is_mistaken(geometry):
        return _widened_kernel_gradient(geometry, precision)
    return None


def _block_form(kind: Kind, geometry: Geometry, precision: str) -> Function:
    """Returns a strided convolution of an image as one of stride 1 over its blocks of pixels.

    The `stride` x `stride` pixels of a block become channels of one pixel, and so do those of the
    kernel: an image's 3 channels become 12, or 48 where the stride is 4. cuDNN copies an image of
    3 channels into one of 8, which takes longer than the convolution.
    """
    stride = geometry.stride
    sides = [-(-side // stride) for side in geometry.kernel]
    counts = [size + side - 1 for size, side in zip(geometry.output, sides, strict=True)]
    # Zeros before and after the rows, then the columns. A negative number takes pixels away that no
    # place of the kernel meets.
    of_map = [
        (before, stride * count - before - size, 0)
        for (before, _), count, size in zip(geometry.pads, counts, geometry.image, strict=True)
    ]
    of_kernel = [
        (0, stride * side - size, 0) for side, size in zip(sides, geometry.kernel, strict=True)
    ]
    inner = Geometry((counts[0], counts[1]), (sides[0], sides[1]), 1, ((0, 0), (0, 0)), 1)
    convolve = general_form("forward", inner, precision)

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        zero = jnp.zeros((), x.dtype)
        x = lax.pad(x, zero, [(0, 0, 0), *of_map, (0, 0, 0)])
        kernel = lax.pad(kernel, zero, [*of_kernel, (0, 0, 0), (0, 0, 0)])
        return convolve(_blocks(x, 1, stride), _blocks(kernel, 0, stride))

    return of_kind(kind, geometry, forward)


def _blocks(x: jax.Array, axis: int, stride: int) -> jax.Array:
    """Returns rows and columns in blocks, whose pixels are channels, filled up with zeros.

    Args:
      x: of which rows, columns and channels are the axes from `axis` on.
      axis: that of the rows.
      stride: rows and columns of a block.
    """
    before, (height, width, channels), after = (
        x.shape[:axis],
        x.shape[axis:][:3],
        x.shape[axis + 3 :],
    )
    x = x.reshape(*before, height // stride, stride, width // stride, stride, channels, *after)
    x = jnp.moveaxis(x, axis + 1, axis + 2)
    x = x.reshape(*before, height // stride, width // stride, stride * stride * channels, *after)
    pads = [(0, 0)] * x.ndim
    pads[axis + 2] = (0, -x.shape[axis + 2] % _MULTIPLE)
    return jnp.pad(x, pads)


def _is_mistaken(geometry: Geometry) -> bool:
    """Returns whether XLA takes the gradient of a grouped kernel for another convolution.

    Where the output is no larger than the kernel, it looks like a convolution whose kernel is the
    output's gradient, and cuDNN computes that one 40 times as slowly if it is depthwise.
    """
    if geometry.groups == 1 or geometry.stride > 1 or geometry.kernel == (1, 1):
        return False
    return all(o <= k for o, k in zip(geometry.output, geometry.kernel, strict=True))


def _widened_kernel_gradient(geometry: Geometry, precision: str) -> Function:
    """Returns the gradient of the kernel for map and output with zeros at their ends.

    The output is then larger than the kernel, and the sums are the same.
    """
    more = [k + 1 - o for o, k in zip(geometry.output, geometry.kernel, strict=True)]
    height, width = (size + each for size, each in zip(geometry.image, more, strict=True))
    wider = dataclasses.replace(geometry, image=(height, width))
    general = general_form("kernel_gradient", wider, precision)
    zeros = [(0, 0), *((0, each) for each in more), (0, 0)]

    def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        # The barrier keeps the zeros out of the borders: cuDNN has its fast kernels for equal ones.
        return general(*lax.optimization_barrier((jnp.pad(x, zeros), jnp.pad(g, zeros))))

    return kernel_gradient

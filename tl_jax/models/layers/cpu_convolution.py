"""The forms in which convolutions run on CPUs, where XLA's own are slow in many shapes."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tl_jax.models.layers.general import general_form
from tl_jax.models.layers.geometry import Function, Geometry, Kind
from tl_jax.models.layers.shifted import shifted_form, shifted_map, with_borders

# The most pixels of the output for which matrix products of patches were faster than XLA's
# convolutions: 3x3 kernels of 64 to 512 channels and both strides, 16 images.
_FEW_PIXELS: dict[Kind, int] = {"forward": 25, "input_gradient": 64, "kernel_gradient": 256}
# Patches of fewer channels do not fill the vectors of a matrix product.
_FEWEST_CHANNELS = 16
_MOST_PATCH_BYTES = 64 * 2**20
# Channels of a part of a grouped convolution that is computed as a convolution of one group; twice
# as many were slower. More parts than this are a loop.
_PART_CHANNELS = 32
_MOST_PARTS = 64


def fastest_form(
    kind: Kind, geometry: Geometry, a: Any, b: Any, *, precision: str
) -> Function | None:
    """Returns what was measured to be fastest on a CPU, or None for XLA's own convolution.

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
    if geometry.is_depthwise(kind, a.shape, b.shape):
        return shifted_form(kind, geometry, on_cpu=True)
    if geometry.groups > 1:
        return functools.partial(_grouped, kind, geometry, precision)
    if geometry.kernel == (1, 1) or _is_small(kind, geometry, a, result):
        return _matrix_form(kind, geometry, precision)
    if kind == "forward":
        return None
    general = general_form(kind, geometry, precision)
    # XLA would compute what made the operands in the order of the convolution's loops, which takes
    # several times as long.
    return lambda a, b: general(*lax.optimization_barrier((a, b)))


def _is_small(kind: Kind, geometry: Geometry, a: Any, result: tuple[int, ...]) -> bool:
    """Returns whether the patches of a convolution are few, and wide enough, for products."""
    pixels = math.prod(geometry.output)
    channels = result[3] if kind == "input_gradient" else a.shape[3]
    patch_bytes = pixels * channels * math.prod(geometry.kernel) * a.dtype.itemsize
    return (
        pixels <= _FEW_PIXELS[kind]
        and channels >= _FEWEST_CHANNELS
        and isinstance(a.shape[0], int)
        and a.shape[0] * patch_bytes <= _MOST_PATCH_BYTES
    )


def _matrix_form(kind: Kind, geometry: Geometry, precision: str) -> Function:
    """Returns a convolution, or a gradient of it, as one matrix product.

    Its matrices are the patches of the map that the kernel meets, [B * H' * W', h * w * I], the
    kernel, [h * w * I, O], and the output, [B * H' * W', O].
    """

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = _product(_patches(x, geometry), _rows(kernel), 1, 0, precision)
        return y.reshape(x.shape[0], *geometry.output, -1)

    def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
        patches = _product(_rows(g), _rows(kernel), 1, 1, precision)
        return _sum_of_patches(patches.reshape(*g.shape[:3], *kernel.shape[:3]), geometry)

    def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        # Without the barrier, what made `g` is computed in a transposed, slow order.
        patches, rows = lax.optimization_barrier((_patches(x, geometry), _rows(g)))
        return _transposed_product(patches, rows, precision).reshape(
            *geometry.kernel, -1, g.shape[3]
        )

    return {
        "forward": forward,
        "input_gradient": input_gradient,
        "kernel_gradient": kernel_gradient,
    }[kind]


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int, precision: str) -> jax.Array:
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision)


def _transposed_product(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    """Returns a^T b of [N, I] and [N, O], with the narrower of the two on the left.

    With the wider one on the left it takes longer.
    """
    if a.shape[1] <= b.shape[1]:
        return _product(a, b, 0, 0, precision)
    # The barrier keeps XLA from turning the product around again.
    return lax.optimization_barrier(_product(b, a, 0, 0, precision)).T


def _patches(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the pixels that the kernel meets for each pixel of the output."""
    padded = with_borders(x, geometry, on_cpu=True)
    maps = [shifted_map(padded, geometry, i, j) for i, j in np.ndindex(geometry.kernel)]
    if len(maps) == 1:
        return _rows(maps[0])
    return _rows(lax.optimization_barrier(jnp.concatenate(maps, axis=-1)))


def _sum_of_patches(patches: jax.Array, geometry: Geometry) -> jax.Array:
    """Adds patches [B, H', W', h, w, I] to the pixels that they were taken from."""
    if math.prod(geometry.kernel) > 1:
        patches = lax.optimization_barrier(patches)
    zero = jnp.zeros((), patches.dtype)

    def spread(start: int, axis: int) -> tuple[int, int, int]:
        before, stride = start - geometry.pads[axis][0], geometry.stride
        covered = (geometry.output[axis] - 1) * stride + 1
        return before, geometry.image[axis] - before - covered, stride - 1

    total = sum(
        lax.pad(patches[:, :, :, i, j], zero, ((0, 0, 0), spread(i, 0), spread(j, 1), (0, 0, 0)))
        for i, j in np.ndindex(geometry.kernel)
    )
    return jnp.asarray(total)


def _grouped(
    kind: Kind, geometry: Geometry, precision: str, a: jax.Array, b: jax.Array
) -> jax.Array:
    """Computes a grouped convolution, or a gradient of it, as a few convolutions of one group.

    The kernel of each has those of several groups on its diagonal, and zeros elsewhere: they take
    less time than matrix products of a few channels.
    """
    groups = geometry.groups
    result = geometry.result_shape(kind, a.shape, b.shape)
    widest = max(shape[3] // groups for shape in (a.shape, b.shape, result))
    fitting = [m for m in range(1, groups + 1) if groups % m == 0 and m * widest <= _PART_CHANNELS]
    merged = max(fitting, default=1)
    one_group = dataclasses.replace(geometry, groups=1)

    def part(operands: tuple[jax.Array, jax.Array], form: Function) -> jax.Array:
        first, second = operands
        if kind != "kernel_gradient":
            second = lax.optimization_barrier(_on_diagonal(second, merged))
        found = form(first, second)
        return _of_diagonal(found, merged) if kind == "kernel_gradient" else found

    count = groups // merged
    if count > _MOST_PARTS:
        # `jax.vmap` makes a group of each convolution. In a loop XLA's convolutions are slow.
        in_loop = functools.partial(part, form=_matrix_form(kind, one_group, precision))
        stacks = tuple(jnp.moveaxis(x.reshape(*x.shape[:3], count, -1), 3, 0) for x in (a, b))
        return jnp.moveaxis(lax.map(in_loop, stacks), 0, 3).reshape(result)

    def whole(first: jax.Array, second: jax.Array) -> jax.Array:
        form = fastest_form(kind, one_group, first, second, precision=precision)
        return (form or general_form(kind, one_group, precision))(first, second)

    operands = zip(jnp.split(a, count, axis=3), jnp.split(b, count, axis=3), strict=True)
    return jnp.concatenate([part(each, whole) for each in operands], axis=3)


def _on_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Returns the kernel [h, w, I, O] of one group that computes one [h, w, I / groups, O]."""
    height, width, inputs, outputs = kernel.shape
    blocks = kernel.reshape(height, width, 1, inputs, groups, outputs // groups)
    square = jnp.where(_diagonal(groups), blocks, jnp.zeros((), kernel.dtype))
    return square.reshape(height, width, groups * inputs, outputs)


def _of_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Returns what `_on_diagonal` put there."""
    height, width, inputs, outputs = kernel.shape
    square = kernel.reshape(height, width, groups, inputs // groups, groups, outputs // groups)
    blocks = jnp.where(_diagonal(groups), square, jnp.zeros((), kernel.dtype)).sum(2)
    return blocks.reshape(height, width, inputs // groups, outputs)


def _diagonal(groups: int) -> jax.Array:
    return jnp.eye(groups, dtype=bool)[:, None, :, None]

"""Which convolutions oneDNN computes, as functions that JAX traces, and a line that says so."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import processor
from tl_jax.onednn import switch
from tl_jax.onednn.library import KINDS, library, load

Pads = tuple[tuple[int, int], tuple[int, int]]

# Multiplications of a part, below which to share the work costs more than it saves.
_LEAST_WORK = 1_000_000
# Kernels of more values than so many times those of both maps are left to XLA: of one pixel and in
# gradients to the kernel; and of several pixels, each of which oneDNN multiplies much faster.
_LARGE_KERNEL, _LARGE_KERNEL_OF_PIXELS = 1.25, 32.0
_TYPES = (jnp.float32, jnp.bfloat16)
# The code that takes float32 alone.
_IN_FLOAT32 = "tl_jax:depthwise"
# Partial sums of a kernel's gradient, in bytes: one for each part.
_MOST_PARTIAL_SUMS = 128 * 2**20


def form(
    kind: str, x: Any, kernel: Any, y: Any, *, stride: int, pads: Pads, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns a convolution, or a gradient of it, that oneDNN computes on one device.

    The function can be lowered for a CPU; it can neither be differentiated nor batched, and XLA
    cannot divide it among devices.

    Args:
      kind: "forward" (of x and the kernel), "input_gradient" (of the gradient of y and the kernel)
        or "kernel_gradient" (of x and the gradient of y).
      x: [B, H, W, I], or what has its shape and dtype, as the next two.
      kernel: [h, w, I / groups, O].
      y: [B, H', W', O].
      stride: step in both directions.
      pads: rows of zeros before and after the map, then columns.
      groups: number of groups of channels.

    Returns:
      A function of the two operands; None if oneDNN is switched off or cannot be used, or if
      another form of this convolution is as fast.

    Raises:
      UnavailableError: if the switch is "on" and oneDNN cannot be used.
    """
    used = library()
    shapes = x.shape, kernel.shape, y.shape
    if used is None or x.dtype not in _TYPES or any(0 in shape for shape in shapes):
        return None
    if _is_mostly_kernel(kind, shapes):
        return None
    is_bfloat16 = x.dtype == jnp.bfloat16
    borders = [*pads[0], *pads[1]]
    parts = _num_parts(kind, shapes)
    code = used.implementation(
        kind,
        shapes,
        is_bfloat16=is_bfloat16,
        stride=(stride, stride),
        pads=borders,
        groups=groups,
        parts=parts,
    )
    if not _is_fast(code, is_bfloat16=is_bfloat16):
        return None
    result = {"forward": y, "input_gradient": x, "kernel_gradient": kernel}[kind]
    attributes = {
        "kind": np.int64(KINDS.index(kind)),
        "groups": np.int64(groups),
        "parts": np.int64(parts),
        "stride": np.array([stride, stride], np.int64),
        "pads": np.array(borders, np.int64),
    }
    dtype = jnp.float32 if code == _IN_FLOAT32 else x.dtype
    call = jax.ffi.ffi_call(used.target, jax.ShapeDtypeStruct(result.shape, dtype))
    return lambda a, b: call(a.astype(dtype), b.astype(dtype), **attributes).astype(x.dtype)


def used_version(num_devices: int) -> str | None:
    """Returns the version of oneDNN that a program for a CPU uses; None if it uses none.

    Args:
      num_devices: of the program; XLA cannot divide oneDNN's convolutions among several.

    Raises:
      UnavailableError: if the switch is "on" and oneDNN cannot be used.
    """
    if switch.mode() == "off" or num_devices > 1:
        return None
    used = library()
    return None if used is None else used.version


def describe(num_devices: int) -> str:
    """Returns which convolutions a program for a CPU uses, in one line for the log of a run.

    Args:
      num_devices: of the program.

    Raises:
      UnavailableError: if the switch is "on" and oneDNN cannot be used.
    """
    if switch.mode() == "off":
        return f"XLA ({switch.VARIABLE} is off)"
    if num_devices > 1:
        return f"XLA (a program for {num_devices} devices does not use oneDNN)"
    version = used_version(num_devices)
    if version is None:
        return f"XLA ({' '.join(str(load()).split())})"  # One line.
    return f"oneDNN {version} ({switch.VARIABLE}=off for XLA's)"


def _num_parts(kind: str, shapes: Sequence[Sequence[int]]) -> int:
    """Returns into how many parts a convolution is cut: one a core, if it is large enough."""
    _, kernel, y = (math.prod(shape) for shape in shapes)
    work = y * shapes[1][0] * shapes[1][1] * shapes[1][2]
    parts = min(processor.num_cores(), work // _LEAST_WORK)
    if kind == "kernel_gradient":
        parts = min(parts, _MOST_PARTIAL_SUMS // (4 * kernel))
    return max(1, parts)


def _is_mostly_kernel(kind: str, shapes: Sequence[Sequence[int]]) -> bool:
    """Returns whether the kernel is so large that XLA is faster.

    oneDNN has a layout of its own for kernels, and copies them in each call.
    """
    x, kernel, y = (math.prod(shape) for shape in shapes)
    is_pointwise = tuple(shapes[1][:2]) == (1, 1)
    is_soon_large = is_pointwise or kind == "kernel_gradient"
    return kernel > (_LARGE_KERNEL if is_soon_large else _LARGE_KERNEL_OF_PIXELS) * (x + y)


def _is_fast(code: str, *, is_bfloat16: bool) -> bool:
    """Returns whether oneDNN has code of its own for this convolution and this CPU."""
    if code == _IN_FLOAT32:
        return True
    if is_bfloat16 and not ("bf16" in code or "amx" in code):
        return False
    return code != "" and "ref" not in code and "gemm" not in code

"""Checks the numbers of a state dict: floating point, finite, and dense."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tl_jax import messages

# Types that become float32 as they are; integers and 8-bit floats would need a scale.
_FLOATS = tuple(np.dtype(t) for t in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16))


class TensorError(ValueError):
    """Tensors that cannot be the weights of a network; the message lists their keys."""


def as_array(key: str, value: Any) -> np.ndarray:
    """Returns a tensor as a NumPy array of the same type.

    Args:
      key: its name, for the message.
      value: a NumPy array, a torch tensor, or anything that `numpy.asarray` takes.

    Raises:
      TensorError: if it is a quantised, sparse or meta tensor of torch.

    Examples:
      >>> as_array("fc.bias", [0.5, 1.0]).dtype
      dtype('float64')
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    if value.is_quantized:
        raise TensorError(f"{key} is quantised ({value.dtype}); give the floating-point weights")
    if str(value.layout) != "torch.strided":
        raise TensorError(f"{key} is a sparse tensor; give it dense: tensor.to_dense()")
    if value.is_meta:
        raise TensorError(f"{key} is on the device 'meta', without values; load the weights first")
    value = value.detach().cpu()
    # NumPy has no bfloat16 of its own; float32 holds the same values.
    return np.asarray(value.float() if str(value.dtype) == "torch.bfloat16" else value)


def check_values(arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that arrays can be weights of a network in float32.

    Raises:
      TensorError: naming every array that is not of a floating-point type of 16 to 64 bits, holds
        NaN or infinity (or would, in float32), or is a variance with a negative value.

    Examples:
      >>> check_values({"fc.bias": np.zeros(3, np.float16)})
    """
    problems = [
        f"{key}: {problem}" for key, array in arrays.items() if (problem := _problem(key, array))
    ]
    if problems:
        raise TensorError(
            messages.report(
                "tensors that cannot be the weights of a network:",
                problems,
                "save the state dict of the trained network in floating point, before it is "
                "quantised or converted, and from a training that did not diverge",
            )
        )


def conversions(arrays: Mapping[str, np.ndarray]) -> str:
    """Describes the types that arrays are converted from; "" if all are float32.

    Examples:
      >>> conversions({"a": np.zeros(3, np.float16), "b": np.zeros(3, np.float32)})
      'float16 converted to float32'
    """
    kinds = sorted({str(array.dtype) for array in arrays.values() if array.dtype in _FLOATS[1:]})
    return f"{' and '.join(kinds)} converted to float32" if kinds else ""


def _problem(key: str, array: np.ndarray) -> str:
    """Describes what is wrong with an array; "" if nothing is."""
    if array.dtype not in _FLOATS:
        return f"of type {array.dtype}, expected floating point"
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is cheaper than a test of each value, and finite only if all values are.
        if not np.isfinite(array.sum(dtype=np.float32 if array.itemsize < 4 else None)):
            count = array.size - int(np.isfinite(array.astype(np.float32)).sum())
            if count:
                return f"{count} of {array.size} values are NaN or infinite"
        if array.dtype == np.float64 and not np.isfinite(array.astype(np.float32)).all():
            return f"values up to {np.abs(array).max():.3g}, beyond the range of float32"
    if key.endswith("running_var") and array.size and array.min() < 0:
        return f"a variance, with values down to {array.min():.3g}"
    return ""

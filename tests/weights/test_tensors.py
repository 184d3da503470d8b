"""Only dense, finite floating-point numbers become weights."""

import ml_dtypes
import numpy as np
import pytest
import torch

from tl_jax.weights.tensors import TensorError, as_array, check_values, conversions

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_of_16_to_64_bits_are_accepted(kind):
    check_values({"w": ONES.astype(kind), "empty": np.zeros((0, 2), kind)})
    # The sum of finite values may be beyond their range.
    check_values({"w": np.full(9, np.finfo(np.float32).max / 2, np.float32)})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ONES.astype(np.int8), "of type int8, expected floating point"),
        (ONES.astype(bool), "of type bool"),
        (ONES.astype(np.complex64), "of type complex64"),
        (ONES.astype(ml_dtypes.float8_e4m3fn), "of type float8_e4m3fn"),
        (ONES.astype(object), "of type object"),
        (np.where(np.eye(3) > 0, np.nan, 1), "3 of 9 values are NaN or infinite"),
        (np.array([1, np.inf], np.float16), "1 of 2 values are NaN or infinite"),
        (np.array([np.inf, -np.inf], np.float32), "2 of 2 values"),
        (np.array([1.0, 1e39]), "1 of 2 values|beyond the range of float32"),
    ],
)
def test_other_values_are_refused_by_key(array, message):
    with pytest.raises(TensorError, match=rf"conv\.weight: .*({message})"):
        check_values({"ok": ONES, "conv.weight": array})


def test_a_negative_variance_is_refused():
    with pytest.raises(TensorError, match=r"bn1\.running_var: a variance, with values down to -1"):
        check_values({"bn1.running_mean": -ONES, "bn1.running_var": -ONES})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is quantised"),
        (torch.eye(3).to_sparse(), "is a sparse tensor"),
        (torch.ones(3, device="meta"), "is on the device .meta., without values"),
    ],
)
def test_tensors_of_torch_without_dense_values_are_refused(tensor, message):
    with pytest.raises(TensorError, match=f"conv.weight {message}"):
        as_array("conv.weight", tensor)


def test_tensors_of_torch_keep_their_type():
    for tensor in (torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.int8)):
        assert str(as_array("w", tensor).dtype) == str(tensor.dtype).removeprefix("torch.")
    assert as_array("w", torch.full((2,), 1.5, dtype=torch.bfloat16)).tolist() == [1.5, 1.5]


def test_conversions_are_said():
    arrays = {"a": ONES, "b": ONES.astype(np.float16), "n": np.array(3)}
    assert conversions(arrays) == "float16 converted to float32"
    assert conversions({"a": ONES}) == ""

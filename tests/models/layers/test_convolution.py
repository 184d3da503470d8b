"""Tests of convolutions in the form of each platform: derivatives, batches, lowering, devices.

What is compared is compiled as one program, which takes most of the time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from tests.support import devices
from tl_jax.models import layers
from tl_jax.models.layers.convolution import convolution

# Map, kernel, stride, rows and columns added around the map, channels, groups, outputs. Every form
# for CPUs is here, with borders that differ, kernels smaller than the stride, and rows that no
# output sees.
CASES = {
    "3x3": ((7, 8), (3, 3), 2, ((0, 1), (1, 1)), 8, 1, 8),
    "3x3, small": ((9, 8), (3, 3), 2, ((0, 1), (1, 1)), 16, 1, 8),
    "1x1": ((5, 4), (1, 1), 1, ((0, 0), (0, 0)), 8, 1, 4),
    "1x1, strided": ((7, 8), (1, 1), 2, ((0, 0), (0, 0)), 8, 1, 12),
    "1x1, padded": ((7, 8), (1, 1), 2, ((1, 2), (0, 1)), 8, 1, 4),
    "1x1, grouped": ((7, 8), (1, 1), 3, ((0, 0), (0, 0)), 8, 4, 8),
    "depthwise": ((17, 6), (3, 5), 1, ((1, 1), (2, 2)), 8, 8, 8),
    "depthwise, strided": ((7, 9), (5, 3), 2, ((2, 2), (0, 1)), 8, 8, 8),
    "depthwise, wide borders": ((5, 5), (3, 3), 2, ((3, 3), (3, 4)), 8, 8, 8),
    "depthwise, multiplied": ((9, 8), (2, 2), 3, ((0, 0), (0, 0)), 8, 8, 16),
    "grouped": ((9, 7), (3, 3), 1, ((1, 1), (1, 1)), 8, 2, 6),
    "grouped, strided": ((6, 7), (3, 3), 2, ((1, 1), (1, 0)), 8, 4, 4),
}


def operands(name: str) -> tuple[jax.Array, jax.Array]:
    """Returns two maps and a kernel of a case."""
    image, kernel, _, _, channels, groups, outputs = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *image, channels), dtype=np.float32)
    # Small outputs, because their sines are compared.
    return x, rng.standard_normal((*kernel, channels // groups, outputs), dtype=np.float32) / 4


def convolve(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    _, _, stride, pads, *_ = CASES[name]
    return convolution(x, kernel, stride=stride, pads=pads)


def xla(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the same by XLA's own convolution, with jax's own derivatives and batches."""
    _, _, stride, pads, _, groups, _ = CASES[name]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def gradients(function, name, x, kernel):
    """Returns the gradients of a curved function of the output to both operands."""
    return jax.grad(lambda *args: jnp.sum(jnp.sin(function(name, *args))), (0, 1))(x, kernel)


def assert_equal(names, compute, tolerance: float = 1e-5) -> None:
    """Compares what `compute(function, name)` returns for `convolve` and for `xla`, by case."""
    ours, expected = (
        jax.jit(lambda f=f: {name: compute(f, name) for name in names})() for f in (convolve, xla)
    )
    for name in names:
        for actual, wanted in zip(
            jax.tree.leaves(ours[name]), jax.tree.leaves(expected[name]), strict=True
        ):
            assert actual.dtype == wanted.dtype
            actual, wanted = (np.asarray(each, np.float64) for each in (actual, wanted))
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(actual, wanted, atol=tolerance * scale, err_msg=name)


def test_outputs_and_gradients_are_those_of_xlas_convolution():
    def compute(f, name):
        x, kernel = operands(name)
        return f(name, x, kernel), gradients(f, name, x, kernel)

    assert_equal(CASES, compute)


some_or_all = pytest.mark.parametrize(
    "names",
    [
        pytest.param(("3x3, small", "depthwise, strided"), id="some"),
        pytest.param(tuple(CASES), id="all", marks=pytest.mark.full),
    ],
)


@some_or_all
def test_forward_mode_and_second_derivatives(names):
    def compute(f, name):
        x, kernel = operands(name)

        def size(x, kernel):
            return sum(jnp.sum(jnp.square(g)) for g in gradients(f, name, x, kernel))

        return jax.jvp(functools.partial(f, name), (x, kernel), (x, kernel)), jax.grad(
            size, (0, 1)
        )(x, kernel)

    assert_equal(names, compute)


@some_or_all
@pytest.mark.parametrize("axes", [(1, None), (None, 2), (0, 3)], ids=["maps", "kernels", "both"])
def test_batches_of_convolutions_and_of_their_gradients(names, axes):
    def compute(f, name):
        batches = [
            each if axis is None else jnp.stack([each, each[::-1], 0.3 * each], axis)
            for each, axis in zip(operands(name), axes, strict=True)
        ]
        run = jax.vmap(lambda *args: (f(name, *args), gradients(f, name, *args)), axes)
        return run(*batches)

    assert_equal(names, compute)


def test_a_large_batch_of_convolutions_with_kernels_of_their_own():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((130, 1, 7, 8, 16), dtype=np.float32)
    kernels = rng.standard_normal((130, 3, 3, 16, 2), dtype=np.float32) / 4

    def compute(f, name):
        return jax.vmap(lambda *args: gradients(f, name, *args))(x, kernels)

    assert_equal(["3x3"], compute)


@some_or_all
def test_half_precision_adds_in_float32(names):
    def compute(f, name):
        x, kernel = (jnp.asarray(each, jnp.bfloat16) for each in operands(name))
        return f(name, x, kernel), gradients(f, name, x, kernel)

    assert_equal(names, compute, tolerance=0.02)


@some_or_all
def test_double_precision(names):
    def compute(f, name):
        x, kernel = (jnp.asarray(each, jnp.float64) for each in operands(name))
        return f(name, x, kernel), gradients(f, name, x, kernel)

    with jax.enable_x64(True):
        assert_equal(names, compute, tolerance=1e-13)


def lowered(platform: str, name: str, precision: str | None = None) -> str:
    """Returns the program of the gradients on a platform that need not be here."""
    with jax.default_matmul_precision(precision):
        # A new function, because jax keeps what it traced.
        traced = jax.jit(lambda *args: gradients(convolve, name, *args)).trace(*operands(name))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def num_convolutions(program: str) -> int:
    return program.count("stablehlo.convolution")


def test_a_program_holds_the_form_of_its_platform_alone():
    assert num_convolutions(lowered("cuda", "depthwise")) == 3
    assert num_convolutions(lowered("cpu", "depthwise")) == 0
    with layers.convolution_form("general"):
        assert num_convolutions(lowered("cpu", "depthwise")) == 3
    with layers.convolution_form("shifted"):
        assert num_convolutions(lowered("cuda", "depthwise")) == 0
        assert num_convolutions(lowered("cuda", "3x3")) == 3
        assert num_convolutions(lowered("cpu", "depthwise")) == 0
    assert num_convolutions(lowered("cuda", "depthwise")) == 3


def test_the_form_of_shifted_products_for_accelerators_has_the_same_values():
    name = "depthwise, strided"
    # The context that `lower` is told of decides, so a CPU can run what a GPU would.
    x, kernel = operands(name)
    with layers.convolution_form("shifted"):
        exported = export.export(
            jax.jit(lambda *args: gradients(convolve, name, *args)),
            platforms=("cuda",),
            disabled_checks=[export.DisabledSafetyCheck.platform()],
        )(x, kernel)
    expected = gradients(xla, name, x, kernel)
    for ours, theirs in zip(exported.call(x, kernel), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_unknown_form_is_an_error_that_names_the_nearest():
    with (
        pytest.raises(ValueError, match="got 'shift'; did you mean 'shifted'"),
        layers.convolution_form("shift"),
    ):
        pass


def test_the_precision_is_that_of_the_trace():
    assert lowered("cuda", "3x3", "highest").count("HIGHEST") >= 6
    assert "HIGHEST" not in lowered("cuda", "3x3")


def test_one_export_runs_on_each_platform_and_for_any_number_of_images():
    name = "depthwise, strided"
    x, kernel = operands(name)
    (size,) = export.symbolic_shape("b")
    exported = export.export(
        jax.jit(functools.partial(gradients, convolve, name)), platforms=("cpu", "cuda", "tpu")
    )(jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), kernel)
    for ours, theirs in zip(exported.call(x, kernel), gradients(xla, name, x, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_operands_that_do_not_fit_are_errors():
    x, kernel = operands("3x3")
    with pytest.raises(TypeError, match="one type; got float32 and bfloat16"):
        convolve("3x3", x, kernel.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"\(3, 3, 3, 8\) does not fit .* \(2, 7, 8, 8\)"):
        convolve("3x3", x, kernel[:, :, :3])


def test_several_devices_divide_the_images(tmp_path):
    devices.run_on_devices(devices.convolve, tmp_path)

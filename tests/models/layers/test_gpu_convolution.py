"""Tests of the forms of convolutions for GPUs: they equal XLA's own, which they stand for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tl_jax.models.layers import gpu_convolution
from tl_jax.models.layers.convolution import convolution, convolution_form
from tl_jax.models.layers.general import general_form
from tl_jax.models.layers.geometry import Geometry

KINDS = ("forward", "input_gradient", "kernel_gradient")
# Geometry, channels and outputs.
STEMS = {
    "7x7, two steps": (Geometry((16, 18), (7, 7), 2, ((3, 3), (3, 3)), 1), 3, 8),
    "rows that no output sees": (Geometry((17, 15), (4, 4), 4, ((0, 0), (0, 0)), 1), 3, 8),
    "borders that differ": (Geometry((9, 11), (3, 3), 2, ((0, 1), (2, 1)), 1), 1, 4),
    "a kernel smaller than its step": (Geometry((11, 10), (2, 1), 3, ((1, 0), (0, 0)), 1), 4, 4),
    "three steps": (Geometry((12, 12), (5, 7), 3, ((2, 2), (3, 3)), 1), 2, 4),
}
SMALL_MAPS = {
    "as large as the kernel": (Geometry((7, 7), (7, 7), 1, ((3, 3), (3, 3)), 8), 8, 8),
    "smaller": (Geometry((2, 3), (7, 5), 1, ((3, 3), (2, 2)), 4), 8, 8),
    "borders that differ": (Geometry((3, 3), (4, 4), 1, ((1, 2), (2, 1)), 4), 4, 8),
}
OTHERS = {
    "many channels": (Geometry((8, 8), (3, 3), 2, ((1, 1), (1, 1)), 1), 16, 8),
    "an image, one step": (Geometry((8, 8), (3, 3), 1, ((1, 1), (1, 1)), 1), 3, 8),
    "large maps": (Geometry((8, 8), (7, 7), 1, ((3, 3), (3, 3)), 8), 8, 8),
    "small, of one group": (Geometry((3, 3), (3, 3), 1, ((1, 1), (1, 1)), 1), 8, 8),
    "one pixel": (Geometry((1, 1), (1, 1), 1, ((0, 0), (0, 0)), 8), 8, 8),
    "small, two steps": (Geometry((4, 4), (3, 3), 2, ((1, 1), (1, 1)), 8), 8, 8),
    "nothing": (Geometry((2, 2), (7, 7), 2, ((0, 0), (0, 0)), 1), 3, 8),
}


def operands(kind, case, dtype=np.float32):
    """Returns the two operands of a convolution or of a gradient of it, for two images."""
    geometry, channels, outputs = case
    shapes = {
        "x": (2, *geometry.image, channels),
        "kernel": (*geometry.kernel, channels // geometry.groups, outputs),
        "g": (2, *geometry.output, outputs),
    }
    names = {"forward": "x kernel", "input_gradient": "g kernel", "kernel_gradient": "x g"}[kind]
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shapes[name]), dtype) for name in names.split()]


def fastest(kind, case, a, b):
    return gpu_convolution.fastest_form(kind, case[0], a, b, precision="highest")


def compare(kind, case, dtype, tolerance):
    a, b = operands(kind, case, dtype)
    ours = jax.jit(fastest(kind, case, a, b))(a, b)
    expected = jax.jit(general_form(kind, case[0], "highest"))(a, b)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(
        np.asarray(ours, np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize(("kind", "name"), list(itertools.product(KINDS, STEMS)))
def test_a_strided_convolution_of_an_image_is_that_of_its_blocks(kind, name):
    compare(kind, STEMS[name], np.float32, 2e-5)


@pytest.mark.parametrize("name", SMALL_MAPS)
def test_the_gradient_of_a_kernel_larger_than_the_maps_is_the_same(name):
    compare("kernel_gradient", SMALL_MAPS[name], np.float32, 2e-5)


def test_zeros_make_the_maps_one_pixel_larger_than_the_kernel():
    """Else XLA would take the gradient for a forward convolution."""
    case = SMALL_MAPS["as large as the kernel"]
    x, g = operands("kernel_gradient", case)
    program = jax.jit(fastest("kernel_gradient", case, x, g)).lower(x, g).as_text()
    barrier = next(line for line in program.splitlines() if "optimization_barrier" in line)
    assert barrier.count("tensor<2x8x8x8xf32>") == 2


def test_half_precision():
    compare("kernel_gradient", SMALL_MAPS["smaller"], jnp.bfloat16, 0.05)
    compare("forward", STEMS["7x7, two steps"], jnp.bfloat16, 0.2)


def test_the_others_are_left_to_xla():
    for kind, (name, case) in itertools.product(KINDS, OTHERS.items()):
        assert fastest(kind, case, *operands(kind, case)) is None, (kind, name)
    for kind in ("forward", "input_gradient"):
        case = SMALL_MAPS["as large as the kernel"]
        assert fastest(kind, case, *operands(kind, case)) is None


def test_an_export_for_any_number_of_images():
    case = STEMS["7x7, two steps"]
    x, kernel = operands("forward", case)
    (size,) = export.symbolic_shape("b")
    exported = export.export(
        jax.jit(lambda x, kernel: convolution(x, kernel, stride=2, pads=((3, 3), (3, 3)))),
        platforms=("cuda",),
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )(jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), kernel)
    expected = general_form("forward", case[0], "highest")(x, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), expected, rtol=0, atol=2e-5)


def test_programs_for_nvidia_gpus_alone_hold_these_forms():
    def lowered(platform, form):
        with convolution_form(form):
            traced = jax.jit(
                lambda x, kernel: convolution(x, kernel, stride=2, pads=((3, 3), (3, 3)))
            ).trace(jnp.ones((1, 32, 32, 3)), jnp.ones((7, 7, 3, 8)))
        return traced.lower(lowering_platforms=(platform,)).as_text()

    blocks = "tensor<1x19x19x16xf32>"  # 3 channels in blocks of 2 x 2, filled up to 16.
    assert blocks in lowered("cuda", "fastest")
    assert blocks in lowered("cuda", "shifted")
    assert blocks not in lowered("cuda", "general")
    assert blocks not in lowered("rocm", "fastest")
    assert blocks not in lowered("tpu", "fastest")

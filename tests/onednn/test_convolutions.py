"""oneDNN's convolutions beside XLA's: values, gradients, repetition, what they are not used for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import onednn as support
from tests.support.devices import run_on_devices
from tests.support.onednn import Case, is_used, operands, plain
from tl_jax import onednn
from tl_jax.models.layers.convolution import convolution


@pytest.fixture(autouse=True)
def on():
    support.loaded()
    with onednn.switched("on"):
        yield


SYMMETRIC = ((1, 1), (1, 1))
CASES: dict[str, Case] = {
    "stem": ((4, 9, 12, 3), (3, 3, 3, 8), 2, SYMMETRIC),
    "asymmetric": ((3, 9, 12, 8), (3, 3, 8, 16), 2, ((0, 1), (2, 0))),
    "rectangular": ((2, 9, 12, 8), (1, 5, 8, 8), 1, ((0, 0), (2, 2))),
    "1x1": ((3, 9, 12, 16), (1, 1, 16, 24), 2, ((0, 0), (0, 0))),
    "depthwise": ((3, 9, 12, 32), (3, 3, 1, 32), 1, SYMMETRIC),
    # Gradients of their own, in blocks of 16, 4 and 1 channels.
    "depthwise of width 5": ((3, 9, 12, 37), (5, 5, 1, 37), 2, ((1, 2), (2, 1))),
    "depthwise of width 7": ((2, 5, 6, 20), (7, 7, 1, 20), 1, ((3, 3), (3, 3))),
    "multiplied channels": ((2, 9, 12, 6), (3, 3, 1, 12), 1, SYMMETRIC),
    "grouped": ((2, 9, 12, 32), (3, 3, 8, 32), 1, SYMMETRIC),
    # Large enough to be cut into parts: of images, and of rows of one image.
    "images in parts": ((5, 24, 24, 64), (3, 3, 64, 128), 1, SYMMETRIC),
    "rows in parts": ((1, 33, 32, 64), (3, 3, 64, 64), 2, ((0, 1), (0, 1))),
}


def all_three(function, case: Case, x, kernel, dy):
    """Returns a convolution of x and the kernel, and the gradients to both."""
    y, back = jax.vjp(functools.partial(function, stride=case[2], pads=case[3]), x, kernel)
    return y, *back(dy)


def test_convolutions_and_their_gradients_equal_xlas():
    values = {name: operands(case) for name, case in CASES.items()}
    for name, (x, kernel) in values.items():
        _, _, stride, pads = CASES[name]
        y = jax.eval_shape(functools.partial(plain, stride=stride, pads=pads), x, kernel)
        dy = np.random.default_rng(1).normal(size=y.shape)
        values[name] = (x, kernel, jnp.asarray(dy, x.dtype))

    def run(function, values):
        return {name: all_three(function, CASES[name], *values[name]) for name in values}

    ours = jax.jit(lambda values: run(convolution, values))
    lowered = ours.lower(values)
    assert lowered.as_text().count("stablehlo.custom_call @tl_jax_onednn_") == 3 * len(CASES)
    actual, expected = ours(values), jax.jit(lambda values: run(plain, values))(values)
    for name in CASES:
        for what, a, b in zip(("y", "dx", "dkernel"), actual[name], expected[name], strict=True):
            atol = 1e-5 * np.abs(b).max()
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=f"{name}: {what}")
    repeated = ours(values)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_equals_float32_but_for_rounding():
    case = CASES["images in parts"]
    x, kernel = operands(case, dtype=jnp.bfloat16)
    dy = jnp.ones((5, 24, 24, 128), jnp.bfloat16)
    actual = jax.jit(lambda *args: all_three(convolution, case, *args))(x, kernel, dy)
    exact = [array.astype(jnp.float32) for array in (x, kernel, dy)]
    expected = jax.jit(lambda *args: all_three(plain, case, *args))(*exact)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.02, atol=0.01 * np.abs(b).max())


def test_second_derivatives_and_vmap_equal_xlas():
    case: Case = ((2, 6, 6, 4), (3, 3, 4, 4), 1, SYMMETRIC)
    x, kernel = operands(case)
    several = jnp.stack([x, 2 * x, -x])

    def derivatives(function, several, kernel):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(function(x, kernel, stride=1, pads=SYMMETRIC)))

        def grad_norm(x, kernel):
            return jnp.sum(jnp.square(jax.grad(loss, argnums=1)(x, kernel)))

        second = jax.grad(grad_norm, argnums=(0, 1))
        forward = jax.jvp(lambda kernel: loss(x, kernel), (kernel,), (kernel,))
        return jax.vmap(second, in_axes=(0, None))(several, kernel), forward

    actual, expected = (
        jax.jit(lambda s, k, f=f: derivatives(f, s, k))(several, kernel)
        for f in (convolution, plain)
    )
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_it_is_not_used_where_it_is_off_or_would_not_pay():
    def ours(x, kernel):
        return convolution(x, kernel, stride=1, pads=((0, 0), (0, 0)))

    image, kernel = jnp.ones((1, 4, 4, 64)), jnp.ones((1, 1, 64, 64))
    assert not is_used(lambda x, k: ours(x, k), image, kernel)  # A kernel larger than the maps.
    images = jnp.ones((16, 4, 4, 64))
    assert is_used(lambda x, k: ours(x, k), images, kernel)
    several_pixels = jnp.ones((3, 3, 64, 64))
    assert is_used(lambda x, k: ours(x, k), image, several_pixels)
    assert not is_used(lambda x, k: ours(x, k), image[..., :3, :3, :], several_pixels)
    assert not is_used(
        lambda x, k: ours(x, k), images.astype(jnp.float16), kernel.astype(jnp.float16)
    )
    with onednn.switched("off"):
        assert not is_used(lambda x, k: ours(x, k), images, kernel)


def test_exported_programs_need_no_library():
    x, kernel = operands(CASES["stem"])
    exported = jax.export.export(
        jax.jit(lambda x, k: convolution(x, k, stride=2, pads=SYMMETRIC)), platforms=("cpu",)
    )(x, kernel)
    assert "tl_jax_onednn_" not in exported.mlir_module()


@pytest.mark.slow
def test_on_several_devices_it_is_used_where_each_has_its_share(tmp_path):
    run_on_devices(support.on_four_devices, tmp_path)


def test_parts_of_several_sizes_have_fast_code():
    """Of 14 rows in three parts, the first part's layout of the kernel does not suit the others."""
    library = support.loaded()
    for parts in range(1, 6):
        code = library.implementation(
            "forward",
            [(1, 14, 14, 1024), (1, 1, 1024, 256), (1, 14, 14, 256)],
            is_bfloat16=False,
            stride=(1, 1),
            pads=(0, 0, 0, 0),
            groups=1,
            parts=parts,
        )
        assert code
        assert "ref" not in code

"""What is said to XLA of each program, and what XLA_FLAGS say before it."""

import jax
import pytest

from tl_jax import xla_flags
from tl_jax.training import sharding

PRODUCTS = "xla_gpu_enable_triton_gemm"


@pytest.mark.parametrize("flags", ["", "--xla_dump_to=/tmp/a"])
def test_products_are_left_to_cublas_on_a_gpu_alone(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert xla_flags.of_program("gpu") == {PRODUCTS: False}
    assert xla_flags.of_program("cpu") == xla_flags.of_program("tpu") == {}


@pytest.mark.parametrize("flag", [f"--{PRODUCTS}=true", f"--{PRODUCTS}=false", f"--{PRODUCTS}"])
def test_what_the_user_says_stands(monkeypatch, flag):
    monkeypatch.setenv("XLA_FLAGS", flag)
    assert xla_flags.of_program("gpu") == {}


def test_steps_are_compiled_with_the_options_of_their_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(xla_flags, "of_program", lambda platform: asked.append(platform) or {})
    mesh = sharding.data_mesh(jax.devices()[:1])
    sharding.jit_train_step(lambda state, batch: (state, {}), mesh)
    sharding.jit_keyed_train_step(lambda key, state, batch: (state, {}), mesh, jax.random.key(0))
    sharding.jit_eval_step(lambda variables, batch: {}, mesh)
    assert asked == ["cpu"] * 3


def test_a_compiler_option_that_xla_does_not_know_is_its_error(monkeypatch):
    monkeypatch.setattr(xla_flags, "of_program", lambda platform: {"xla_no_such_option": True})
    step = sharding.jit_eval_step(lambda variables, batch: batch, sharding.data_mesh())
    with pytest.raises(Exception, match="xla_no_such_option"):
        step({}, jax.numpy.zeros(jax.device_count()))

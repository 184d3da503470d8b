"""What is said to XLA of each program, and what XLA_FLAGS say before it."""

from types import SimpleNamespace

import jax
import pytest

from tl_jax import xla_flags
from tl_jax.training import sharding

PRODUCTS = "xla_gpu_enable_triton_gemm"


def of(kind):
    """Returns the options of a program for a kind of device."""
    return xla_flags.of_program(SimpleNamespace(device_kind=kind))


@pytest.mark.parametrize("flags", ["", "--xla_dump_to=/tmp/a"])
def test_products_are_left_to_cublas_on_nvidias_gpus_alone(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert of("NVIDIA H200") == {PRODUCTS: False}
    assert of("cpu") == of("TPU v5e") == of("AMD Instinct MI300X") == {}


@pytest.mark.parametrize("flag", [f"--{PRODUCTS}=true", f"--{PRODUCTS}=false", f"--{PRODUCTS}"])
def test_what_the_user_says_stands(monkeypatch, flag):
    monkeypatch.setenv("XLA_FLAGS", flag)
    assert of("NVIDIA H200") == {}


def test_steps_are_compiled_with_the_options_of_their_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(xla_flags, "of_program", lambda device: asked.append(device) or {})
    mesh = sharding.data_mesh(jax.devices()[:1])
    sharding.jit_train_step(lambda state, batch: (state, {}), mesh)
    sharding.jit_keyed_train_step(lambda key, state, batch: (state, {}), mesh, jax.random.key(0))
    sharding.jit_eval_step(lambda variables, batch: {}, mesh)
    assert asked == jax.devices()[:1] * 3


def test_the_options_reach_the_compiler(monkeypatch):
    monkeypatch.setattr(xla_flags, "of_program", lambda device: {"xla_no_such_option": True})
    step = sharding.jit_eval_step(lambda variables, batch: batch, sharding.data_mesh())
    with pytest.raises(Exception, match="xla_no_such_option"):
        step({}, jax.numpy.zeros(jax.device_count()))

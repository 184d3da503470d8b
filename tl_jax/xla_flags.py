"""What a user says in XLA_FLAGS, and what is said to XLA beside it, program by program."""

import os
import shlex
from pathlib import Path

import jax

VARIABLE = "XLA_FLAGS"
# Every matrix product is left to cuBLAS, which adds the bias in the same kernel. XLA would prepare
# it for Triton, time both, and choose cuBLAS for nearly all; the bias then is a kernel of its own.
_ON_NVIDIA = {"xla_gpu_enable_triton_gemm": False}


def of_program(device: jax.Device) -> dict[str, bool]:
    """Returns the compiler's options of a program for a device; what XLA_FLAGS say of one stands.

    Examples:
      >>> of_program(jax.devices("cpu")[0])
      {}
    """
    options = _ON_NVIDIA if "NVIDIA" in device.device_kind else {}
    said = given()
    return {name: value for name, value in options.items() if name not in said}


def given() -> dict[str, str]:
    """Returns the values of the flags that XLA_FLAGS set, by name; of several the last counts."""
    words = (word.lstrip("-").partition("=") for word in shlex.split(text()))
    return {name: value.lower() for name, _, value in words}


def text() -> str:
    """Returns XLA_FLAGS in one line; as in XLA, the variable may name a file that holds them."""
    flags = os.environ.get(VARIABLE, "").strip()
    if flags and not flags.startswith("--"):
        flags = Path(flags).read_text(encoding="utf-8")
    return " ".join(flags.split())

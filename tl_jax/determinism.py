"""The switch TL_JAX_DETERMINISTIC: programs that give the same bits each time on a GPU."""

import os
import shlex
from pathlib import Path

import jax

VARIABLE = "TL_JAX_DETERMINISTIC"
FLAGS = {"xla_gpu_deterministic_ops": True, "xla_gpu_enable_triton_gemm": False}
"""The flags of XLA. By its own words the first replaces or refuses operations whose result depends
on the order in which threads come, and chooses no algorithm by timing it. It switches Triton off
too, but products are still prepared for it, and then have no kernel; the second leaves them to
cuBLAS."""

_ENVIRONMENT = "XLA_FLAGS"
_ON, _OFF = ("true", "1", ""), ("false", "0")
# What a user may say beside the switch: these flags, and what the first one implies.
_MEANS = {
    **{name: _ON if value else _OFF for name, value in FLAGS.items()},
    "xla_gpu_exclude_nondeterministic_ops": _ON,
    "xla_gpu_autotune_level": ("0",),
}


def enable(*, started: bool) -> None:
    """Lets XLA compile programs that repeat their bits on a GPU, if TL_JAX_DETERMINISTIC is 1.

    The flags go into the variable XLA_FLAGS, which XLA reads once, when JAX starts its devices.
    They hold for all programs of the process, and say nothing to CPUs and TPUs. Without the switch
    XLA_FLAGS are left as they are. `tl_jax.process.prepare` calls this.

    Args:
      started: whether JAX has started its devices.

    Raises:
      ValueError: if the variable is neither 0 nor 1, XLA_FLAGS say the contrary, or JAX has started
        a GPU without the flags.
    """
    wanted = os.environ.get(VARIABLE) or "0"
    if wanted not in ("0", "1"):
        raise ValueError(
            f"got {VARIABLE}={wanted}; expected 1 for programs that repeat their bits on a GPU, or "
            "0 for faster ones"
        )
    if wanted == "0":
        return
    given = _given()
    _check(given)
    if not started:
        lacking = [
            f"--{name}={str(value).lower()}" for name, value in FLAGS.items() if name not in given
        ]
        os.environ[_ENVIRONMENT] = " ".join([_text(), *lacking]).strip()
    elif not is_on() and jax.default_backend() == "gpu":
        raise ValueError(
            f"got {VARIABLE}=1 after JAX had started its GPU (its devices were listed, or an array "
            "was made); set it before the process starts, or call tl_jax.process.prepare() first"
        )


def is_on() -> bool:
    """Returns whether XLA_FLAGS ask for deterministic programs on a GPU, whoever set them.

    Examples:
      >>> is_on()
      False
    """
    return _given().get("xla_gpu_deterministic_ops") in _ON


def _check(given: dict[str, str]) -> None:
    """Raises a ValueError if a flag of the user says the contrary."""
    for name, values in _MEANS.items():
        if name in given and given[name] not in values:
            raise ValueError(
                f"got {VARIABLE}=1 and --{name}={given[name]} in {_ENVIRONMENT}, which says the "
                f"contrary; take it out of {_ENVIRONMENT}, or unset {VARIABLE}"
            )


def _given() -> dict[str, str]:
    """Returns the values of the flags that XLA_FLAGS set, by name; of several the last counts."""
    words = (word.lstrip("-").partition("=") for word in shlex.split(_text()))
    return {name: value.lower() for name, _, value in words}


def _text() -> str:
    """Returns the flags in one line; as in XLA, the variable may name a file that holds them."""
    text = os.environ.get(_ENVIRONMENT, "").strip()
    if text and not text.startswith("--"):
        text = Path(text).read_text(encoding="utf-8")
    return " ".join(text.split())

"""The switch TL_JAX_DETERMINISTIC: programs that give the same bits each time on a GPU."""

import os

import jax

from tl_jax import xla_flags

VARIABLE = "TL_JAX_DETERMINISTIC"
FLAGS = {"xla_gpu_deterministic_ops": True, "xla_gpu_enable_triton_gemm": False}
"""The flags of XLA. By its own words the first replaces or refuses operations whose result depends
on the order in which threads come, and chooses no algorithm by timing it. It switches Triton off
too, but products are still prepared for it, and then have no kernel; the second leaves them to
cuBLAS."""

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
    given = xla_flags.given()
    _check(given)
    if not started:
        lacking = [
            f"--{name}={str(value).lower()}" for name, value in FLAGS.items() if name not in given
        ]
        os.environ[xla_flags.VARIABLE] = " ".join([xla_flags.text(), *lacking]).strip()
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
    return xla_flags.given().get("xla_gpu_deterministic_ops") in _ON


def _check(given: dict[str, str]) -> None:
    """Raises a ValueError if a flag of the user says the contrary."""
    for name, values in _MEANS.items():
        if name in given and given[name] not in values:
            raise ValueError(
                f"got {VARIABLE}=1 and --{name}={given[name]} in XLA_FLAGS, which says the "
                f"contrary; take it out of XLA_FLAGS, or unset {VARIABLE}"
            )

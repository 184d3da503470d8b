"""Memory that the C library's allocator keeps for the next step in place of giving it back."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

_SWITCH = "TL_JAX_KEEP_MEMORY"
# Numbers of malloc.h. Blocks come from one heap, which never shrinks and grows by 64 MB: by default
# glibc maps each large block anew and gives it back, and the kernel clears its pages every time.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))
# With one of these the user has set the allocator, or put another one in its place.
_CHOSEN_BY_THE_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_memory() -> bool:
    """Lets glibc keep the memory of a step for the next one, where computation is on the CPU.

    XLA allocates the temporary memory of a program at each call. glibc maps it from the system and
    gives it back, so that each step waits until all its pages are cleared. Call this before threads
    start. `tl_jax.process.prepare` does, and turns JAX's asynchronous dispatch off with it.

    Nothing is set on other systems and C libraries, where JAX would take an accelerator, or where
    the environment sets the allocator (MALLOC_*, GLIBC_TUNABLES, LD_PRELOAD). The variable
    TL_JAX_KEEP_MEMORY decides: 0 never, 1 wherever it is glibc.

    Returns:
      Whether memory is kept.

    Raises:
      ValueError: if the variable is neither 0 nor 1.
    """
    wanted = os.environ.get(_SWITCH, "")
    if wanted not in ("", "0", "1"):
        raise ValueError(
            f"got {_SWITCH}={wanted}; expected 1 to keep the memory of a step for the next one, or "
            "0 to give it back"
        )
    if wanted == "0" or not _has_glibc():
        return False
    if not wanted and (_is_chosen_by_the_user() or not _computes_on_the_cpu()):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*setting) for setting in _SETTINGS)


def _has_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def _is_chosen_by_the_user() -> bool:
    return any(name.startswith(_CHOSEN_BY_THE_USER) for name in os.environ)


def _computes_on_the_cpu() -> bool:
    """Returns whether JAX takes the CPU, without asking it: that would start its threads."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not (
        importlib.metadata.entry_points(group="jax_plugins")
        or importlib.util.find_spec("jax_plugins")
        or importlib.util.find_spec("libtpu")
    )

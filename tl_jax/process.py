"""What is set in a process before it computes: memory kept, programs on disk, determinism."""

import jax

from tl_jax import allocator, compilation_cache, determinism


def prepare() -> None:
    """Sets allocator, compilation cache and determinism, as their modules say; again is harmless.

    The functions that make or use a run begin with it. In a program of your own call it before
    anything is computed; the settings then hold for the whole process.

    Raises:
      ValueError: if a variable that switches one of them has no value of its kind, or
        TL_JAX_DETERMINISTIC comes too late or is contradicted (`determinism.enable`).

    Examples:
      >>> prepare()
    """
    compilation_cache.enable()
    started = _has_computed()
    determinism.enable(started=started)
    # The two belong together: a step that is dispatched while the last one still holds its memory
    # takes as much again, and a heap that is kept then grows to three times of it.
    if not started and allocator.keep_memory():
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def _has_computed() -> bool:
    """Returns whether JAX has started its devices, after which dispatch cannot be set."""
    option = "jax_num_cpu_devices"
    number = jax.config.values[option]
    try:
        jax.config.update(option, number + 1)  # Refused once they are started.
    except RuntimeError:
        return True
    jax.config.update(option, number)
    return False

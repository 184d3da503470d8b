"""How the layers are traced: in the form of an accelerator, or for their shapes alone."""

import contextlib
import contextvars
from collections.abc import Iterator

_cpu_forms = contextvars.ContextVar("cpu_forms", default=True)
_values = contextvars.ContextVar("values", default=True)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Within it, what is traced convolves as on an accelerator, on a CPU too.

    XLA compiles that form faster. A function that is jitted and traced already keeps its form.
    """
    with _set(_cpu_forms, False):
        yield


@contextlib.contextmanager
def as_shapes() -> Iterator[None]:
    """Within it, what is traced has its shapes and types, and any values.

    For `jax.eval_shape`: kernels are not drawn and BatchNorm passes its input on, which leaves
    less than half of a network to trace. jax remembers a trace by its function, so the function
    must be one that nothing else traces.
    """
    with as_on_accelerators(), _set(_values, False):
        yield


def has_cpu_forms() -> bool:
    """Says whether a layer may choose another form for a CPU."""
    return _cpu_forms.get()


def has_values() -> bool:
    """Says whether the values matter, not only their shapes and types."""
    return _values.get()


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)

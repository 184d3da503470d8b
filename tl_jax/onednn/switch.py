"""The switch of oneDNN's convolutions: the variable TL_JAX_ONEDNN, or a block of code."""

import contextlib
import contextvars
import os
from collections.abc import Iterator
from typing import Literal, get_args

from tl_jax import messages

Mode = Literal["auto", "on", "off"]
VARIABLE = "TL_JAX_ONEDNN"

_chosen: contextvars.ContextVar[Mode | None] = contextvars.ContextVar("onednn", default=None)


def mode() -> Mode:
    """Returns "auto" (where it can be used), "on" (an error where it cannot) or "off".

    Raises:
      ValueError: if the variable TL_JAX_ONEDNN has another value.
    """
    chosen = _chosen.get()
    return _checked(os.environ.get(VARIABLE) or "auto") if chosen is None else chosen


@contextlib.contextmanager
def switched(mode: Mode) -> Iterator[None]:
    """Sets the switch for the programs that this thread compiles within a block.

    A program that was compiled before keeps its convolutions, as do the functions that `jax.jit`
    returned for them: make a new one to compare the two.

    Args:
      mode: "auto", "on" or "off", as in the variable TL_JAX_ONEDNN, which it precedes.

    Examples:
      >>> with switched("off"):
      ...     mode()
      'off'
    """
    token = _chosen.set(_checked(mode))
    try:
        yield
    finally:
        _chosen.reset(token)


def _checked(value: str) -> Mode:
    modes = get_args(Mode)
    if value not in modes:
        raise ValueError(
            f"{VARIABLE} is {value!r}; it may be {', '.join(map(repr, modes))}"
            + messages.hint(value, modes)
        )
    return value  # type: ignore[return-value]

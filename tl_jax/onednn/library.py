"""The loaded library of oneDNN's convolutions: which of its codes it would run, and its target."""

import ctypes
import dataclasses
import functools
from collections.abc import Sequence

import jax

from tl_jax.onednn import build, switch

KINDS = ("forward", "input_gradient", "kernel_gradient")
_NAME_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Library:
    """oneDNN's convolutions in this process.

    Attributes:
      version: of oneDNN.
      target: the name of the call in XLA's programs. It changes with the library, so that a
        program that was compiled for another one is not taken from a cache.
      functions: the loaded functions.
    """

    version: str
    target: str
    functions: ctypes.CDLL

    def implementation(
        self,
        kind: str,
        shapes: Sequence[Sequence[int]],
        *,
        is_bfloat16: bool,
        stride: Sequence[int],
        pads: Sequence[int],
        groups: int,
        parts: int,
    ) -> str:
        """Returns the code that would compute a convolution, such as "brgconv:avx512_core".

        Args:
          kind: one of `KINDS`.
          shapes: of x, kernel and y, as NHWC, HWIO and NHWC.
          is_bfloat16: whether all three are bfloat16; they are float32 otherwise.
          stride: of rows and columns.
          pads: top, bottom, left, right.
          groups: number of groups of channels.
          parts: into how many parts it is cut.
        """
        numbers = [KINDS.index(kind), int(is_bfloat16), groups, parts]
        lists = (stride, pads, [side for shape in shapes for side in shape])
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        self.functions.tl_jax_implementation(
            *map(ctypes.c_int64, numbers),
            *((ctypes.c_int64 * len(values))(*values) for values in lists),
            name,
            ctypes.c_int64(_NAME_LENGTH),
        )
        return name.value.decode()


def library() -> Library | None:
    """Returns the library, or None where it is switched off or cannot be used.

    Raises:
      UnavailableError: if the switch is "on" and it cannot be used.
    """
    mode = switch.mode()
    if mode == "off":
        return None
    loaded = load()
    if isinstance(loaded, Library):
        return loaded
    if mode == "on":
        raise build.UnavailableError(f"{loaded} (the switch {switch.VARIABLE} is on)")
    return None


@functools.cache
def load() -> Library | build.UnavailableError:
    """Builds the library if need be and loads it, once; returns why if that is not possible."""
    try:
        ingredients = build.find()
        path = build.build(ingredients)
    except build.UnavailableError as error:
        return error
    except OSError as error:
        return build.UnavailableError(f"oneDNN's convolutions cannot be built: {error}")
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        return build.UnavailableError(
            f"oneDNN's convolutions cannot be loaded: {error}; remove {path} to build them anew"
        )
    functions.tl_jax_implementation.restype = None
    target = f"tl_jax_onednn_{ingredients.key}"
    call = jax.ffi.pycapsule(functions.tl_jax_convolve)
    jax.ffi.register_ffi_target(target, call, platform="cpu")
    return Library(ingredients.version, target, functions)

"""Inert stand-ins for the classes and functions that the pickle of a checkpoint names.

Nothing that a pickle names is imported or called. Containers, and NumPy's arrays and numbers, have
stand-ins with their values; every other class has one that only keeps what the pickle puts into it.
"""

import collections
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

# Functions that run code or touch the system. They would be as inert here as any other name; a file
# that asks for them is refused because somebody has tampered with it.
_HARMFUL_MODULES = frozenset(
    "asyncio bdb cffi code codeop commands concurrent ctypes distutils ftplib gc http importlib "
    "marshal multiprocessing nt os pdb pickle pip posix pty pydoc runpy shutil signal smtplib "
    "socket subprocess sys telnetlib tempfile threading timeit trace urllib webbrowser".split()
)
_HARMFUL_BUILTINS = frozenset(
    "__import__ breakpoint compile delattr eval exec execfile exit file globals input locals open "
    "quit reload setattr vars".split()
)
_BUILTINS = ("builtins", "__builtin__")
_NUMPY_TYPE = re.compile(r"[fiubcSU]\d+|\?")


class Dict(dict[Any, Any]):
    """Replaces the mappings of `collections`, and drops attributes (`_metadata`) set on them."""

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        given = args[-1] if args and isinstance(args[-1], dict | list) else ()
        super().__init__(given)

    def __setstate__(self, state: Any) -> None:
        del state


class Foreign(dict[Any, Any]):
    """An object of a class that is not loaded: the items and attributes that were saved with it.

    Attributes:
      kind: dotted name of the class or function (a class attribute).
      state: its saved attributes, usually a dict; None if there are none.
    """

    kind: ClassVar[str] = ""
    state: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment]  # It may be a key of a dict.

    def __new__(cls, *args: Any, **kwargs: Any) -> "Foreign":
        """Returns an empty object, whatever the arguments are."""
        del args, kwargs
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """Drops an item of a list."""

    add = append

    def extend(self, values: Any) -> None:
        """Drops items of a list."""


class Array:
    """An array of NumPy; `value` is None if it is not of numbers or text."""

    def __init__(self, *args: Any) -> None:
        del args
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        if isinstance(kind, _Dtype) and kind.dtype is not None and isinstance(data, bytes):
            array = np.frombuffer(data, kind.dtype)
            self.value = array.reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """A type of NumPy; `dtype` is None if it is not of numbers or text."""

    def __init__(self, name: Any = "", *args: Any) -> None:
        del args
        is_plain = isinstance(name, str) and _NUMPY_TYPE.fullmatch(name)
        self.dtype = np.dtype(name) if is_plain else None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def is_harmful(module: str, name: str) -> bool:
    """Returns whether a name is of a function that runs code or touches the system."""
    if module in (*_BUILTINS, "io", "_io"):  # `open` is pickled as that of io.
        return name in _HARMFUL_BUILTINS
    return module.partition(".")[0] in _HARMFUL_MODULES


def foreign(module: str, name: str) -> type[Foreign]:
    """Returns a new class for objects of a class that is not loaded."""
    return type(name.rpartition(".")[2], (Foreign,), {"kind": f"{module}.{name}"})


def plain_globals() -> dict[tuple[str, str], Callable[..., Any]]:
    """Returns stand-ins, new ones for each file, of names that stand for plain values."""
    numpy: dict[str, Callable[..., Any]] = {
        "_reconstruct": Array,
        "scalar": lambda kind, data=b"": _scalar(kind, data),
        "_frombuffer": lambda data, kind, shape, order: _from_buffer(data, kind, shape, order),
    }
    return {
        **{("collections", name): Dict for name in ("OrderedDict", "defaultdict", "Counter")},
        ("torch", "Size"): lambda sizes=(): tuple(sizes),
        ("_codecs", "encode"): lambda text, encoding="latin1": text.encode(str(encoding)),
        ("collections", "deque"): lambda items=(), limit=None: collections.deque(items),
        **{(module, "set"): lambda items=(): set(items) for module in _BUILTINS},
        **{(module, "frozenset"): lambda items=(): frozenset(items) for module in _BUILTINS},
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): Array,
        **{
            (f"numpy.{core}.{module}", name): stand_in
            for core in ("core", "_core")
            for module in ("multiarray", "numeric")
            for name, stand_in in numpy.items()
        },
    }


def _scalar(kind: Any, data: Any) -> Any:
    """Returns a number or text of NumPy as Python's own; None if it is anything else."""
    if not isinstance(kind, _Dtype) or kind.dtype is None or not isinstance(data, bytes):
        return None
    return np.frombuffer(data, kind.dtype)[0].item()


def _from_buffer(data: Any, kind: Any, shape: Any, order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", bytes(data)))
    return array

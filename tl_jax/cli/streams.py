"""The standard streams of a command: in order, in any encoding, and open or not."""

import contextlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

# Libraries that report on themselves at these levels; what concerns a run is raised as an error.
_TALKATIVE = ("absl", "etils", "jax._src.xla_bridge", "matplotlib", "orbax", "tensorflow_datasets")


def prepare() -> None:
    """Makes the streams fit for any command; call it first."""
    _occupy_closed()
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines of both streams come in their order where both go to one file, and a name that
        # the terminal's encoding lacks is printed with escapes.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(absl|etils|flax|jax|orbax|tensorflow_datasets)\b")


def reader_has_gone() -> bool:
    """Returns whether the reader of standard output has gone; if so, the rest goes nowhere.

    Asked after a pipe broke, which may be another one: that of a process that decodes images.
    """
    try:
        print(flush=True)
    except BrokenPipeError:
        broken, sys.stdout = sys.stdout, _nowhere()
        # What is left in the old stream's buffer is written when Python ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(sys.stdout.fileno(), broken.fileno())
        return True
    except (OSError, ValueError):
        return False
    return False


def complain(text: str) -> None:
    """Prints a line on standard error, if anybody can read it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _occupy_closed() -> None:
    """Opens the null device in place of closed standard streams (`>&-`).

    Otherwise the next file that is opened gets the number of standard output, and what a library
    prints is written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")

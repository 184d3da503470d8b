"""The processor of this machine: its kind, its instructions, and the cores that may be used."""

import os
import platform
from pathlib import Path

_TABLE = Path("/proc/cpuinfo")
_LINES = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU ")


def description() -> str:
    """Returns what tells this kind of processor from others: its name and its instructions.

    It is a text of several lines, to be hashed or searched; systems other than Linux say less.
    """
    lines = [platform.machine(), platform.processor()]
    try:
        first_core, _, _ = _TABLE.read_text(encoding="utf-8").partition("\n\n")
    except OSError:
        first_core = ""
    lines += [line for line in first_core.splitlines() if line.startswith(_LINES)]
    return "\n".join(lines)


def lacks_bfloat16() -> bool:
    """Returns whether the processor has no instructions for products in bfloat16.

    They are AVX-512 BF16 and AMX on x86_64, and BF16 on ARM. False where the system says nothing.
    """
    listed = [line.split() for line in description().splitlines()]
    named = [
        word for words in listed if words and words[0] in ("flags", "Features") for word in words
    ]
    return bool(named) and not {"avx512_bf16", "amx_bf16", "bf16"}.intersection(named)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

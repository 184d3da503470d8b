"""What a compiled program of XLA does: its kernels and the bytes that they read and write."""

import collections
import dataclasses
import math
import re
from typing import Any

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+(?:e\d\w+)?)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+?) ([\w\-]+)\((.*)")
# What takes no time of its own.
_FREE = frozenset(
    "parameter get-tuple-element tuple bitcast constant copy-done async-done after-all".split()
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An operation of the program's entry.

    Attributes:
      kind: its opcode, the target of a custom call, or the kind of a fusion.
      bytes: what it reads and writes.
      shape: of its result.
      source: the end of the name of the operation in the traced program.
    """

    kind: str
    bytes: int
    shape: str
    source: str


def kernels(text: str) -> list[Kernel]:
    """Returns the operations of the entry of a compiled program, from XLA's text of it.

    The bytes of an operation are those of its operands and its result: caches that save some are
    not considered, and the body of a loop is not seen.
    """
    found = [_INSTRUCTION.match(line) for line in _entry(text)]
    instructions = [match for match in found if match]
    shapes = {match[1]: match[2] for match in instructions}
    result = []
    for match in instructions:
        _, shape, opcode, rest = match.groups()
        if opcode in _FREE:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        total = num_bytes(shape) + sum(num_bytes(shapes.get(name, "")) for name in operands)
        source = re.search(r'op_name="([^"]*)"', match[0])
        result.append(
            Kernel(_kind(opcode, match[0]), total, shape, source[1][-90:] if source else "")
        )
    return result


def _entry(text: str) -> list[str]:
    lines = text[text.index("\nENTRY ") + 1 :].splitlines()
    return lines[: lines.index("}")] if "}" in lines else lines


def _kind(opcode: str, line: str) -> str:
    if opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', line)
        return target[1] if target else opcode
    if opcode == "fusion":
        kind, backend = re.search(r"kind=k(\w+)", line), re.search(r'"kind":"([\w_]+)"', line)
        names = [match[1] for match in (kind, backend) if match]
        return "/".join(["fusion", *names])
    return opcode


def num_bytes(shape: str) -> int:
    """Returns the bytes of an array, or of all arrays of a tuple, in XLA's text.

    >>> num_bytes("(f32[2,3]{1,0}, bf16[4]{0})")
    32
    """
    total = 0
    for name, sides in _ARRAY.findall(shape):
        digits = re.search(r"\d+", name)
        bits = _BITS.get(name) or int(digits[0] if digits else 0)
        total += math.prod(int(side) for side in sides.split(",") if side) * bits // 8
    return total


def summary(compiled: Any, largest: int = 12) -> dict[str, Any]:
    """Returns kernels, gigabytes moved, memory and operations of a compiled program.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` returns.
      largest: how many of the largest operations are listed.
    """
    found = kernels(compiled.as_text())
    by_kind: collections.Counter[str] = collections.Counter()
    counts = collections.Counter(kernel.kind for kernel in found)
    for kernel in found:
        by_kind[kernel.kind] += kernel.bytes
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    ranked = sorted(found, key=lambda kernel: -kernel.bytes)
    return {
        "kernels": len(found),
        "gigabytes": sum(by_kind.values()) / 1e9,
        "temporary_gigabytes": memory.temp_size_in_bytes / 1e9,
        "argument_gigabytes": memory.argument_size_in_bytes / 1e9,
        "teraflops": cost.get("flops", 0.0) / 1e12,
        "by_kind": {
            kind: {"kernels": counts[kind], "gigabytes": size / 1e9}
            for kind, size in by_kind.most_common(largest)
        },
        "largest": [
            {
                "kind": kernel.kind,
                "gigabytes": kernel.bytes / 1e9,
                "shape": kernel.shape[:90],
                "source": kernel.source,
            }
            for kernel in ranked[:largest]
        ],
    }

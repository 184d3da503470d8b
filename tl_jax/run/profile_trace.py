"""Times of XLA's operations from a profiler's trace, and the modules that they belong to."""

import collections
import dataclasses
import gzip
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

# As in `%fusion.3 = f32[8,32]{1,0} fusion(...), metadata={op_name="jit(step)/..."}`.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"(?:^|[\s}])(?P<opcode>[a-z][\w-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# As in `%fused (p: f32[8]) -> f32[8] {` and in `calls=%fused`.
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_CALLS = re.compile(r"(?:calls|to_apply)=%?(?P<name>[\w.-]+)")
# Microseconds by which an operation may seem to outlast the one around it, as traces are rounded.
_ROUNDING = 0.01


@dataclasses.dataclass(frozen=True)
class Operation:
    """What one operation of a compiled program took.

    Attributes:
      name: XLA's name of the instruction, such as "fusion.12".
      kind: its opcode, such as "fusion", "convolution" or "custom-call".
      module: dotted name of the module that it computes, "" if it is of none. What computes
        several counts as the last one.
      is_backward: whether it is of the gradient.
      seconds: per step, without what it calls.
      count: times that it ran per step.
    """

    name: str
    kind: str
    module: str
    is_backward: bool
    seconds: float
    count: float


def operations(
    folder: Path, hlo_text: str, *, modules: Collection[str], steps: int
) -> list[Operation]:
    """Returns the operations of a traced program, the longest first.

    Args:
      folder: that `jax.profiler.trace` wrote to.
      hlo_text: the compiled program, as `compiled.as_text()`.
      modules: dotted names of the network's modules, with those around them.
      steps: runs of the program that were traced.

    Raises:
      ValueError: if the trace has no operation of the program.
    """
    header = re.match(r"HloModule (\S+?),?\s", hlo_text)
    program = header[1] if header else ""
    seconds, counts = _self_seconds(_events(folder), program)
    if not seconds:
        raise ValueError(
            f"the trace below {folder} has no operation of {program or 'the program'}: this "
            "version of JAX writes traces of another form"
        )
    known = _instructions(hlo_text)
    found = []
    for name, total in seconds.items():
        kind, op_names = known.get(name, ("unknown", []))
        own = next(((m, each) for each in op_names if (m := module_of(each, modules))), None)
        module, op_name = own or ("", op_names[0] if op_names else "")
        found.append(
            Operation(
                name=name,
                kind=kind,
                module=module,
                is_backward="transpose(" in op_name,
                seconds=total / steps,
                count=counts[name] / steps,
            )
        )
    return sorted(found, key=lambda operation: -operation.seconds)


def module_of(op_name: str, modules: Collection[str]) -> str:
    """Returns the module of an operation by the name that JAX gave it; "" if it is of none.

    Examples:
      >>> module_of("jit(step)/transpose(jvp(Net))/layer1/0/conv/dot", {"layer1", "layer1.0"})
      'layer1.0'
    """
    module = ""
    for part in op_name.split("/"):  # Between modules are names of classes, methods and transforms.
        inner = f"{module}.{part}" if module else part
        if inner in modules:
            module = inner
    return module


def _events(folder: Path) -> Iterable[Mapping[str, Any]]:
    """Returns the events of the newest trace in Chrome's form, those of a duration."""
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"the profiler wrote no trace below {folder}")
    with gzip.open(files[-1]) as file:
        events = json.load(file)["traceEvents"]
    return (event for event in events if event.get("ph") == "X")


def _self_seconds(
    events: Iterable[Mapping[str, Any]], program: str
) -> tuple[dict[str, float], collections.Counter[str]]:
    """Returns seconds and number of the events of each operation, without those inside of them."""
    threads: dict[Any, list[tuple[float, float, str]]] = collections.defaultdict(list)
    for event in events:
        arguments = event.get("args") or {}
        name = arguments.get("hlo_op")
        if name and arguments.get("hlo_module", program).partition("(")[0] == program:
            start, length = float(event["ts"]), float(event.get("dur", 0))
            threads[event.get("pid"), event.get("tid")].append((start, -length, name))
    seconds: dict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for listed in threads.values():
        around: list[tuple[float, str]] = []  # End and name of the operations that are not over.
        for start, negative, name in sorted(listed):
            end = start - negative
            # A kernel of a GPU may begin a little before the last one ends, and is not part of it.
            while around and (around[-1][0] <= start or around[-1][0] + _ROUNDING < end):
                around.pop()
            if around:
                seconds[around[-1][1]] += negative * 1e-6
            seconds[name] -= negative * 1e-6
            counts[name] += 1
            around.append((end, name))
    return seconds, counts


def _instructions(hlo_text: str) -> dict[str, tuple[str, list[str]]]:
    """Returns the opcode of each instruction of a program, and JAX's names of what it computes.

    These are its own name and, from the last to the first, those of the instructions that it calls.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    inside: dict[str, list[str]] = collections.defaultdict(list)
    called = {}
    computation = ""
    for line in hlo_text.splitlines():
        header = _COMPUTATION.match(line)
        computation = header["name"] if header else computation
        match = _INSTRUCTION.match(line)
        opcode = _OPCODE.search(match["rest"]) if match else None
        if match is None or opcode is None:
            continue
        op_names = [name for name in _OP_NAME.findall(line) if name]
        inside[computation] += op_names
        found[match["name"]] = opcode["opcode"], op_names
        if calls := _CALLS.search(line):
            called[match["name"]] = calls["name"]
    for name, target in called.items():
        found[name][1].extend(reversed(inside[target]))
    return found

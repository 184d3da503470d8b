"""Operations of a trace: their own time, their module, and the direction that they compute."""

import gzip
import json

import pytest

from tl_jax.run.profile_trace import module_of, operations

HLO = """HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}

%inner (p: f32[8]) -> f32[8] {
  ROOT %add.1 = f32[8]{0} add(%p, %p), metadata={op_name="jit(step)/jvp(Net)/conv1/add"}
}

ENTRY %main (x: f32[8]) -> (f32[8], f32[]) {
  %call.2 = f32[8]{0} call(%x), to_apply=%inner
  %dot.3 = f32[8]{0} dot(%x, %x), metadata={op_name="jit(step)/transpose(jvp(Net))/layer1/0/dot"}
  ROOT %custom.4 = (f32[8]{0}, f32[]) custom-call(%dot.3), custom_call_target="f"
}
"""
MODULES = {"conv1", "layer1", "layer1.0", "blocks.0", "blocks.0.1", "blocks.0.1.bn1"}


def event(name: str, start: float, length: float, thread: int = 1, module: str = "jit_step"):
    """Returns an event of the profiler, in microseconds."""
    arguments = {"hlo_op": name, "hlo_module": module}
    place = {"ph": "X", "pid": 7, "tid": thread, "name": name}
    return {**place, "ts": start, "dur": length, "args": arguments}


def write(folder, events):
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)


def test_operations_have_their_own_time_per_step(tmp_path):
    events = [
        {"ph": "M", "pid": 7, "name": "process_name", "args": {"name": "host"}},
        {"ph": "X", "pid": 7, "tid": 1, "ts": 0.0, "dur": 900.0, "name": "ThunkExecutor::Execute"},
        event("call.2", 0, 100),
        event("add.1", 10, 60),  # Within the call.
        event("dot.3", 100, 300),
        event("custom.4", 50, 40, thread=2),
        event("dot.3", 500, 100),
        event("dot.3", 700, 5000, module="jit_other"),
    ]
    write(tmp_path / "plugins" / "profile" / "now", events)
    found = operations(tmp_path, HLO, modules=MODULES, steps=2)
    microseconds = [(op.name, round(op.seconds * 1e6, 6), op.count) for op in found]
    assert microseconds == [
        ("dot.3", 200, 1), ("add.1", 30, 0.5), ("call.2", 20, 0.5), ("custom.4", 20, 0.5),
    ]  # fmt: skip
    assert [(op.kind, op.module, op.is_backward) for op in found] == [
        ("dot", "layer1.0", True), ("add", "conv1", False),
        ("call", "conv1", False),  # By what it calls.
        ("custom-call", "", False),
    ]  # fmt: skip


def test_a_kernel_that_begins_before_the_last_one_ends_is_not_part_of_it(tmp_path):
    write(tmp_path, [event("dot.3", 0, 100), event("add.1", 99, 50), event("call.2", 148.5, 20)])
    found = operations(tmp_path, HLO, modules=MODULES, steps=1)
    microseconds = {op.name: round(op.seconds * 1e6, 6) for op in found}
    assert microseconds == {"dot.3": 100, "add.1": 50, "call.2": 20}


@pytest.mark.parametrize(
    ("op_name", "module"),
    [
        ("jit(step)/ResNet/layer1/0/conv", "layer1.0"),  # Not differentiated.
        ("jit(step)/jvp(Net)/layer1/layer1.convolve/jit(pad)/pad", "layer1"),
        ("jit(f)/jvp(Net)/Net.body/blocks.0/1/bn1/bn1.normalize/jit(relu)/max", "blocks.0.1.bn1"),
        ("jit(f)/Net/Net.body/blocks.0/1/1.with_shortcut/add", "blocks.0.1"),
        ("jit(step)/augment/mul", ""),
        ("", ""),
    ],
)
def test_the_module_of_an_operation(op_name, module):
    assert module_of(op_name, MODULES) == module


def test_a_trace_without_the_program_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wrote no trace"):
        operations(tmp_path, HLO, modules=MODULES, steps=1)
    write(tmp_path, [event("dot.3", 0, 1, module="jit_other")])
    with pytest.raises(ValueError, match="has no operation of jit_step"):
        operations(tmp_path, HLO, modules=MODULES, steps=1)

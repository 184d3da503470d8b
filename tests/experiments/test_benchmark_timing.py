"""Tests of how programs are timed in turn, and of what a compiled program is said to do."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import hlo_report, timing
from experiments.benchmarks.timing import Sample


def test_programs_take_turns_and_every_other_round_goes_backwards():
    calls = []
    runs = {name: lambda steps, name=name: calls.append((name, steps)) for name in "ab"}
    samples = timing.alternate(runs, steps=3, rounds=2)
    assert calls == [(name, steps) for name in "abba" for steps in (1, 3)]
    assert {name: len(of_one) for name, of_one in samples.items()} == {"a": 2, "b": 2}


def test_a_round_counts_as_quiet_only_if_others_were_idle_all_along():
    samples = {
        "ours": [Sample(1.0, 2.0, 0, 0.01), Sample(9.0, 2.0, 0, 0.01)],
        "torch": [Sample(2.0, 6.0, 0, 0.05), Sample(9.0, 6.0, 0, 0.4)],
    }
    result = timing.compare(samples, "torch")
    assert result["quiet_rounds"] == [0]
    assert result["quiet"]["ours"]["wall_ratio"] == {"median": 2.0, "least": 2.0, "largest": 2.0}
    assert result["quiet"]["ours"]["cpu_ratio"]["median"] == 3.0
    assert result["all"]["ours"]["wall_ratio"]["median"] == 1.5
    assert result["cores_used_by_others"] == [0.05, 0.4]


def test_where_the_system_does_not_say_what_others_use_no_round_is_quiet():
    samples = {"torch": [Sample(1.0, 1.0, 0, None)]}
    assert timing.compare(samples, "torch")["quiet_rounds"] == []


def test_kernels_and_bytes_of_a_compiled_program():
    x, kernel = jnp.zeros((64, 32)), jnp.zeros((32, 16))
    compiled = jax.jit(lambda x, kernel: jnp.tanh(x @ kernel)).lower(x, kernel).compile()
    report = hlo_report.summary(compiled)
    least = 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert report["kernels"] >= 1
    assert least <= 1e9 * report["gigabytes"] <= 3 * least
    assert report["argument_gigabytes"] == pytest.approx(4 * (64 * 32 + 32 * 16) / 1e9)
    assert sum(kind["kernels"] for kind in report["by_kind"].values()) == report["kernels"]


def test_operands_fusions_and_custom_calls_are_read_from_the_text_of_a_program():
    text = """HloModule jit_f

%fused (p: f32[8]) -> f32[8] {
  ROOT %n = f32[8]{0} negate(%p)
}

ENTRY %main (a: f32[8], b: bf16[4,2]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = bf16[4,2]{1,0} parameter(1)
  %c = (f32[8]{0}, u8[100]{0}) custom-call(%a, %b), custom_call_target="__cudnn$conv"
  %d = f32[8]{0} get-tuple-element(%c), index=0
  ROOT %e = f32[8]{0} fusion(%d), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/neg"}
}
"""
    kernels = hlo_report.kernels(text)
    assert [(kernel.kind, kernel.bytes) for kernel in kernels] == [
        ("__cudnn$conv", 32 + 16 + 32 + 100),
        ("fusion/Loop", 64),
    ]
    assert kernels[1].source == "jit(f)/neg"

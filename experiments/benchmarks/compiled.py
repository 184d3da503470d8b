"""Compiles the real programs for an H100 without the device, and reports what they move.

    python3.12 -m venv env
    env/bin/pip install jax==0.11.2 flax optax orbax-checkpoint
    env/bin/pip install --no-deps jax-cuda13-plugin==0.11.2 jax-cuda13-pjrt==0.11.2
    env/bin/python -m experiments.benchmarks.compiled [--only resnet50-head ...]

It needs that environment of its own: the plugin compiles for a described card and runs nothing, so
no driver and none of NVIDIA's libraries are installed. Every program is compiled as it is, then
without one of tl_jax's faster forms at a time (`experiments/benchmarks/switches.py`), and training
of all layers as with TL_JAX_DETERMINISTIC=1. The figures are kernels, gigabytes that they read and
write, and temporary memory. A bfloat16 program of an ImageNet network is bound by memory on such a
card, so its gigabytes over the bandwidth, "floor", bound its time from below. Convolutions are
given to cuDNN without trying its algorithms, so their workspace is not in the figures, nor what it
costs to do without the trial.

The result goes to `experiments/results/benchmarks/compiled-h100.json`, and is rewritten after each
program; `--only` and `--variants` keep the others' results.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from experiments.benchmarks import hlo_report, report, switches
from experiments.benchmarks.programs import Setting, batch_shapes, make_program, variable_shapes
from tl_jax import determinism
from tl_jax.models import layers
from tl_jax.training import sharding
from tl_jax.transfer.peft import lora, low_rank

LIBRARIES = ("jax", "jaxlib", "jax-cuda13-pjrt", "flax", "optax")
CARD = Path(__file__).with_name("h100_sxm.txtpb")
BYTES_PER_SECOND = 3.35e12
AS_IT_IS, DETERMINISTIC, WITHOUT = "as it is", "deterministic", "without "
# The program, and the forms that it is compiled without, one at a time.
FORMS: dict[str, tuple[str, ...]] = {
    "resnet50-full": ("pool_gradient", "norm_gradient", "gradient_norm"),
    "resnet50-head": ("folding",),
    "resnet50-forward": ("folding",),
    "resnet50-evaluation": ("folding",),
    "resnet50-lora": ("folding",),
    "efficientnet_b0-full": ("norm_gradient", "library_depthwise"),
    "efficientnet_b0-head": ("folding",),
    "convnext_tiny-full": ("gelu_memory",),
}
PROGRAMS: dict[str, tuple[str, ...]] = {
    name: (
        AS_IT_IS,
        *(f"{WITHOUT}{form}" for form in forms),
        *((DETERMINISTIC,) if name.endswith("-full") else ()),
    )
    for name, forms in FORMS.items()
}


def h100_mesh() -> Mesh:
    """Returns a mesh over one H100 that is not there."""
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology="1x1x1",
        target_config=CARD.read_text(encoding="utf-8"),
    )
    return sharding.data_mesh(topology.devices)


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Context in which programs are made as where JAX computes on a GPU; here it has a CPU."""
    pays = functools.partial(low_rank.pays, on_cpu=False)
    with layers.fold_norms("always"), mock.patch.object(lora, "pays", pays):
        yield


def compile_program(setting: Setting, mesh: Mesh, variant: str) -> dict[str, Any]:
    """Compiles a variant of a program; returns its report and the seconds of each stage."""
    off = [variant.removeprefix(WITHOUT)] if variant.startswith(WITHOUT) else []
    flags = determinism.FLAGS if variant == DETERMINISTIC else {}
    with as_on_a_gpu(), switches.without(off) as options:
        program = make_program(setting, mesh, **options)
        first = jax.eval_shape(program.first, variable_shapes(setting))
        start = time.perf_counter()
        traced = program.fn.trace(first, batch_shapes(setting))
        lowered = traced.lower(lowering_platforms=("cuda",))
        stages = {"trace_and_lower": time.perf_counter() - start}
        start = time.perf_counter()
        compiled = lowered.compile(compiler_options=flags)
        stages["compile"] = time.perf_counter() - start
    result = hlo_report.summary(compiled)
    floor = 1e12 * result["gigabytes"] / BYTES_PER_SECOND
    return result | {"floor_milliseconds": floor, "seconds": stages}


def table(programs: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| program | variant | kernels | GB | floor, ms | temporary, GB | compile, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, variants in programs.items():
        for variant, result in variants.items():
            lines.append(
                f"| {name} | {variant} | {result['kernels']} "
                f"| {result['gigabytes']:.1f} | {result['floor_milliseconds']:.1f} "
                f"| {result['temporary_gigabytes']:.2f} | {result['seconds']['compile']:.0f} |"
            )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    variants = dict.fromkeys(variant for each in PROGRAMS.values() for variant in each)
    parser.add_argument(
        "--variants", nargs="+", choices=variants, default=list(variants), help="default: all"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the programs, and writes and prints the results after each."""
    options = parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    path = options.results / "compiled-h100.json"
    programs = json.loads(path.read_text("utf-8"))["programs"] if path.exists() else {}
    mesh = h100_mesh()
    for name in options.only:
        model, _, mode = name.rpartition("-")
        setting = Setting("gpu", model, mode, options.batch_size, options.image_size)
        for variant in (each for each in PROGRAMS[name] if each in options.variants):
            found = compile_program(setting, mesh, variant)
            programs.setdefault(name, {})[variant] = found
            sizes = {"batch_size": options.batch_size, "image_size": options.image_size}
            report.write(
                options.results,
                path.stem,
                report.facts(LIBRARIES) | {"setting": sizes, "programs": programs},
            )
            print(table({name: {variant: found}}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

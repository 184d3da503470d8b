"""Compiles training steps for 1, 8 and 64 accelerators without them: what they send, and keep.

    python3.12 -m venv env
    env/bin/pip install jax==0.11.2 flax optax orbax-checkpoint libtpu
    env/bin/pip install --no-deps jax-cuda13-plugin==0.11.2 jax-cuda13-pjrt==0.11.2
    env/bin/python -m experiments.benchmarks.compiled_scaling [--only resnet50 ...] [--cards h100]

Each network is compiled in bfloat16 with the same number of images on each device (weak scaling),
and with the options of `parallel` that change what is sent or kept. From the program come its
collectives, with their sizes, and its memory. The efficiency follows from a model, not from a
device: a step takes as long as its memory traffic does at the card's bandwidth, plus its
collectives on rings at the links' speed and an assumed latency of 20 microseconds for each
collective and level of the links; or, where they run beside the computation, the longer of both.
Speeds are those that the makers state: H100 SXM (3.35 TB/s; NVLink 450 GB/s in one direction within
a box of 8; 400 Gb/s of InfiniBand for each GPU between boxes) and TPU v5e (819 GB/s; four ports of
50 GB/s in one direction, of which one ring uses one).

The result goes to `experiments/results/benchmarks/compiled-scaling.json` and `.md`, and is
rewritten after each program; `--only`, `--cards`, `--devices` and `--parallel` keep the others'
results.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from experiments.benchmarks import collectives, hlo_report, report
from experiments.benchmarks.collectives import Links
from experiments.benchmarks.compiled import CARD, as_on_a_gpu
from experiments.benchmarks.programs import Setting, batch_shapes, make_program, variable_shapes
from tl_jax.config import ParallelConfig
from tl_jax.training import sharding

LIBRARIES = ("jax", "jaxlib", "jax-cuda13-pjrt", "libtpu", "flax", "optax")
MODELS = ("resnet50", "efficientnet_b0", "convnext_tiny")
LATENCY_SECONDS = 20e-6
IMAGE_SIZE = 224
# Number of devices, and the options of `parallel` that are not as usual.
VARIANTS: tuple[tuple[int, dict[str, Any]], ...] = (
    (1, {}),
    (1, {"remat": "stages"}),
    (1, {"remat": "blocks"}),
    (8, {}),
    (8, {"batch_norm": "device"}),
    (8, {"gradient_sum": "float32"}),
    (8, {"fsdp": 8}),
    (64, {}),
    (64, {"batch_norm": "device"}),
)
NVLINK, INFINIBAND, ICI = (8, 450e9), (8, 50e9), 50e9


@dataclasses.dataclass(frozen=True)
class Card:
    """A kind of accelerator.

    Attributes:
      platform: its name in JAX.
      topologies: JAX's name of so many devices.
      bytes_per_second: of its memory.
      links: levels of the links between so many devices.
      images: on each device.
    """

    platform: str
    topologies: Mapping[int, str]
    bytes_per_second: float
    links: Mapping[int, tuple[tuple[int, float], ...]]
    images: int

    def devices(self, count: int) -> list[Any]:
        """Returns so many devices, for which programs can be compiled and not run."""
        name = self.topologies[count]
        if self.platform == "tpu":
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
        described = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            topology=name,
            target_config=CARD.read_text(encoding="utf-8"),
        )
        return list(described.devices)


CARDS = {
    "h100": Card(
        "cuda",
        {1: "1x1x1", 8: "1x1x8", 64: "8x1x8"},
        3.35e12,
        {1: (), 8: (NVLINK,), 64: (NVLINK, INFINIBAND)},
        256,
    ),
    "v5e": Card(
        "tpu",
        {1: "v5e:1x1", 8: "v5e:2x4", 64: "v5e:8x8"},
        819e9,
        {1: (), 8: ((4, ICI), (2, ICI)), 64: ((8, ICI), (8, ICI))},
        64,
    ),
}


def compile_step(model: str, card: Card, count: int, parallel: ParallelConfig) -> dict[str, Any]:
    """Compiles a training step of all parameters; returns what it sends, moves and keeps."""
    mesh = sharding.data_mesh(card.devices(count), fsdp=parallel.fsdp)
    setting = Setting("gpu", model, "full", card.images * count, IMAGE_SIZE)
    with as_on_a_gpu():
        program = make_program(setting, mesh, parallel=parallel)
        first = jax.eval_shape(program.first, variable_shapes(setting))
        lowered = program.fn.trace(first, batch_shapes(setting)).lower(
            lowering_platforms=(card.platform,)
        )
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
    found = collectives.collectives(compiled.as_text())
    result = hlo_report.summary(compiled)
    kept = ("kernels", "gigabytes", "temporary_gigabytes", "argument_gigabytes")
    return {
        **{name: result[name] for name in kept},
        "collectives": collectives.summary(found),
        **modelled(result["gigabytes"], found, card, count),
        "compile_seconds": seconds,
    }


def modelled(
    gigabytes: float, found: Sequence[collectives.Collective], card: Card, count: int
) -> dict[str, float]:
    """Returns the modelled milliseconds of a step and its weak-scaling efficiency."""
    floor = gigabytes * 1e9 / card.bytes_per_second
    by_bytes, with_latency = (
        collectives.ring_seconds(found, Links(card.links[count], latency))
        for latency in (0.0, LATENCY_SECONDS)
    )
    return {
        "memory_milliseconds": 1e3 * floor,
        "sent_milliseconds": 1e3 * by_bytes,
        "sent_milliseconds_with_latency": 1e3 * with_latency,
        "efficiency": collectives.efficiency(floor, with_latency, overlap=False),
        "efficiency_with_overlap": collectives.efficiency(floor, with_latency, overlap=True),
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| card | network | devices | parallel | collectives | below 64 KiB | sent, MB "
        "| memory, ms | sent, ms | efficiency | with overlap | state, GB | temporary, GB |",
        f"|{' --- |' * 4}{' ---: |' * 9}",
    ]
    for result in results.values():
        counted = result["collectives"].values()
        count, small, size = (
            sum(each[key] for each in counted) for key in ("count", "below_64_KiB", "megabytes")
        )
        lines.append(
            f"| {result['card']} | {result['model']} | {result['devices']} "
            f"| {result['parallel']} | {count} | {small} | {size:.1f} "
            f"| {result['memory_milliseconds']:.1f} "
            f"| {result['sent_milliseconds_with_latency']:.2f} "
            f"| {result['efficiency']:.3f} | {result['efficiency_with_overlap']:.3f} "
            f"| {result['argument_gigabytes']:.2f} | {result['temporary_gigabytes']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _in_order(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results in the order of the table, whatever order they were made in."""
    names = (
        _row_name(card, model, count, changes)
        for card in CARDS
        for model in MODELS
        for count, changes in VARIANTS
    )
    return {name: results[name] for name in names if name in results}


def _row_name(card: str, model: str, count: int, changes: Mapping[str, Any]) -> str:
    return f"{card} {model} {count} {_said(changes)}"


def _said(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{option}={value}" for option, value in changes.items()) or "as usual"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cards", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--devices", nargs="+", type=int, choices=(1, 8, 64), default=[1, 8, 64])
    said = list(dict.fromkeys(_said(changes) for _, changes in VARIANTS))
    parser.add_argument("--parallel", nargs="+", choices=said, default=said, help="default: all")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles the programs, and writes and prints the results after each."""
    options = parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    path = options.results / "compiled-scaling.json"
    results = json.loads(path.read_text("utf-8"))["programs"] if path.exists() else {}
    facts = report.facts(LIBRARIES)
    for model in options.only:
        for name in options.cards:
            card = CARDS[name]
            for count, changes in VARIANTS:
                said = _said(changes)
                if count not in options.devices or said not in options.parallel:
                    continue
                found = compile_step(model, card, count, ParallelConfig(**changes))
                row = {"card": name, "model": model, "devices": count, "parallel": said, **found}
                results = _in_order(results | {_row_name(name, model, count, changes): row})
                images = {key: each.images for key, each in CARDS.items()}
                setting = {"image_size": IMAGE_SIZE, "images_on_each_device": images}
                report.write(
                    options.results, path.stem, facts | {"setting": setting, "programs": results}
                )
                path.with_suffix(".md").write_text(table(results), encoding="utf-8")
                print(table({"": row}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

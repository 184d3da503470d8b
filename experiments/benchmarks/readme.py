"""Renders README.md of this folder from the committed results.

    python -m experiments.benchmarks.readme

The results are the files of `experiments/results/benchmarks/`; each kind of file has a function
here that turns it into rows. What was tried and did not pay is `tried.md`, written by hand.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import report, timing

FOLDER = Path(__file__).parent
HEAD = """# Benchmarks

This page is rendered by `python -m experiments.benchmarks.readme` from the files of
[../results/benchmarks](../results/benchmarks). A ratio is the peer's time over ours in the same round
of one run, the median of all rounds with the least and the largest: above 1 tl_jax is faster. The
peer is timm on torch, unless it is named. On a CPU only rounds count in which other processes used
less than 0.06 of a core, where there were any; otherwise the row says "not quiet".

| what is measured | command |
| --- | --- |
| training steps, forward pass and evaluation on a CPU, with and without each faster form | `python -m experiments.benchmarks.cpu` |
| everything on a GPU, nine minutes at a time; what there is no time for is named | `python -m experiments.benchmarks.gpu` |
| what the programs move on an H100, without the device | `python -m experiments.benchmarks.compiled` |
| what steps over 8 and 64 devices send and keep, without them | `python -m experiments.benchmarks.compiled_scaling` |
| cached features, and many heads at once | `python -m experiments.benchmarks.probe` |
| from the start of a process to its first step | `python -m experiments.benchmarks.start` |
| loading weights | `python -m experiments.benchmarks.load_weights` |
| reading images | `python -m experiments.benchmarks.loader` |
"""  # noqa: E501
Row = list[str]


def render(
    results: Path = report.RESULTS,
    texts: Sequence[Path] = (
        FOLDER / "on_h200.md",
        FOLDER / "not_reached.md",
        FOLDER / "tried.md",
    ),
) -> str:
    """Returns the page: the tables of the results, and then the texts.

    Raises:
      ValueError: if a result file is of no known kind, so that none is left out.
    """
    loaded = {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))
    }
    parts = [HEAD, _all_results(loaded)]
    parts += _sections(loaded)
    return "\n".join([*parts, *(text.read_text("utf-8") for text in texts)]).rstrip() + "\n"


def _all_results(loaded: Mapping[str, Any]) -> str:
    columns = ["what", "tl_jax", "peer", "ratio", "rounds", "machine", "date", "versions"]
    rows = []
    for name, result in loaded.items():
        for row in _kind(name)(name, result):
            rows.append([*row, *_origin(result)])
    return f"## Results\n\n{_table(columns, rows)}"


def _kind(name: str) -> Callable[[str, Any], Iterator[Row]]:
    for prefix, function in KINDS.items():
        if name.startswith(prefix):
            return function
    known = ", ".join(KINDS)
    raise ValueError(f"{name}.json is none of the kinds of results that are known: {known}")


def _origin(result: Mapping[str, Any]) -> Row:
    """Returns machine, date and versions."""
    machine, versions = result["machine"], result["versions"]
    facts = result.get("cases", {}).get("facts", {}).get("result", {})
    named = ("jax", "torch", "timm")
    return [
        f"{facts.get('device') or machine.get('cpu', '')}, {machine.get('cores', '?')} cores",
        result["date"][:10],
        ", ".join(f"{name} {versions[name]}" for name in named if name in versions),
    ]


def _cpu(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    timed = result["timing"]
    label = "quiet" if timed["quiet_rounds"] else "all"
    found = timed[label]
    setting = result["setting"]
    what = f"{name.removeprefix('cpu-').replace('-', ', ')}, batch {setting['batch_size']}"
    rounds = str(len(timed["quiet_rounds"])) if label == "quiet" else "not quiet"
    chosen = timed["quiet_rounds"] or list(range(timed["rounds"]))
    ours = [timed["samples"]["tl_jax"][index]["wall"] for index in chosen]
    for peer, words in (("torch", ""), ("torch, fused", "; torch with BatchNorm folded")):
        if peer in found:
            theirs = [timed["samples"][peer][index]["wall"] for index in chosen]
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            walls = _seconds(found["tl_jax"]["wall"]), _seconds(found[peer]["wall"])
            yield [f"{what}{words}", *walls, _ratio(timing.spread(ratios)), rounds]
    peaks = result["peak_bytes"]
    if peaks.get("tl_jax") and peaks.get("torch"):
        ratio = peaks["torch"] / peaks["tl_jax"]
        sizes = [f"{peaks[side] / 2**20:.0f} MiB" for side in ("tl_jax", "torch")]
        yield [f"{what}, peak memory", *sizes, f"{ratio:.2f}", ""]


def _probe(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    setting, epoch, heads = result["setting"], result["epoch"], result["sweep"]
    what = f"{setting['model']} on a {setting['device'].upper()}"
    walls = epoch["median_seconds"]
    yield [
        f"{what}: an epoch of {setting['images']} images on cached features; peer: through the "
        "backbone",
        _seconds(walls["features"]),
        _seconds(walls["backbone"]),
        _ratio(timing.spread(epoch["ratio_by_block"])),
        str(len(epoch["ratio_by_block"])),
    ]
    walls = heads["median_seconds"]
    number = setting["heads"]
    one = walls["one by one"] / number
    yield [
        f"{number} heads at once; peer: one head",
        _seconds(walls["at once"]),
        _seconds(one),
        f"{one / walls['at once']:.2f}",
        str(len(heads["ratio_by_block"])),
    ]


def _start(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    for network, sides in result["networks"].items():
        peer = _seconds(sides["torch"]["median_seconds"])
        for side, found in sides.items():
            if side != "torch":
                yield [
                    f"{network}, process start to first step: {side}",
                    _seconds(found["median_seconds"]),
                    peer,
                    f"{found['speed_over_torch']:.2f}",
                    str(len(found["seconds"])),
                ]


def _load_weights(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    for what, label in (("both", "with imports"), ("load", "after imports")):
        yield [
            f"{result['model']}, weights from a file, {label}",
            _seconds(result["tl_jax"][what]),
            _seconds(result["timm"][what]),
            f"{result['speed_over_timm'][what]:.2f}",
            str(len(result["tl_jax"]["turns"])),
        ]


def _loader(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    speeds = result["median_images_per_second"]
    rounds = str(result["setting"]["blocks"])
    ours, peer = speeds["jpeg"], speeds["dataloader"]
    yield [
        "JPEG images to batches; peer: torch's DataLoader with timm's transform",
        f"{ours:.0f} images/s",
        f"{peer:.0f} images/s",
        f"{ours / peer:.2f}",
        rounds,
    ]


def _gpu(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    for case, found in result["cases"].items():
        if case.startswith("steps") and "timing" in found["result"]:
            timed = found["result"]["timing"]
            yield [
                f"GPU, {case.removeprefix('steps ')}",
                *(_seconds(timed[side]["wall"]) for side in ("tl_jax", "torch")),
                _ratio(timed["tl_jax"]["wall_ratio"]),
                str(len(found["result"]["samples"]["tl_jax"])),
            ]


def _nothing(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    """Compiled programs take no time that could be compared; they have a section of their own."""
    return iter(())


KINDS: dict[str, Callable[[str, Any], Iterator[Row]]] = {
    "cpu-": _cpu,
    "gpu-": _gpu,
    "compiled-": _nothing,
    "probe-": _probe,
    "start": _start,
    "load_weights-": _load_weights,
    "loader": _loader,
}


def _sections(loaded: Mapping[str, Any]) -> Iterator[str]:
    """Yields the faster forms on a CPU, the compiled programs and the links to GPU pages."""
    rows = [row for name, result in loaded.items() for row in _forms(name, result)]
    if rows:
        columns = ["row", "variant", "ms", "torch / it [least, largest]", "CPU time", "faults", "s"]
        yield (
            "## On a CPU, form by form\n\nEvery variant was timed in the same rounds. `s` are the "
            f"seconds to trace, lower and compile it.\n\n{_table(columns, rows)}"
        )
    if "start" in loaded:
        yield _stages(loaded["start"])
    for name, result in loaded.items():
        if name == "compiled-scaling":
            yield (
                "## Compiled for 1, 8 and 64 devices\n\nThe table: "
                f"[{name}.md](../results/benchmarks/{name}.md); "
                "[what it says](../../docs/scaling.md#what-the-compiled-programs-say).\n"
            )
        elif name.startswith("compiled-"):
            yield _compiled(result)
        elif name.startswith("gpu-"):
            yield f"All figures of this card: [{name}.md](../results/benchmarks/{name}.md).\n"


def _forms(name: str, result: Mapping[str, Any]) -> Iterator[Row]:
    if not name.startswith("cpu-"):
        return
    timed = result["timing"]
    found = timed["quiet" if timed["quiet_rounds"] else "all"]
    for variant, one in found.items():
        stages = result["sides"][variant].get("compile_seconds", {})
        yield [
            name.removeprefix("cpu-"),
            variant,
            f"{1e3 * one['wall']:.1f}",
            _ratio(one["wall_ratio"]),
            f"{one['cpu_ratio'].get('median', 0):.2f}",
            f"{one['faults']:.0f}",
            f"{sum(stages.values()):.1f}" if stages else "",
        ]


def _stages(result: Mapping[str, Any]) -> str:
    """Returns the seconds of each stage of the start of a process."""
    rows = []
    for network, sides in result["networks"].items():
        for side, found in sides.items():
            ends = found.get("stage_ends", {})
            lengths = [
                f"{stage} {end - before:.2f}"
                for (stage, end), before in zip(ends.items(), (0.0, *ends.values()), strict=False)
            ]
            if lengths:
                rows.append([network, side, f"{found['median_seconds']:.2f}", ", ".join(lengths)])
    columns = ["network", "side", "s", "stages, s"]
    return (
        "## The start of a process, stage by stage\n\n`compile` is to read the program where the "
        "cache has it; `lower` also builds oneDNN's convolutions where no process did before.\n\n"
        f"{_table(columns, rows)}"
    )


def _compiled(result: Mapping[str, Any]) -> str:
    columns = ["program", "variant", "kernels", "GB", "floor, ms", "temporary GB"]
    rows = [
        [
            name,
            variant,
            str(one["kernels"]),
            f"{one['gigabytes']:.1f}",
            f"{one['floor_milliseconds']:.1f}",
            f"{one['temporary_gigabytes']:.2f}",
        ]
        for name, variants in result["programs"].items()
        for variant, one in variants.items()
    ]
    sizes = result["setting"]
    return (
        f"## Compiled for an H100\n\nBatches of {sizes['batch_size']} images of "
        f"{sizes['image_size']} pixels, bfloat16; jax {result['versions']['jax']}, "
        f"{result['date'][:10]}. The floor is the time that the bytes take at 3.35 TB/s.\n\n"
        f"{_table(columns, rows)}"
    )


def _table(columns: Row, rows: list[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def _ratio(spread: Mapping[str, float]) -> str:
    ends = f" [{spread['least']:.2f}, {spread['largest']:.2f}]" if "least" in spread else ""
    return f"{spread['median']:.2f}{ends}"


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(render(), encoding="utf-8")

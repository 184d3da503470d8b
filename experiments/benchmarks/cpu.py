"""Times tl_jax beside timm on torch on a CPU, with and without each of its faster forms.

    python -m experiments.benchmarks.cpu                     # every row that was not measured today
    python -m experiments.benchmarks.cpu --row resnet50-full --rounds 12

A row is a network and what is done with it. It has a process of its own, in which both sides start
from the same weights, take the same steps on the same normalised images (checked before anything
is timed), and are timed in turn: float32, 128 pixels, batches of 16 (`--row resnet50-latency`: one
image). torch runs eagerly in channels_last, its fastest layout there. Where the backbone is frozen,
a second torch side has its BatchNorm folded (`fuse_conv_bn_eval`), which a user may do by hand. The
C library keeps memory for torch as it does for tl_jax; "torch without allocator" goes without.
The variant "bfloat16" computes in bfloat16, and torch still in float32.

A ratio is torch's time over ours in the same round. A round counts as quiet if no other process
used more than 0.06 of a core during any of its blocks, by /proc/stat; the result has both the
figures of all rounds and those of quiet ones. Peak memory is measured in processes of its own.

The result of a row goes to `experiments/results/benchmarks/cpu-<row>.json`. Without `--row` all
rows run one after the other, and after them `probe` and `start`; a row whose result is of today (or
not before `--since`) with enough quiet rounds is left out, so an interrupted command goes on.
"""

import argparse
import copy
import ctypes
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import torch

from experiments.benchmarks import agreement, programs, report, switches, timing, torch_sides
from experiments.benchmarks.programs import Setting
from experiments.benchmarks.torch_sides import TorchOptions, timm_model
from tl_jax import allocator, onednn, process, processor
from tl_jax.training import sharding

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "timm")
OURS, PEER, FUSED_PEER = "tl_jax", "torch", "torch, fused"
PEER_AS_IT_IS = "torch without allocator"
# A row's steps in a block; a block is long enough that a tick of /proc/stat is no part of it.
ROWS: dict[str, int] = {
    "resnet50-full": 2,
    "tf_efficientnet_lite0-full": 3,
    "resnet50-head": 5,
    "tf_efficientnet_lite0-head": 10,
    "resnet50-forward": 5,
    "tf_efficientnet_lite0-forward": 10,
    "resnet50-lora": 2,
    "resnet50-evaluation": 5,
    "resnet50-latency": 30,
    "tf_efficientnet_lite0-latency": 50,
}
# Other benchmarks that the whole command runs, and the results that they write.
OTHERS = {"probe": "probe-cpu-resnet50", "start": "start"}
BATCH_SIZE, IMAGE_SIZE = 16, 128


@dataclasses.dataclass(frozen=True)
class Variant:
    """How one of our programs is made and run.

    Attributes:
      off: the forms that it goes without.
      options: of the compiler.
      keeps_memory: whether the C library keeps memory (`tl_jax.allocator`).
      bfloat16: whether it computes in bfloat16.
    """

    off: tuple[str, ...] = ()
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keeps_memory: bool = True
    bfloat16: bool = False


VARIANTS: dict[str, Variant] = {
    OURS: Variant(),
    "without allocator": Variant(keeps_memory=False),
    **{
        f"without {name}": Variant((name,))
        for name in ("onednn", "own_convolutions", "norm_gradient", "pool_gradient")
    },
    "without lora_gradient": Variant(("lora_gradient",)),
    "without separate_norms": Variant(("separate_norms",)),
    "without any": Variant(
        ("onednn", "own_convolutions", "norm_gradient", "pool_gradient"), keeps_memory=False
    ),
    "vector width 512": Variant(options={"xla_cpu_prefer_vector_width": "512"}),
    "bfloat16": Variant(bfloat16=True),
    "bfloat16 without onednn": Variant(("onednn",), bfloat16=True),
}


def variants_of(setting: Setting) -> list[str]:
    """Returns the variants that differ in a setting's program."""
    unused = {
        "full": {"lora_gradient", "separate_norms"},
        "lora": {"norm_gradient"},
    }.get(setting.mode, {"norm_gradient", "pool_gradient", "lora_gradient"})
    if "efficientnet" in setting.model:
        # XLA's own depthwise convolutions would take minutes a step.
        unused |= {"pool_gradient", "own_convolutions", "any"}
    if onednn.describe(1).startswith("XLA"):
        unused |= {"onednn", "bfloat16 without onednn"}
    if processor.lacks_bfloat16():
        unused |= {"bfloat16", "bfloat16 without onednn"}
    return [name for name in VARIANTS if name.removeprefix("without ") not in unused]


def setting_of(row: str) -> Setting:
    """Returns what a row times; "latency" is the forward pass of one image."""
    model, _, mode = row.rpartition("-")
    if mode == "latency":
        return Setting("cpu", model, "forward", 1, IMAGE_SIZE)
    return Setting("cpu", model, mode, BATCH_SIZE, IMAGE_SIZE)


def make_sides(
    setting: Setting, model: torch.nn.Module, variables: Any, variants: Mapping[str, Variant]
) -> tuple[dict[str, Callable[[int], float]], dict[str, Any]]:
    """Returns `run(steps)` of torch's sides and our variants, and what is known of each."""
    runs = {PEER: torch_sides.make_run(setting, copy.deepcopy(model), TorchOptions())}
    if setting.mode in ("head", "forward", "evaluation"):
        fused = TorchOptions(fuse=True)
        runs[FUSED_PEER] = torch_sides.make_run(setting, copy.deepcopy(model), fused)
    about: dict[str, Any] = {name: {} for name in runs}
    mesh = sharding.data_mesh(jax.devices()[:1])
    for name, variant in variants.items():
        in_its_type = dataclasses.replace(setting, bfloat16=variant.bfloat16)
        with switches.without(variant.off) as options:
            program = programs.make_program(in_its_type, mesh, **options)
            compiled, stages = programs.compile_program(program, setting, variant.options)
        runs[name] = programs.make_run(program, compiled, setting, variables)
        about[name] = {"compile_seconds": stages}
    for name, run in runs.items():
        about[name]["first_loss"] = run(1)
    # The same program; whether memory is kept is decided at each turn.
    runs[PEER_AS_IT_IS], about[PEER_AS_IT_IS] = runs[PEER], about[PEER]
    return runs, about


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a row and returns its result."""
    peaks = {name: peak_bytes(setting, name) for name in (OURS, PEER)}
    model = timm_model(setting)
    variables, errors = agreement.checked(setting, model)
    chosen = options.variants or variants_of(setting)
    variants = {name: VARIANTS[name] for name in chosen}
    for text in options.compiler_option:
        name, _, value = text.partition("=")
        variants[text] = Variant(options={name: value})
    runs, about = make_sides(setting, model, variables, variants)
    steps = options.steps or ROWS.get(options.row, 1)

    def before_turn(name: str) -> None:
        gives_back = name == PEER_AS_IT_IS or (name in variants and not variants[name].keeps_memory)
        set_allocator(keep=not gives_back)

    samples = timing.alternate(
        runs, steps, options.rounds, before_turn=before_turn, seconds=options.seconds
    )
    return {
        "setting": dataclasses.asdict(setting) | {"steps": steps, "cores": processor.num_cores()},
        "convolutions": onednn.describe(1),
        "relative_errors": errors,
        "sides": about,
        "peak_bytes": peaks,
        "timing": timing.compare(samples, PEER),
    }


def set_allocator(*, keep: bool) -> None:
    """Lets the C library keep freed memory, or give it back as it does by default."""
    if keep:
        allocator.keep_memory()
    elif sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        # Of malloc.h, with glibc's own values; its threshold of own maps grows to 32 MB by itself.
        trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
        mallopt(mmap_max, 65536)
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 64 << 20)


def peak_bytes(setting: Setting, name: str) -> int | None:
    """Returns the main memory that one side adds to its process, measured in a process of its own.

    It is the peak after three steps less what the process held before the side was made, so it
    counts the compiler's work too, and neither side's libraries.
    """
    command = [sys.executable, "-m", "experiments.benchmarks.cpu", "--memory-of", name]
    command += ["--setting", json.dumps(dataclasses.asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def added_bytes(setting: Setting, name: str) -> int | None:
    """Returns the result of `peak_bytes` in its process; None where the kernel does not say."""
    torch_sides.import_timm()
    before = process_bytes("VmRSS")
    if name == OURS:
        program = programs.make_program(setting, sharding.data_mesh(jax.devices()[:1]))
        compiled, _ = programs.compile_program(program, setting)
        # As in `fit` nothing holds the initial variables once the run has a state.
        run = programs.make_run(program, compiled, setting, programs.random_variables(setting))
    else:
        model = torch_sides.import_timm().create_model(setting.model)
        if setting.mode == "lora":
            agreement.from_timm(setting, model)
        run = torch_sides.make_run(setting, model, TorchOptions())
    run(3)
    after = process_bytes("VmHWM")
    return None if before is None or after is None else after - before


def process_bytes(field: str) -> int | None:
    """Returns this process's resident memory, now ("VmRSS") or at most ("VmHWM"), on Linux.

    `getrusage` would not do: its peak is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def table(result: Mapping[str, Any]) -> str:
    """Returns a row's result as a small table: of its quiet rounds, if there were any."""
    timed = result["timing"]
    label = "quiet" if timed["quiet_rounds"] else "all"
    others = ", ".join(f"{cores:.2f}" for cores in timed["cores_used_by_others"])
    lines = [
        f"{len(timed['quiet_rounds'])} of {timed['rounds']} rounds were quiet (others used "
        f"{others} cores); medians of {label} rounds, ratios are {PEER}'s time over this one's",
        f"{'':26}{'wall ms':>9}{'cpu ms':>9}{'faults':>9}  wall ratio          cpu ratio",
    ]
    for name, found in timed[label].items():
        ratios = [
            f"{r['median']:.3f} [{r['least']:.2f}, {r['largest']:.2f}]"
            for r in (found["wall_ratio"], found["cpu_ratio"])
        ]
        lines.append(
            f"{name:26}{1e3 * found['wall']:9.1f}{1e3 * found['cpu']:9.1f}{found['faults']:9.0f}"
            f"  {ratios[0]:20}{ratios[1]}"
        )
    return "\n".join(lines)


def run_rows(options: argparse.Namespace) -> None:
    """Runs each row that has no result yet in a process of its own, then the other benchmarks."""
    for row in ROWS:
        if not is_done(options, f"cpu-{row}"):
            command = ["cpu", "--row", row, "--rounds", str(options.rounds)]
            run_module(*command, "--seconds", str(options.seconds), folder=options.results)
    for module, name in OTHERS.items():
        if not is_done(options, name):
            run_module(module, folder=options.results)


def run_module(module: str, *arguments: str, folder: Path) -> None:
    """Runs a benchmark in a process of its own; one that fails is reported and left out."""
    print(f"== {module} {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", f"experiments.benchmarks.{module}", *arguments]
    done = subprocess.run([*command, "--results", str(folder)], check=False)
    if done.returncode:
        print(f"{module} {' '.join(arguments)} failed (exit {done.returncode})", flush=True)


def is_done(options: argparse.Namespace, name: str) -> bool:
    """Returns whether a result is recent enough, and of a row measured in enough quiet rounds."""
    path = options.results / f"{name}.json"
    if not path.exists():
        return False
    result = json.loads(path.read_text("utf-8"))
    quiet = result.get("timing", {}).get("quiet_rounds")
    return result["date"][:10] >= options.since and (quiet is None or len(quiet) >= options.quiet)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--row", help=f"one of {', '.join(ROWS)}, or NETWORK-MODE")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that differ")
    parser.add_argument(
        "--compiler-option",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of XLA, each tried as a variant of its own",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, help="steps of a block; default: by row")
    parser.add_argument("--seconds", type=float, default=600.0, help="no round begins after these")
    parser.add_argument("--cores", type=int, help="use that many cores; default: all")
    parser.add_argument("--quiet", type=int, default=5, help="quiet rounds that a row needs")
    parser.add_argument("--since", default=today, help="results from this date on are kept")
    parser.add_argument("--batch-size", type=int, help=f"default: {BATCH_SIZE}")
    parser.add_argument("--image-size", type=int, help=f"pixels; default: {IMAGE_SIZE}")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--memory-of", choices=(OURS, PEER), help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one row, or every row that is left."""
    options = parse(arguments)
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if not options.row and not options.memory_of:
        run_rows(options)
        return
    os.environ["JAX_PLATFORMS"] = "cpu"  # The allocator's setting looks at it.
    os.environ["TL_JAX_COMPILATION_CACHE_GB"] = "0"  # Compilation is timed.
    jax.config.update("jax_platforms", "cpu")
    process.prepare()
    torch.set_num_threads(processor.num_cores())
    if options.memory_of:
        print(json.dumps(added_bytes(Setting(**options.setting), options.memory_of)))
        return
    setting = setting_of(options.row)
    sizes = {"batch_size": options.batch_size, "image_size": options.image_size}
    setting = dataclasses.replace(setting, **{name: n for name, n in sizes.items() if n})
    facts = report.facts(LIBRARIES)
    start = time.perf_counter()
    result = facts | measure(setting, options)
    result["seconds"] = time.perf_counter() - start
    path = report.write(options.results, f"cpu-{options.row}", result)
    print(f"{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    main()

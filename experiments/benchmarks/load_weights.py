"""Times making a network and loading its weights from a safetensors file, beside timm.

    python -m experiments.benchmarks.load_weights [--model resnet50] [--repeats 7]

Each measurement is a fresh process, and the two sides take turns: ours is `load_pretrained`, in a
process that never imports torch; timm's is `create_model` and `load_checkpoint`. A user waits for
the import and the load; the table shows both and their sum. A first, unmeasured turn brings the
file into memory. The result goes to `experiments/results/benchmarks/load_weights-<model>.json`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import report

LIBRARIES = ("jax", "jaxlib", "flax", "safetensors", "torch", "timm")
SIDES = ("tl_jax", "timm")


def time_ours(model: str, file: str) -> dict[str, float]:
    """Returns the seconds of the imports and of the load, in this process."""
    start = time.perf_counter()
    import jax

    jax.config.update("jax_platforms", "cpu")
    import tl_jax

    load = tl_jax.load_pretrained
    imported = time.perf_counter()
    jax.block_until_ready(load(model, weights=file, verbose=False)[1])
    end = time.perf_counter()
    if "torch" in sys.modules:
        raise RuntimeError("tl_jax imported torch; this side must measure the load without it")
    return {"import": imported - start, "load": end - imported}


def time_timms(model: str, file: str) -> dict[str, float]:
    """Returns the seconds of the imports and of the load with timm, in this process."""
    start = time.perf_counter()
    from experiments.torch_peer import import_timm

    timm = import_timm()
    imported = time.perf_counter()
    network = timm.create_model(model)
    timm.models.load_checkpoint(network, file)
    return {"import": imported - start, "load": time.perf_counter() - imported}


TIMERS: dict[str, Callable[[str, str], dict[str, float]]] = {
    "tl_jax": time_ours,
    "timm": time_timms,
}


def write_weights(model: str, folder: Path) -> Path:
    """Writes the weights of a fresh timm network to a file."""
    from safetensors.torch import save_file

    from experiments.torch_peer import import_timm

    path = folder / f"{model}.safetensors"
    save_file(import_timm().create_model(model).state_dict(), path)
    return path


def measure(model: str, repeats: int) -> dict[str, Any]:
    """Returns the seconds of each side and the ratio of their medians."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_weights(model, Path(folder))
        turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for turn in range(repeats + 1):
            for side in SIDES:
                seconds = in_new_process(side, model, file)
                if turn:
                    turns[side].append(seconds)
    sides = {
        side: {what: statistics.median(t[what] for t in times) for what in ("import", "load")}
        | {"both": statistics.median(t["import"] + t["load"] for t in times), "turns": times}
        for side, times in turns.items()
    }
    ratios = {what: sides["timm"][what] / sides["tl_jax"][what] for what in ("load", "both")}
    return {"model": model, **sides, "speed_over_timm": ratios}


def in_new_process(side: str, model: str, file: Path) -> dict[str, float]:
    """Measures one side in a fresh interpreter."""
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--model", model]
    process = subprocess.run(
        [*command, "--side", side, "--file", str(file)], capture_output=True, text=True, check=False
    )
    if process.returncode:
        sys.exit(f"{side} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def table(result: dict[str, Any]) -> str:
    """Returns the result as a small table."""
    lines = [f"{'':8}{'import s':>10}{'load s':>8}{'both s':>8}"]
    for side in SIDES:
        seconds = result[side]
        lines.append(
            f"{side:8}{seconds['import']:10.2f}{seconds['load']:8.3f}{seconds['both']:8.2f}"
        )
    ratios = result["speed_over_timm"]
    lines.append(
        f"tl_jax has {result['model']} ready {ratios['both']:.2f} times as fast as timm in a new "
        f"process, {ratios['load']:.2f} times where all is imported"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints its table and writes its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="timm's name of the architecture")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the result")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side is not None:
        print(json.dumps(TIMERS[options.side](options.model, options.file)))
        return
    result = report.facts(LIBRARIES) | measure(options.model, options.repeats)
    path = report.write(options.results, f"load_weights-{options.model}", result)
    print(f"{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    main()

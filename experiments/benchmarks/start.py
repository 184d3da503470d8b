"""Times the start of a process to the end of its first training step, beside torch's.

    python -m experiments.benchmarks.start

Each figure is of processes of their own, in turns, from their start until a step is computed:

- `torch`: import torch and timm, make the network, load a safetensors file, one step of SGD;
- `tl_jax, cold`, `tl_jax, warm`: the same with tl_jax, with an empty compilation cache and with
  the one that an earlier process left (see "The start of a process" in docs/usage.md);
- `train, cold`, `train, warm`: `python -m tl_jax train` on a folder of pictures, until it says that
  the first step is done. This also opens the data, writes the run's folder and decodes images.

All load the same file and take the same batch size and image size, on the CPU, in float32. The
files and libraries were read before anything is timed. The medians go to
`experiments/results/benchmarks/start.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import report
from tl_jax import processor

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "timm")
NETWORKS = ("resnet50", "tf_efficientnet_lite0")
SIDES = ("torch", "tl_jax, cold", "tl_jax, warm", "train, cold", "train, warm")
STAGES_OF_TORCH = ("imports", "weights", "first step")
# "compile" is to read the program where the cache has it; "first step" is to run it alone.
OWN_STAGES = ("imports", "weights", "state", "trace", "lower", "compile", "first step")
NUM_CLASSES, LEARNING_RATE, MOMENTUM = 1000, 1e-3, 0.9
DONE = "compiled, and one step"


def ours(name: str, weights: Path, batch_size: int, size: int) -> list[float]:
    """Takes one step of tl_jax, and returns the time at the end of each stage."""
    import jax

    import tl_jax
    from tl_jax import process
    from tl_jax.models.registry import architecture
    from tl_jax.training import optim, sharding, state, step
    from tl_jax.transfer import freeze

    times = [time.time()]
    process.prepare()
    model, variables = tl_jax.load_pretrained(name, weights=weights, verbose=False)
    times.append(time.time())
    plan = freeze.plan(variables["params"], [architecture(name).classifier], train_backbone=True)
    rates = {freeze.HEAD: LEARNING_RATE, freeze.BACKBONE: LEARNING_RATE}
    tx = optim.optimizer("sgd", rates, plan, momentum=MOMENTUM)
    mesh = sharding.data_mesh()

    def keyed_step(seed_key: jax.Array, train_state: Any, batch: step.Batch) -> Any:
        train_step = step.make_train_step(
            model, tx, plan, augment_fn=lambda key, batch: batch["image"], seed_key=seed_key
        )
        return train_step(train_state, batch)

    images, labels = batch_of(batch_size, size)
    batch = sharding.put_batch({"image": images, "label": labels.astype(np.int32)}, mesh)
    train_step = sharding.jit_keyed_train_step(keyed_step, mesh, jax.random.key(0))
    first = jax.device_put(state.create(variables, tx, plan), sharding.replicated(mesh))
    times.append(time.time())
    arguments = (*train_step.args, first, batch)
    traced = train_step.func.trace(*arguments)
    times.append(time.time())
    lowered = traced.lower()
    times.append(time.time())
    program = lowered.compile()
    times.append(time.time())
    jax.block_until_ready(program(*arguments))
    return [*times, time.time()]


def theirs(name: str, weights: Path, batch_size: int, size: int) -> list[float]:
    """Takes one step of timm's network in torch, and returns the time at the end of each stage."""
    import torch

    from experiments.torch_peer import import_timm

    timm = import_timm()
    times = [time.time()]
    torch.set_num_threads(processor.num_cores())
    model = timm.create_model(name, num_classes=NUM_CLASSES, checkpoint_path=str(weights))
    model = model.to(memory_format=torch.channels_last).train()
    times.append(time.time())
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    images, labels = map(torch.from_numpy, batch_of(batch_size, size))
    images = images.permute(0, 3, 1, 2)  # Its memory is in channels_last as it is.
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return [*times, time.time()]


def batch_of(batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as if normalised, float32 [B, H, W, 3], and labels, int64 [B]."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, NUM_CLASSES, batch_size)


def write_weights(name: str, path: Path) -> None:
    """Writes random weights of a network, in a process of its own: it imports torch."""
    code = (
        "import sys, safetensors.torch, torch; from experiments.torch_peer import import_timm\n"
        "torch.manual_seed(0); model = import_timm().create_model(sys.argv[1])\n"
        "safetensors.torch.save_file(model.state_dict(), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, name, str(path)], check=True)


def write_pictures(folder: Path, count: int) -> None:
    """Writes pictures of two classes, as a folder that `train` reads."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 4)):
        for i in range(number):
            path = folder / split / f"class{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (12, 16, 3), np.uint8)
            Image.fromarray(pixels).resize((500, 375)).save(path, quality=90)


def commands(name: str, folder: Path, setting: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the command line of each side, without what differs from process to process."""
    weights = folder / f"{name}.safetensors"
    own = [sys.executable, "-m", "experiments.benchmarks.start", "--model", name]
    own += ["--weights", str(weights), "--batch-size", str(setting.batch_size)]
    own += ["--image-size", str(setting.image_size), "--side"]
    config = folder / f"{name}.py"
    config.write_text(
        "from tl_jax import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig\n"
        "def get_config():\n"
        f"    return Config(ModelConfig({name!r}, weights={str(weights)!r}),\n"
        f"        DataConfig('folder:{folder / 'pictures'}', image_size={setting.image_size},\n"
        f"                   batch_size={setting.batch_size}, eval_split='val'),\n"
        "        optim=OptimConfig(name='sgd'), train=TrainConfig(head_epochs=0, epochs=1))\n",
        encoding="utf-8",
    )
    train = [sys.executable, "-m", "tl_jax", "train", str(config), "--workdir"]
    return {side: train if side.startswith("train") else [*own, side] for side in SIDES}


def start(side: str, command: Sequence[str], caches: Path) -> list[float]:
    """Starts a process and returns the seconds until the end of each stage; the last is the step.

    Args:
      side: one of `SIDES`.
      command: its command line.
      caches: folder of the caches of warm processes.
    """
    with tempfile.TemporaryDirectory() as temporary:
        cache = caches if side.endswith("warm") else Path(temporary) / "cache"
        mine = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
        environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k} | mine
        is_train = side.startswith("train")
        full = [*command, f"{temporary}/run"] if is_train else command
        begin = time.time()
        with subprocess.Popen(
            full,
            env=environment,
            stdout=subprocess.DEVNULL if is_train else subprocess.PIPE,
            stderr=subprocess.PIPE if is_train else None,
            text=True,
        ) as process:
            for line in (process.stderr if is_train else process.stdout) or ():
                if is_train and DONE in line:
                    seconds = [time.time() - begin]
                    process.terminate()
                    return seconds
                if not is_train and line.startswith("["):
                    return [moment - begin for moment in json.loads(line)]
    raise RuntimeError(f"the process of {side!r} ended without a step: {' '.join(full)}")


def measure(name: str, folder: Path, setting: argparse.Namespace) -> dict[str, Any]:
    """Times all sides of a network and returns their medians and their ratio to torch's."""
    caches = folder / "caches"
    lines = commands(name, folder, setting)
    for side in ("torch", "tl_jax, warm", "train, warm"):  # Fills caches, of the system too.
        start(side, lines[side], caches)
    seconds: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for round_ in range(setting.rounds):
        for side in SIDES[:: -1 if round_ % 2 else 1]:
            seconds[side].append(start(side, lines[side], caches))
            print(f"  {name} round {round_ + 1}/{setting.rounds} {side:14} "
                  f"{seconds[side][-1][-1]:.2f} s", flush=True)  # fmt: skip
    result: dict[str, Any] = {}
    for side, rows in seconds.items():
        ratios = [t[-1] / o[-1] for t, o in zip(seconds["torch"], rows, strict=True)]
        result[side] = {
            "median_seconds": statistics.median(row[-1] for row in rows),
            "seconds": [row[-1] for row in rows],
            "speed_over_torch": statistics.median(ratios),
        }
        if not side.startswith("train"):
            stages = STAGES_OF_TORCH if side == "torch" else OWN_STAGES
            ends = [statistics.median(column) for column in zip(*rows, strict=True)]
            result[side]["stage_ends"] = dict(zip(stages, ends, strict=True))
    return result


def table(networks: dict[str, Any]) -> str:
    """Returns the result as a table with a line for each network and side."""
    lines = [f"{'network':24}{'side':14}{'seconds':>9}{'torch / it':>12}  ends of the stages"]
    for name, sides in networks.items():
        for side, row in sides.items():
            ends = "  ".join(f"{k} {v:.2f}" for k, v in row.get("stage_ends", {}).items())
            lines.append(
                f"{name:24}{side:14}{row['median_seconds']:9.2f}{row['speed_over_torch']:12.2f}"
                f"  {ends}"
            )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="timm's names")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=128, help="pixels")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the result")
    for name in ("--side", "--model", "--weights"):  # Of the processes that are timed.
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints its table and writes its result."""
    options = parse(arguments)
    if options.side is not None:
        run: Callable[..., list[float]] = theirs if options.side == "torch" else ours
        weights = Path(options.weights)
        print(json.dumps(run(options.model, weights, options.batch_size, options.image_size)))
        return
    result = report.facts(LIBRARIES)
    setting = {name: vars(options)[name] for name in ("batch_size", "image_size", "rounds")}
    networks = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder / "pictures", 2 * options.batch_size)
        for name in options.models:
            write_weights(name, folder / f"{name}.safetensors")
            networks[name] = measure(name, folder, options)
    result |= {"setting": setting, "networks": networks}
    path = report.write(options.results, "start", result)
    print(table(networks))
    print(f"written to {path}")


if __name__ == "__main__":
    main()

"""Times a training step of tl_jax beside the same step of timm in torch, alternating in one run.

    python -m experiments.benchmarks.train_step --device cpu --model resnet50 --mode full

Both sides start from the same weights and train on the same normalised images, which lie in the
device's memory: no loader is involved. Both take SGD with momentum and cross-entropy.

- CPU: float32, batch 16, 128 px; torch runs eagerly in channels_last, its fastest layout there.
- GPU: bfloat16, batch 256, 224 px; torch runs under `torch.compile`, autocast and channels_last.
- `--mode head`: the backbone is frozen. torch is set up to do what tl_jax does by itself: the
  backbone in `eval()` and under `no_grad`, the optimizer over the classifier alone.

Before anything is timed the logits and the gradients of the two sides are compared in float32; if
they differ by more than rounding, the benchmark ends with an error. The result goes to
`experiments/results/benchmarks/train_step-<device>-<model>-<mode>.json`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from experiments.benchmarks import report
from experiments.torch_peer import import_timm, settle
from tl_jax import messages
from tl_jax.models.network import Network
from tl_jax.models.registry import architecture, create_model
from tl_jax.models.variables import abstract_variables, from_state_dict
from tl_jax.training import optim, sharding, state
from tl_jax.training.step import make_train_step
from tl_jax.transfer import freeze
from tl_jax.weights.state_dict import to_state_dict

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "timm")
NUM_CLASSES = 1000
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
SIDES = ("tl_jax", "torch")
# Largest relative errors in float32. Rounding leaves 1e-6 in the logits of a ResNet-50, and up to
# 5e-4 in its gradients, because it moves a few pre-activations across the kink of a ReLU. With a
# BatchNorm epsilon of 1e-3 in place of 1e-5 it is 6e-4 and 3e-2 (in a ResNet-18 2e-4 and 8e-3).
LOGITS_TOLERANCE, GRADIENTS_TOLERANCE = 5e-5, 3e-3
CHECKED_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed: the device, the network, the part that is trained, and the sizes."""

    device: str
    model: str
    mode: str
    batch_size: int
    image_size: int
    steps: int
    blocks: int


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two programs, ready to train.

    Attributes:
      run: takes that many steps, waits for the last and returns its loss.
      peak_bytes: the most device memory used so far; on a CPU, None.
    """

    run: Callable[[int], float]
    peak_bytes: Callable[[], int | None]


def make_batch(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as if normalised, float32 [B, H, W, 3], and labels, int32 [B]."""
    rng = np.random.default_rng(0)
    size = setting.image_size
    images = rng.standard_normal((setting.batch_size, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, NUM_CLASSES, setting.batch_size, dtype=np.int32)


def jax_model(setting: Setting, dtype: Any = jnp.float32) -> Network:
    """Returns tl_jax's network, which computes in `dtype`."""
    return create_model(setting.model, num_classes=NUM_CLASSES, dtype=dtype)


def freeze_plan(setting: Setting, params: Any) -> Any:
    """Returns the labels of what is trained: everything, or the classifier alone."""
    head = [architecture(setting.model).classifier]
    return freeze.plan(params, head, train_backbone=setting.mode == "full")


def make_jax_side(setting: Setting, variables: dict[str, Any] | None) -> Side:
    """Returns tl_jax's side, from the given variables or, where only memory counts, from zeros."""
    model = jax_model(setting, jnp.bfloat16 if setting.device == "gpu" else jnp.float32)
    if variables is None:
        shapes = abstract_variables(model)
        variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    plan = freeze_plan(setting, variables["params"])
    rates = {freeze.HEAD: LEARNING_RATE, freeze.BACKBONE: LEARNING_RATE}
    tx = optim.optimizer("sgd", rates, plan, momentum=MOMENTUM)
    mesh = sharding.data_mesh(jax.devices()[:1])
    step = sharding.jit_train_step(
        make_train_step(
            model,
            tx,
            plan,
            augment_fn=lambda key, batch: batch["image"],
            seed_key=jax.random.key(0),
        ),
        mesh,
    )
    images, labels = make_batch(setting)
    batch = sharding.put_batch({"image": images, "label": labels}, mesh)
    train_state = jax.device_put(state.create(variables, tx, plan), sharding.replicated(mesh))

    def run(steps: int) -> float:
        nonlocal train_state
        for _ in range(steps):
            train_state, metrics = step(train_state, batch)
        jax.block_until_ready(train_state)
        return float(metrics["loss"])

    def peak_bytes() -> int | None:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    return Side(run, peak_bytes)


def make_torch_side(setting: Setting, model: torch.nn.Module) -> Side:
    """Returns timm's side: channels_last, and on a GPU compiled, in bfloat16 and with fused SGD."""
    gpu = setting.device == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    model = model.to(device=device, memory_format=torch.channels_last)
    forward, parameters = torch_parts(model, setting.mode)
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=gpu)
    if gpu:
        torch.backends.cudnn.benchmark = True
        forward = torch.compile(forward)
    images, labels = make_batch(setting)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels).to(device, torch.int64)

    def run(steps: int) -> float:
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                loss = torch.nn.functional.cross_entropy(forward(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize()
        return loss.item()

    return Side(run, lambda: torch.cuda.max_memory_allocated() if gpu else None)


def torch_parts(
    model: torch.nn.Module, mode: str
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.nn.Parameter]]:
    """Returns the forward pass to train through, and the parameters to train."""
    if mode == "full":
        return model.train(), list(model.parameters())
    model.eval().requires_grad_(False)
    head = model.get_classifier().requires_grad_(True)

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        return head(pooled)

    return forward, list(head.parameters())


def timm_model(setting: Setting) -> torch.nn.Module:
    """Returns timm's network with random weights, always the same.

    They are drawn so that every layer has a part in the output: a fresh ResNet multiplies its
    branches by zero, which would hide errors in them.
    """
    torch.manual_seed(0)
    model = import_timm().create_model(setting.model, num_classes=NUM_CLASSES)
    images = torch.from_numpy(make_batch(setting)[0][:CHECKED_IMAGES]).permute(0, 3, 1, 2)
    settle(model, architecture(setting.model).classifier, images)
    return model


def check_sides(setting: Setting, model: torch.nn.Module) -> dict[str, Any]:
    """Compares the logits and gradients of tl_jax's training step with torch's, in float32.

    Args:
      setting: the network, and the part of it that is trained.
      model: torch's network, whose weights both sides take. It is moved to the device, and in a
        full training its running statistics change.

    Returns:
      The relative errors of the "logits" and of the "gradients", all taken together, and the
      parameter that adds most to the latter, "worst_gradient".

    Raises:
      RuntimeError: if an error is more than rounding; the message names it.
    """
    # Matrix products of GPUs round float32 to TF32's 10 bits unless told otherwise.
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with jax.default_matmul_precision("highest" if setting.device == "gpu" else None):
        variables = from_state_dict(jax_model(setting), model.state_dict())
        ours = jax_outputs(setting, variables)
    theirs = torch_outputs(setting, model)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    if ours.keys() != theirs.keys():
        names = messages.some(sorted(ours.keys() ^ theirs.keys()))
        raise RuntimeError(f"only one of the two sides trains {names}; expected both to")
    logits = relative_error([ours.pop("logits")], [theirs.pop("logits")])
    gradients = relative_error([ours[name] for name in theirs], list(theirs.values()))
    worst = max(theirs, key=lambda name: float(np.linalg.norm(ours[name] - theirs[name])))
    for what, error, allowed in (
        ("logits", logits, LOGITS_TOLERANCE),
        (f"gradients (most of all that of {worst})", gradients, GRADIENTS_TOLERANCE),
    ):
        if not error <= allowed:
            raise RuntimeError(
                f"the {what} of tl_jax and torch differ by {error:.1e} of their norm, more than "
                f"{allowed:.0e}: the two sides do not take the same step, and their times cannot "
                "be compared"
            )
    return {"logits": logits, "gradients": gradients, "worst_gradient": worst}


def jax_outputs(setting: Setting, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the "logits" and, by torch's names and layout, the gradients of the training step."""
    model, plan = jax_model(setting), freeze_plan(setting, variables["params"])
    # This takes the place of an optimizer: its state after a step is the gradient.
    keep = optax.GradientTransformation(lambda params: params, lambda grads, *_: (grads, grads))
    step = make_train_step(
        model, keep, plan, augment_fn=lambda key, batch: batch["image"], seed_key=jax.random.key(0)
    )
    images, labels = (array[:CHECKED_IMAGES] for array in make_batch(setting))

    @jax.jit
    def run(train_state: state.TrainState) -> tuple[jax.Array, Any]:
        logits, _ = model.apply(
            train_state.variables, images, train=setting.mode == "full", mutable=["batch_stats"]
        )
        after, _ = step(train_state, {"image": images, "label": labels})
        return logits, after.opt_state

    logits, gradients = run(state.create(variables, keep, plan))
    return to_state_dict({"params": gradients}) | {"logits": np.asarray(logits)}


def torch_outputs(setting: Setting, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns the same outputs of torch, run eagerly in float32."""
    device = torch.device("cuda" if setting.device == "gpu" else "cpu")
    forward, _ = torch_parts(model.to(device), setting.mode)
    images, labels = (torch.from_numpy(array[:CHECKED_IMAGES]) for array in make_batch(setting))
    logits = forward(images.permute(0, 3, 1, 2).to(device))
    torch.nn.functional.cross_entropy(logits, labels.to(device, torch.int64)).backward()
    gradients = {
        name: parameter.grad.cpu().numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return gradients | {"logits": logits.detach().cpu().numpy()}


def relative_error(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Returns ||ours - theirs|| / ||theirs|| over several arrays."""
    differences = [np.linalg.norm(a - b) for a, b in zip(ours, theirs, strict=True)]
    return float(np.linalg.norm(differences) / np.linalg.norm([np.linalg.norm(b) for b in theirs]))


def first_step(side: Side) -> tuple[float, float]:
    """Returns the loss and the seconds of the first step, compilation included."""
    start = time.perf_counter()
    loss = side.run(1)
    return loss, time.perf_counter() - start


def alternate(sides: dict[str, Side], steps: int, blocks: int) -> dict[str, list[float]]:
    """Returns seconds per step of each side, block by block; the first side alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for block in range(blocks):
        for name in list(sides)[:: -1 if block % 2 else 1]:
            sides[name].run(1)  # Untimed: brings caches and threads back from the other side.
            start = time.perf_counter()
            sides[name].run(steps)
            seconds[name].append((time.perf_counter() - start) / steps)
            print(f"  block {block + 1}/{blocks} {name:7} {seconds[name][-1]:.4f} s/step")
    return seconds


def measure(setting: Setting) -> dict[str, Any]:
    """Runs the benchmark and returns its result, ready to be written."""
    peaks = {name: cpu_peak_bytes(setting, name) for name in SIDES if setting.device == "cpu"}
    model = timm_model(setting)
    agreement = check_sides(setting, model)
    variables = from_state_dict(jax_model(setting), model.state_dict())
    sides = {
        "tl_jax": make_jax_side(setting, variables),
        "torch": make_torch_side(setting, model),
    }
    firsts = {name: first_step(side) for name, side in sides.items()}
    seconds = alternate(sides, setting.steps, setting.blocks)
    medians = {name: statistics.median(blocks) for name, blocks in seconds.items()}
    result: dict[str, Any] = {
        name: {
            "median_seconds_per_step": medians[name],
            "images_per_second": setting.batch_size / medians[name],
            "seconds_per_step": seconds[name],
            "compile_seconds": max(firsts[name][1] - medians[name], 0.0),
            "peak_bytes": peaks.get(name, side.peak_bytes()),
            "first_loss": firsts[name][0],
        }
        for name, side in sides.items()
    }
    ratios = [t / j for j, t in zip(seconds["tl_jax"], seconds["torch"], strict=True)]
    return {
        "setting": dataclasses.asdict(setting),
        "relative_errors": agreement,
        **result,
        "speed_over_torch": statistics.median(ratios),
        "speed_over_torch_by_block": ratios,
    }


def cpu_peak_bytes(setting: Setting, name: str) -> int | None:
    """Returns the main memory that one side adds to its process, measured in a process of its own.

    It is the peak after three steps less what the process held before the side was made, so it
    counts the compiler's work too, and neither side's libraries.
    """
    command = [sys.executable, "-m", "experiments.benchmarks.train_step", "--memory-of", name]
    for field in ("device", "model", "mode", "batch_size", "image_size"):
        command += [f"--{field.replace('_', '-')}", str(getattr(setting, field))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def added_bytes(setting: Setting, name: str) -> int | None:
    """Returns the result of `cpu_peak_bytes` in its process; None where the kernel does not say."""
    import_timm()
    before = process_bytes("VmRSS")
    if name == "tl_jax":
        side = make_jax_side(setting, None)
    else:
        side = make_torch_side(setting, timm_model(setting))
    side.run(3)
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


def table(result: dict[str, Any]) -> str:
    """Returns the result as a small table."""
    lines = [f"{'':8}{'s/step':>10}{'images/s':>10}{'compile s':>11}{'peak MiB':>10}"]
    for name in SIDES:
        side = result[name]
        peak = "-" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 2**20:.0f}"
        lines.append(
            f"{name:8}{side['median_seconds_per_step']:10.4f}{side['images_per_second']:10.1f}"
            f"{side['compile_seconds']:11.1f}{peak:>10}"
        )
    return "\n".join([*lines, f"tl_jax is {result['speed_over_torch']:.2f} times as fast as torch"])


def prepare_device(device: str) -> None:
    """Binds both libraries to the device and its cores, before either first uses it."""
    jax.config.update("jax_platforms", "cuda" if device == "gpu" else "cpu")
    torch.set_num_threads(report.cores())
    # JAX reserves 3/4 of a GPU's memory by default; here two libraries share it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    if device == "gpu" and not torch.cuda.is_available():
        sys.exit("--device gpu: torch finds no GPU here; take --device cpu")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; the sizes that are left out follow the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--model", default="resnet50", help="timm's name of the architecture")
    parser.add_argument("--mode", choices=("full", "head"), default="full")
    parser.add_argument("--batch-size", type=int, help="default: 16 on a CPU, 256 on a GPU")
    parser.add_argument("--image-size", type=int, help="pixels; default: 128 or 224")
    parser.add_argument("--steps", type=int, help="steps a block; default: 3 or 20")
    parser.add_argument("--blocks", type=int, default=10, help="blocks of each side")
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the result file"
    )
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    gpu = options.device == "gpu"
    for name, value in (
        ("batch_size", 256 if gpu else 16),
        ("image_size", 224 if gpu else 128),
        ("steps", 20 if gpu else 3),
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints its table and writes its result."""
    options = parse(arguments)
    prepare_device(options.device)
    names = [field.name for field in dataclasses.fields(Setting)]
    setting = Setting(**{name: getattr(options, name) for name in names})
    if options.memory_of is not None:
        print(json.dumps(added_bytes(setting, options.memory_of)))
        return
    facts = report.facts(LIBRARIES)
    if setting.device == "gpu":
        facts["machine"]["gpu"] = torch.cuda.get_device_name()
    result = measure(setting) | facts
    name = f"train_step-{setting.device}-{setting.model}-{setting.mode}"
    path = report.write(options.results, name, result)
    print(f"{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    main()

"""Times training on cached features: an epoch on them, and many heads trained on them at once.

    python -m experiments.benchmarks.probe --device cpu --model resnet50

- An epoch of training the head through the frozen backbone, compared with the same epoch on the
  features of one pass of the backbone. Both take the same head-only steps of SGD, and must end with
  the same head, or nothing is timed. The pass is timed too; it is needed once.
- `--heads` heads with different rates and seeds, trained in one program, compared with the same
  heads trained one after the other by a program for a single head; both must give the same heads.
  Beside them, the time that their products of matrices would take at the rate of a large product.

Images are random and lie in the device's memory, so no loader is involved. On a CPU: float32, 128
images of 128 px in batches of 16, and 4,096 features. On a GPU: bfloat16, 2,048 images of 224 px in
batches of 256, and 65,536 features. The two sides of a comparison alternate in one run. The result
goes to `experiments/results/benchmarks/probe-<device>-<model>.json`.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.benchmarks import report
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.registry import create_model
from tl_jax.probes import sweep
from tl_jax.training import optim, state
from tl_jax.training.step import make_train_step
from tl_jax.transfer import freeze

LIBRARIES = ("jax", "jaxlib", "flax", "optax")
NUM_CLASSES = 10
HEAD = "fc"
RATE = 0.01
EPOCHS_OF_A_SWEEP = 5
# The largest relative difference of equal results: rounding, on a GPU that of bfloat16 and TF32.
TOLERANCE = {"cpu": 1e-4, "gpu": 2e-2}
SHORTEST_BLOCK = 0.2  # Seconds. An epoch on features takes a thousandth of one.


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed: the device, the network, and the sizes."""

    device: str
    model: str
    images: int
    image_size: int
    batch_size: int
    heads: int
    features: int
    width: int
    blocks: int


class Head(nn.Module):
    """A classifier of features."""

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        return layers.Dense(NUM_CLASSES, name=HEAD)(features)


@dataclasses.dataclass(frozen=True)
class Side:
    """One of two programs that compute the same.

    Attributes:
      run: runs it once, blocks until it is done, and returns the result, equal on both sides.
    """

    run: Callable[[], Any]


def epoch_sides(setting: Setting) -> tuple[dict[str, Side], Side]:
    """Returns an epoch on features, one through the backbone, and the pass that computes features.

    Each epoch starts from the same head.
    """
    dtype = jnp.bfloat16 if setting.device == "gpu" else jnp.float32
    model = create_model(setting.model, num_classes=NUM_CLASSES, dtype=dtype)
    pooled = create_model(setting.model, num_classes=0, dtype=dtype)
    batches = make_batches(setting)
    key = jax.random.key(0, impl="unsafe_rbg")
    variables = jax.jit(model.init)(key, batches[0]["image"][:1])
    extract = jax.jit(pooled.apply)

    def features() -> list[jax.Array]:
        return jax.block_until_ready([extract(variables, batch["image"]) for batch in batches])

    feature_batches = [{**batch, "image": x} for batch, x in zip(batches, features(), strict=True)]
    head = {HEAD: trees.layer_leaves(variables["params"], model.classifier)}
    sides = {
        "features": epoch(Head(), {"params": head}, feature_batches, HEAD),
        "backbone": epoch(model, variables, batches, model.classifier),
    }
    return sides, Side(features)


def make_batches(setting: Setting) -> list[dict[str, jax.Array]]:
    """Returns images as if normalised, float32 [B, H, W, 3], and labels [B], batch by batch."""
    rng = np.random.default_rng(0)
    shape = (setting.batch_size, setting.image_size, setting.image_size, 3)
    return [
        {
            "image": jnp.asarray(rng.standard_normal(shape, dtype=np.float32)),
            "label": jnp.asarray(rng.integers(0, NUM_CLASSES, shape[0], dtype=np.int32)),
        }
        for _ in range(setting.images // setting.batch_size)
    ]


def epoch(model: nn.Module, variables: Any, batches: Sequence[Any], head: str) -> Side:
    """Returns an epoch that trains only the layer `head`, and returns it."""
    plan = freeze.plan(variables["params"], [head], train_backbone=False)
    tx = optim.optimizer("sgd", {freeze.HEAD: RATE}, plan)
    train_step = make_train_step(
        model, tx, plan, augment_fn=lambda key, batch: batch["image"], seed_key=jax.random.key(0)
    )
    step = jax.jit(train_step)
    initial = state.create(variables, tx, plan)

    def run() -> Any:
        current = initial
        for batch in batches:
            current, _ = step(current, batch)
        return jax.block_until_ready(trees.layer_leaves(current.params, head))

    return Side(run)


def sweep_sides(setting: Setting) -> dict[str, Side]:
    """Returns the training of many heads at once, and one by one; each gives all kernels."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((setting.features, setting.width), dtype=np.float32)
    kernel = rng.standard_normal((setting.width, NUM_CLASSES))
    labels = np.argmax(values @ kernel, 1).astype(np.int32)
    held = setting.features // 8
    train_examples, validation = (
        (jnp.asarray(values[part]), labels[part]) for part in (slice(held, None), slice(held))
    )
    settings = some_settings(setting.heads)

    def train_heads(some: sweep.Settings) -> jax.Array:
        result = sweep.sweep(
            some,
            train_examples,
            validation,
            num_classes=NUM_CLASSES,
            epochs=EPOCHS_OF_A_SWEEP,
            batch_size=min(256, len(train_examples[1])),
        )
        return jax.block_until_ready(result.heads.kernel)

    def one_by_one() -> jax.Array:
        return jnp.concatenate([train_heads(settings[i : i + 1]) for i in range(len(settings))])

    return {"at once": Side(lambda: train_heads(settings)), "one by one": Side(one_by_one)}


def some_settings(heads: int) -> sweep.Settings:
    """Returns settings of `heads` heads: four seeds if that divides the number, and rates."""
    seeds = 4 if heads % 4 == 0 else 1
    rates = np.geomspace(1e-3, 1e-1, heads // seeds)
    return sweep.grid(learning_rates=rates.tolist(), weight_decays=[1e-4], seeds=range(seeds))


def first_runs(sides: dict[str, Side], tolerance: float) -> None:
    """Compiles both sides, and raises a RuntimeError unless their results agree."""
    one, other = (jax.tree.leaves(side.run()) for side in sides.values())
    for a, b in zip(one, other, strict=True):
        difference = float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-6))
        if not difference <= tolerance:
            raise RuntimeError(
                f"the results of {' and '.join(sides)} differ by {difference:.2g} (relative; "
                f"tolerance {tolerance}): the sides do different work, so their times cannot be "
                "compared"
            )


def alternate(sides: dict[str, Side], blocks: int) -> dict[str, list[float]]:
    """Returns the seconds of each side, block by block; the order alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for block in range(blocks):
        for name in list(sides)[:: -1 if block % 2 else 1]:
            seconds[name].append(timed(sides[name]))
            print(f"  block {block + 1}/{blocks} {name:10} {seconds[name][-1]:.4f} s")
    return seconds


def timed(side: Side) -> float:
    """Returns the seconds of a run, the mean of as many as take `SHORTEST_BLOCK` together."""
    runs, start = 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - start < SHORTEST_BLOCK:
        side.run()
        runs += 1
    return (time.perf_counter() - start) / runs


def compare(sides: dict[str, Side], setting: Setting) -> dict[str, Any]:
    """Times two sides, the faster one first, after checking that they compute the same."""
    first_runs(sides, TOLERANCE[setting.device])
    seconds = alternate(sides, setting.blocks)
    fast, slow = seconds.values()
    ratios = [s / f for f, s in zip(fast, slow, strict=True)]
    return {
        "seconds": seconds,
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_by_block": ratios,
    }


def sweep_gflop(setting: Setting) -> float:
    """Returns the work of the products of all heads' training: logits, and gradients of kernels."""
    examples = EPOCHS_OF_A_SWEEP * (setting.features - setting.features // 8)
    return 4e-9 * examples * setting.width * NUM_CLASSES * setting.heads


def product_gflop_per_second(setting: Setting, *, size: int = 2048) -> float:
    """Returns the rate of a product of two large float32 matrices, the best of all blocks."""
    one, other = jax.random.normal(jax.random.key(2), (2, size, size))
    product = jax.jit(functools.partial(jnp.dot, precision="highest"))
    side = Side(lambda: jax.block_until_ready(product(one, other)))
    side.run()
    return 2e-9 * size**3 / min(timed(side) for _ in range(setting.blocks))


def measure(setting: Setting) -> dict[str, Any]:
    """Runs the benchmark and returns its result, ready to be written."""
    sides, extraction = epoch_sides(setting)
    epochs = compare(sides, setting)
    passes = [timed(extraction) for _ in range(setting.blocks)]
    work = {
        "gflop": sweep_gflop(setting),
        "product_gflop_per_second": product_gflop_per_second(setting),
    }
    return {
        "setting": dataclasses.asdict(setting),
        "epoch": epochs | {"median_seconds_of_the_pass": statistics.median(passes)},
        "sweep": compare(sweep_sides(setting), setting) | work,
    }


def table(result: dict[str, Any]) -> str:
    """Returns the result as a few lines."""
    epochs, heads = result["epoch"], result["sweep"]
    setting = result["setting"]
    return "\n".join([
        f"epoch of {setting['images']} images: {epochs['median_seconds']['backbone']:.3f} s "
        f"through the backbone, {epochs['median_seconds']['features']:.4f} s on features: "
        f"{epochs['ratio']:.0f} times as fast "
        f"(the pass: {epochs['median_seconds_of_the_pass']:.3f} s)",
        f"{setting['heads']} heads: {heads['median_seconds']['one by one']:.3f} s one by one, "
        f"{heads['median_seconds']['at once']:.3f} s at once: {heads['ratio']:.1f} times as fast",
        f"their products: {heads['gflop']:.3g} GFLOP, at least "
        f"{heads['gflop'] / heads['product_gflop_per_second']:.3f} s at the "
        f"{heads['product_gflop_per_second']:.0f} GFLOP/s of a large product",
    ])  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; the default sizes depend on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--model", default="resnet50", help="timm's name of the architecture")
    parser.add_argument("--images", type=int, help="default: 128 or 2048")
    parser.add_argument("--image-size", type=int, help="pixels; default: 128 or 224")
    parser.add_argument("--batch-size", type=int, help="default: 16 or 256")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--features", type=int, help="examples of the sweep; 4096 or 65536")
    parser.add_argument("--width", type=int, help="of the sweep's features; 512 or 2048")
    parser.add_argument("--blocks", type=int, default=5, help="runs of each side")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    sizes = {
        "images": (128, 2048),
        "image_size": (128, 224),
        "batch_size": (16, 256),
        "features": (4096, 65536),
        "width": (512, 2048),
    }
    for name, defaults in sizes.items():
        if vars(options)[name] is None:
            vars(options)[name] = defaults[options.device == "gpu"]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints its table and writes its JSON."""
    options = parse(arguments)
    jax.config.update("jax_platforms", "cuda" if options.device == "gpu" else "cpu")
    fields = [field.name for field in dataclasses.fields(Setting)]
    setting = Setting(**{name: vars(options)[name] for name in fields})
    facts = report.facts(LIBRARIES)
    facts["machine"]["device"] = jax.devices()[0].device_kind
    result = measure(setting) | facts
    path = report.write(options.results, f"probe-{setting.device}-{setting.model}", result)
    print(f"{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    main()

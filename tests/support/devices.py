"""Functions that run in a process of several CPU devices: training, recalibration, caches."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import objects, task_networks
from tests.support.loading import (
    Numbered,
    Tasked,
    Viewed,
    assert_same,
    device_eval,
    evaluate,
    on_host,
)
from tests.support.loading import sharding as batch_sharding
from tests.support.tiny import TinyNet, batch, images_unchanged, randomised
from tl_jax.config import Config, DataConfig
from tl_jax.data.loading.device_cache import DeviceCache
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform
from tl_jax.data.loading.readers import TrainReader
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.models import layers
from tl_jax.run.experiment import Experiment
from tl_jax.training import optim, recalibrate, sharding, state, step
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.evaluator import Evaluator
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

ROOT = Path(__file__).parents[2]
STEPS, DEVICES = 3, 4


def run_on_devices(
    function: Callable[[Path], None],
    folder: Path,
    *,
    devices: int = DEVICES,
    timeout: int = 300,
    quick: bool = False,
) -> None:
    """Runs a function of a module with `folder` in a fresh process of some CPU devices.

    Args:
      function: what runs.
      folder: its argument.
      devices: their number.
      timeout: seconds after which it has failed.
      quick: whether what is compiled is compiled quickly, and runs slowly.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    if quick:
        flags += " --xla_backend_optimization_level=0"
    program = (
        f"import pathlib, sys; from {function.__module__} import {function.__name__} as main; "
        "main(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr


def train_on(mesh: jax.sharding.Mesh) -> tuple[TrainState, list[Any], dict[str, Any]]:
    """Returns state, training metrics and evaluation sums after some steps on a mesh."""
    model = TinyNet()
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    rates = {freeze.HEAD: 0.1, freeze.BACKBONE: 0.1}
    tx = optim.optimizer("sgd", rates, plan, weight_decay=0.01, clip_norm=1.0)
    train_step = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(0)
    )
    run = sharding.jit_train_step(train_step, mesh)
    current = jax.device_put(state.create(variables, tx, plan), sharding.replicated(mesh))
    recorded = []
    for seed in range(STEPS):
        current, values = run(current, sharding.put_batch(batch(seed=seed), mesh))
        recorded.append(values)
    evaluate = sharding.jit_eval_step(step.make_eval_step(model.apply), mesh)
    padded = batch(seed=9) | {"mask": np.arange(8) < 5}
    sums = evaluate(current.variables, sharding.put_batch(padded, mesh))
    return current, recorded, sums


def train(folder: Path) -> None:
    """Trains over all devices and recalibrates; saves results, statistics and a checkpoint."""
    mesh = sharding.data_mesh()
    assert mesh.size == DEVICES, mesh
    results = train_on(mesh)
    assert len(results[0].params["conv1"]["kernel"].sharding.device_set) == DEVICES
    np.savez(folder / "results.npz", *jax.tree.leaves(results))
    placed = sharding.put_batch(batch(), mesh)["image"]
    rows = {str(shard.device): shard.data.shape[0] for shard in placed.addressable_shards}
    (folder / "rows.json").write_text(json.dumps(rows))
    with Checkpoints(folder / "checkpoints", best_metric="loss") as checkpoints:
        checkpoints.save(results[0], {"loss": 1.0})
    _recalibrate(folder)
    _evaluate_unevenly(mesh)
    with pytest.raises(ValueError, match="a global batch of 6 does not divide over 4 devices"):
        Experiment.from_config(Config(data=DataConfig("digits", batch_size=6)))


def unequal_images(size: int, seed: int) -> np.ndarray:
    """Returns images whose mean brightness is about `seed`."""
    return batch(size, seed=seed)["image"] + seed


def _evaluate_unevenly(mesh: jax.sharding.Mesh) -> None:
    """Evaluates in batches that do not divide over the devices."""
    source = from_arrays(np.zeros((7, 8, 8), np.uint8), [0, 1, 2, 0, 1, 2, 0], list("abcde"))
    model, preprocess = TinyNet(), Preprocess(size=(8, 8), crop_pct=1.0)
    evaluator = Evaluator(model, preprocess, mesh=mesh, load_options=LoadOptions(6, workers=0))
    metrics, _ = evaluator(randomised(model), source)
    assert metrics["count"] == 7


def _recalibrate(folder: Path) -> None:
    """Recalibrates over all devices; saves the statistics."""
    mesh = sharding.data_mesh()
    model = TinyNet()
    batches = [
        sharding.put_batch({"image": unequal_images(8, seed)}, mesh)["image"] for seed in (0, 1)
    ]
    stats = recalibrate.recalibrate(model, randomised(model), batches, mesh=mesh)["batch_stats"]
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(stats))
    np.savez(folder / "stats.npz", *jax.tree.leaves(stats))


def read_from_device_caches(folder: Path) -> None:
    """Compares cached batches with those of the host; saves how many images each device holds."""
    four = batch_sharding(DEVICES)
    rows = {}
    sources = (Numbered(13), Tasked(3), Viewed(5))
    for is_split, source in itertools.product((False, True), sources):
        options, order = LoadOptions(8, workers=0), Uniform(len(source), 0)
        cache = DeviceCache(TrainReader(source, 8), four, options, is_split=is_split)
        actual = list(itertools.islice(cache.batches(order, start_step=2), 9))
        assert_same(actual, on_host(source, 9, batch_size=8, start_step=2))
        assert all(array.sharding == four for array in actual[0].values())
        image = cache._arrays["image"]
        rows[f"{is_split} {len(source)}"] = [len(part.data) for part in image.addressable_shards]
    (folder / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="batch_size=6 over 4 devices"):
        DeviceCache(TrainReader(source, 8), four, LoadOptions(6))
    evaluated = device_eval(Numbered(13), four, batch_size=8, cache="device")
    expected = evaluate(13, batch_size=8)
    for _ in range(2):
        assert_same(list(evaluated), expected)


def convolve(folder: Path) -> None:
    """Compares gradients of convolutions over all devices with those of one, by three ways."""
    del folder
    rng = np.random.default_rng(0)
    x = rng.standard_normal((DEVICES, 9, 9, 16), dtype=np.float32)
    layout = [(3, 2, 1), (1, 1, 1), (5, 1, 16), (3, 1, 2)]  # Side, stride, groups: all forms.
    kernels = [
        rng.standard_normal((side, side, 16 // groups, 16), dtype=np.float32) / (side * 4)
        for side, _, groups in layout
    ]
    P = jax.sharding.PartitionSpec
    mesh = sharding.data_mesh()
    axis = mesh.axis_names[0]

    def outputs(x: jax.Array, kernels: list[jax.Array]) -> jax.Array:
        for kernel, (_, stride, _) in zip(kernels, layout, strict=True):
            x = jnp.sin(layers.convolve(x, kernel, stride=stride, padding="symmetric"))
        return x

    def of_batch(x: jax.Array, kernels: list[jax.Array]) -> Any:
        return jax.grad(lambda *args: jnp.sum(outputs(*args)), (0, 1))(x, kernels)

    def of_part(x: jax.Array, kernels: list[jax.Array]) -> Any:
        on_x, on_kernels = of_batch(x, kernels)
        return on_x, jax.lax.psum(on_kernels, axis)

    expected = jax.jit(of_batch)(x, kernels)
    divided = jax.NamedSharding(mesh, P(axis))
    whole = jax.NamedSharding(mesh, P())
    by_jit = (
        jax.jit(of_batch, in_shardings=(divided, whole), out_shardings=(divided, whole))
        .lower(x, kernels)
        .compile()
    )
    # Each device convolves its own images; only the kernels' gradients are added up.
    assert "all-reduce" in by_jit.as_text()
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in by_jit.as_text(), moved
    # Inside `shard_map` the sum over devices comes with the kernel being the same on all.
    by_map = jax.jit(
        jax.shard_map(of_batch, mesh=mesh, in_specs=(P(axis), P()), out_specs=(P(axis), P()))
    )
    by_pmap = jax.pmap(of_part, axis_name=axis, in_axes=(0, None), out_axes=(0, None))
    on_x, on_kernels = by_pmap(x[:, None], kernels)
    for found in (
        by_jit(jax.device_put(x, divided), jax.device_put(kernels, whole)),
        by_map(x, kernels),
        (on_x[:, 0], on_kernels),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
        )


def differentiate_tasks(folder: Path) -> None:
    """Compares the gradients of a network of several tasks over devices with those on one."""
    del folder
    model = task_networks.everything(weighting="gradient_normalised")
    variables, inputs = randomised(model), task_networks.inputs()

    def loss(params: Any, inputs: Any) -> Any:
        outputs, _ = model.apply(
            {**variables, "params": params}, inputs, train=True, mutable=["batch_stats"]
        )
        return task_networks.sum_of_outputs(outputs)

    expected = jax.jit(jax.grad(loss))(variables["params"], inputs)
    mesh = sharding.data_mesh()
    assert mesh.size == DEVICES == task_networks.BATCH
    found = jax.jit(
        jax.grad(loss), in_shardings=(sharding.replicated(mesh), sharding.sharded(mesh))
    )(variables["params"], sharding.put_batch(inputs, mesh))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected
    )


def measure_tasks(folder: Path) -> None:
    """Trains all kinds of tasks by every input for some steps; writes `measured.json`.

    It holds the number of devices and, by input, the metrics of each step and of evaluation.
    """
    table = objects.write(folder / "objects")
    measured: dict[str, Any] = {"devices": len(jax.devices())}
    weights = task_networks.write_weights(folder / "tiny.safetensors")
    with task_networks.in_registry():
        for name, options in objects.INPUTS.items():
            if "stages" in options:
                options = {**options, "stages": task_networks.STAGES}
            config = objects.make_config(
                table, weights, tuple(objects.TASKS), network=task_networks.NAME, **options
            )
            experiment = Experiment.from_config(config)
            (phase,) = experiment.phases
            step_fn, current = experiment.compile_step(phase), experiment.begin(phase, None)
            steps = []
            for given in itertools.islice(experiment.train_batches(0), STEPS):
                current, values = step_fn(current, given)
                steps.append({key: float(value) for key, value in values.items()})
            metrics, _ = experiment.evaluator(current.variables, experiment.held_out["validation"])
            measured[name] = {"steps": steps, "metrics": metrics}
    (folder / "measured.json").write_text(json.dumps(measured))

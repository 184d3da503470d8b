"""Functions that run in a process of eight CPU devices: one network trained in every division."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import runs
from tests.support.tiny import batch, images_unchanged, randomised
from tl_jax.config import AugmentConfig, ParallelConfig
from tl_jax.data.augment.mixing import make_mix_fn
from tl_jax.models.families import resnet
from tl_jax.run.fit import fit
from tl_jax.training import optim, pmap, sharding, state, step
from tl_jax.training.ahead import StepsAhead
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.ema import with_ema
from tl_jax.transfer import freeze

DEVICES = 8
BATCH, SIDE, CLASSES = 16, 16, 4
SMALLEST = 64  # So that parameters of a tiny network are split too.
NETWORK = resnet.ResNet(block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16), num_classes=CLASSES)


@dataclasses.dataclass(frozen=True)
class Way:
    """How a step is divided, and what it is compared with.

    Attributes:
      devices, fsdp, accumulate: as in `ParallelConfig`.
      form: "jit", "pmap", "by_device" (each device's gradient, BatchNorm over all), or
        "alone" (BatchNorm of each device too).
      remat: dotted names of the modules that are computed again.
      fixed: whether BatchNorm keeps its running statistics.
      dtype: of the network's computation.
    """

    devices: int = 1
    fsdp: int = 1
    accumulate: int = 1
    form: str = "jit"
    remat: tuple[str, ...] = ()
    fixed: bool = False
    dtype: Any = jnp.float32


def make(way: Way) -> tuple[Any, Any, Any]:
    """Returns the compiled step, the first state, and the function that puts a batch in place."""
    variables = randomised(NETWORK, side=SIDE)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    rates = {freeze.HEAD: 0.02, freeze.BACKBONE: 0.02}
    tx = optim.optimizer(
        "sgd", rates, plan, weight_decay=0.01, clip_norm=1.0, l2_sp={freeze.BACKBONE: 0.01}
    )
    tx = with_ema(tx, 0.9)
    mesh = sharding.data_mesh(jax.devices()[: way.devices], fsdp=way.fsdp)
    model, around, reduce = NETWORK.clone(dtype=way.dtype), None, None
    if way.form in ("by_device", "alone"):
        around = sharding.by_device(mesh)
        model = pmap.over_axis(model, sharding.AXES) if way.form == "by_device" else model
    elif way.form == "pmap":
        model, reduce = pmap.over_axis(model), pmap.reduce
    if way.fsdp > 1:
        around = around or sharding.gathering(mesh)
        reduce = sharding.scattering(mesh, smallest=SMALLEST)

    def keyed_step(seed_key: jax.Array, current: Any, given: Any) -> Any:
        return step.make_train_step(
            model,
            tx,
            plan,
            augment_fn=images_unchanged,
            seed_key=seed_key,
            fixed_statistics=rates if way.fixed else (),
            accumulate=way.accumulate,
            rematerialise=way.remat,
            around=around,
            reduce=reduce,
        )(current, given)

    first, key = state.create(variables, tx, plan), jax.random.key(0)
    if way.form == "pmap":
        devices = jax.devices()[: way.devices]
        run = pmap.pmap_train_step(keyed_step, key, devices=devices)
        return run, pmap.replicate(first, devices), lambda given: pmap.split(given, devices)
    layouts = sharding.layouts(mesh, first, smallest=SMALLEST)
    run = sharding.jit_keyed_train_step(keyed_step, mesh, key, state=layouts)
    return run, sharding.put(first, layouts), lambda given: sharding.put_batch(given, mesh)


def images(seed: int) -> dict[str, Any]:
    """Returns the batch of a step."""
    return batch(BATCH, side=SIDE, seed=seed, classes=CLASSES)


def train(way: Way, steps: int) -> tuple[Any, Any]:
    """Returns the last state, and the metrics of each step."""
    run, current, put = make(way)
    recorded, ahead = [], StepsAhead()
    for seed in range(steps):
        current, values = run(current, put(images(seed)))
        recorded.append(values)
        ahead.add(values)
    if way.fsdp > 1:
        _check_split(current, way.fsdp)
    return _first(current, recorded) if way.form == "pmap" else (current, recorded)


def _first(*results: Any) -> Any:
    """Returns what the first device holds, which takes no program over several devices."""
    found = pmap.first(results)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(found))
    return found


def _check_split(current: Any, fsdp: int) -> None:
    """Every copy of a large leaf is split: the parameter, its momentum, its average, its anchor."""
    for leaf in jax.tree.leaves(current):
        part = leaf.addressable_shards[0].data
        assert part.size * (fsdp if leaf.size >= SMALLEST else 1) == leaf.size, leaf.sharding
    assert not state.not_finite(current.variables)
    gathered = sharding.whole(current.variables)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(gathered))


EQUAL = (
    Way(4, fsdp=2, remat=("layer1", "layer2")),
    Way(2, form="pmap"),
    Way(2, form="by_device"),
)
ALL_EQUAL = (
    *(Way(devices, form=form) for devices in (2, 4, 8) for form in ("jit", "pmap", "by_device")),
    *(Way(devices, fsdp) for devices, fsdp in ((2, 2), (4, 2), (4, 4), (8, 2), (8, 4), (8, 8))),
    Way(8, 4, form="by_device"),
    Way(remat=("layer1.0", "layer2.0")),
)
FIXED = (Way(4, accumulate=2, fixed=True),)
ALL_FIXED = (
    *(
        Way(devices, accumulate=slices, form=form, fixed=True)
        for devices, slices in ((1, 2), (1, 4), (2, 4), (4, 2), (4, 4), (8, 2))
        for form in ("jit", "pmap", "by_device")
        if form == "jit" or devices > 1
    ),
    Way(4, 2, accumulate=2, fixed=True),
    Way(4, 2, accumulate=4, form="by_device", remat=("layer1",), fixed=True),
)


def compare(ways: tuple[Way, ...], steps: int) -> None:
    """Trains in each way, and compares state and metrics with those of one device."""
    for fixed, group in itertools.groupby(ways, lambda way: way.fixed):
        expected = jax.device_get(train(Way(fixed=fixed), steps))
        for way in group:
            found = jax.device_get(train(way, steps))
            for (path, one), other in zip(
                jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True
            ):
                name = f"{way} {jax.tree_util.keystr(path)}"
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5, err_msg=name)


def divide_steps(folder: Path) -> None:
    """Compares a few steps in some ways, and looks at the programs of mixing and of a step."""
    compare(EQUAL + FIXED, 3)
    mix_on_devices(2)
    _count_collectives()
    split, _ = train(EQUAL[0], 1)
    with Checkpoints(folder / "checkpoints", best_metric=None) as checkpoints:
        checkpoints.save(split, {})
    np.savez(folder / "state.npz", *jax.tree.leaves(jax.device_get(split)))


def _count_collectives() -> None:
    """BatchNorm of each device leaves one collective, and gradients are added up in float32."""
    texts = {}
    for form in ("jit", "alone"):
        run, current, put = make(Way(4, form=form, dtype=jnp.bfloat16))
        lowered = run.func.lower(*run.args, current, put(images(0)))
        texts[form] = lowered.compile().as_text()
        if form == "alone":
            assert "tensor<3x3x8x8xbf16>" in lowered.as_text()  # A kernel as it is used.
            sums = re.findall(r"all_reduce.*?\}\) : \((.*?)\)", lowered.as_text(), re.DOTALL)
            assert len(sums) == 1 and "bf16" not in sums[0], sums  # One array of all.
    counts = {
        form: len(re.findall(r" all-reduce(-start)?\(", text)) for form, text in texts.items()
    }
    assert counts["alone"] == 1 and counts["jit"] > 8, counts


def divide_steps_in_all_ways(folder: Path) -> None:
    """Compares twenty steps in all ways."""
    assert len(jax.devices()) == DEVICES
    compare(ALL_EQUAL + ALL_FIXED, 20)
    mix_on_devices(2, 4, 8)
    _accumulate_updating_statistics()
    (folder / "done").write_text("")


def _accumulate_updating_statistics() -> None:
    """Statistics that are updated move with each slice: another result, and the same on 8."""
    once, twice = (train(Way(accumulate=n), 1)[0].batch_stats["bn1"]["mean"] for n in (1, 2))
    assert np.abs(once - twice).max() > 1e-4
    on_eight = train(Way(8, accumulate=2), 1)[0].batch_stats["bn1"]["mean"]
    np.testing.assert_allclose(on_eight, twice, rtol=1e-5, atol=1e-6)


def mix_on_devices(*numbers: int) -> None:
    """Mixes on some devices: no image moves to another one where each has an even number."""
    mix_fn = make_mix_fn(AugmentConfig(mixup=0.4, cutmix=1.0))
    for count in (16, 3 * max(numbers)):
        given = batch(count, side=8, seed=1, classes=CLASSES)
        targets = {"label": np.eye(CLASSES, dtype=np.float32)[given["label"]]}
        expected = jax.jit(mix_fn)(jax.random.key(3), given["image"], targets)
        assert np.abs(expected[0] - given["image"]).max() > 0.01
        for devices in numbers:
            mesh = sharding.data_mesh(jax.devices()[:devices])
            parts, whole = sharding.sharded(mesh), sharding.replicated(mesh)
            run = jax.jit(mix_fn, in_shardings=(whole, parts, parts), out_shardings=parts)
            images, mixed = (
                jax.device_put(given["image"], parts), jax.device_put(targets, parts)
            )  # fmt: skip
            compiled = run.lower(jax.random.key(3), images, mixed).compile()
            found = run(jax.random.key(3), images, mixed)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected
            )
            if count // devices % 2 == 0:
                text = compiled.as_text()
                for moved in ("collective-permute", "all-to-all", "all-gather", "all-reduce"):
                    assert moved not in text, (devices, moved)


def fit_divided(folder: Path) -> None:
    """Runs an epoch with a state split over devices, by a configuration of many parts."""
    weights, photos = folder.parent / "weights.safetensors", folder.parent / "photos"
    with runs.tiny_networks(), mock.patch.object(sharding, "SMALLEST_SPLIT", SMALLEST):
        config = run_config(photos, weights, ParallelConfig(fsdp=4, remat="stages"))
        assert fit(config, folder, stop_after_epoch=1) is None


def run_config(photos: Path, weights: Path, parallel: ParallelConfig) -> Any:
    """Returns a run of two epochs with EMA, L2-SP, layer decay, clipping and recalibration."""
    config = runs.make_config(photos, weights)
    config = runs.change(config, "model", head_dropout=0.0, drop_path=0.0)
    config = runs.change(config, "train", head_epochs=0, epochs=2, ema=0.9)
    config = runs.change(
        config, "optim", name="sgd", l2_sp=0.01, layer_decay=0.5, weight_decay=0.01
    )
    config = runs.change(config, "transfer", batch_norm="recalibrate", recalibrate="after")
    return dataclasses.replace(config, parallel=parallel)

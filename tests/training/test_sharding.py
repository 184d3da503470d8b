"""A step over a mesh is the step on one device, and its checkpoints open anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from tests.training.tiny import TinyNet, as_they_are, assert_equal_trees, batch, randomised
from tl_jax.training import optim, sharding, state, step
from tl_jax.training.checkpoint import Checkpoints, abstract
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

ROOT = Path(__file__).parents[2]
STEPS, DEVICES = 3, 4


def train_on(mesh: jax.sharding.Mesh) -> tuple[TrainState, list, dict]:
    """Returns state, training metrics and evaluation sums after some steps on a mesh."""
    model = TinyNet()
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    rates = {freeze.HEAD: 0.1, freeze.BACKBONE: 0.1}
    tx = optim.optimizer("sgd", rates, plan, weight_decay=0.01, clip_norm=1.0)
    made = step.make_train_step(model, tx, plan, prepare=as_they_are, seed_key=jax.random.key(0))
    run = sharding.jit_train_step(made, mesh)
    current = jax.device_put(state.create(variables, tx, plan), sharding.replicated(mesh))
    recorded = []
    for seed in range(STEPS):
        current, values = run(current, sharding.put_batch(batch(seed=seed), mesh))
        recorded.append(values)
    evaluate = sharding.jit_eval_step(step.make_eval_step(model.apply), mesh)
    padded = batch(seed=9) | {"mask": np.arange(8) < 5}
    sums = evaluate(current.variables, sharding.put_batch(padded, mesh))
    return current, recorded, sums


def main(folder: Path) -> None:
    """What runs in the process of four devices: trains and leaves its results in a folder."""
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


@pytest.fixture(scope="module")
def on_one_device():
    return train_on(sharding.data_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def on_four(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = (
        "import sys, pathlib; from tests.training.test_sharding import main; "
        "main(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def leaves_of(folder: Path, like) -> list:
    """Returns the other process's results in the form of `like`."""
    with np.load(folder / "results.npz") as arrays:
        return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))


def test_a_mesh_gives_the_numbers_of_one_device(on_one_device, on_four):
    found = leaves_of(on_four, on_one_device)
    named = jax.tree_util.tree_leaves_with_path(on_one_device)
    for (path, expected), leaf in zip(named, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_each_device_has_its_part_of_a_batch(on_four):
    rows = json.loads((on_four / "rows.json").read_text())
    assert list(rows.values()) == [2] * DEVICES


def test_the_statistics_are_those_of_the_whole_batch(on_one_device, on_four):
    # A quarter of the batch has other statistics, so the comparison above can fail.
    quarter = {name: array[:2] for name, array in batch().items()}
    model, variables = TinyNet(), randomised(TinyNet())
    updates = [
        model.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]
        for images in (batch()["image"], quarter["image"])
    ]
    assert np.abs(updates[0]["bn1"]["mean"] - updates[1]["bn1"]["mean"]).max() > 1e-3
    moved = leaves_of(on_four, on_one_device)[0].batch_stats["bn1"]["mean"]
    assert np.abs(moved - variables["batch_stats"]["bn1"]["mean"]).max() > 1e-3


def test_a_checkpoint_of_four_devices_opens_on_one(on_one_device, on_four):
    expected = leaves_of(on_four, on_one_device)[0]
    here = sharding.replicated(sharding.data_mesh())
    with Checkpoints(on_four / "checkpoints", best_metric="loss") as checkpoints:
        found = checkpoints.restore(STEPS, abstract(on_one_device[0], here))
    assert_equal_trees(found, expected)
    assert found.params["fc"]["kernel"].sharding.device_set == set(jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_an_error_that_says_what_would():
    mesh = AbstractMesh((4,), ("data",))
    sharding.check_batch_size(8, mesh)
    with pytest.raises(ValueError, match="a global batch of 6 .* over 4 devices; .*such as 8"):
        sharding.check_batch_size(6, mesh)


def test_the_state_that_is_passed_in_is_used_up():
    mesh = sharding.data_mesh(jax.devices()[:1])
    run = sharding.jit_train_step(
        lambda state, batch: (state + 1, {"loss": batch["x"].sum()}), mesh
    )
    before = jax.device_put(jnp.zeros(3), sharding.replicated(mesh))
    after, _ = run(before, sharding.put_batch({"x": np.ones(2)}, mesh))
    assert before.is_deleted()
    np.testing.assert_array_equal(after, [1, 1, 1])


def test_a_keyed_step_takes_the_key_as_an_argument_and_gives_the_same_bits():
    model = TinyNet(drop_rate=0.5)
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    tx = optim.optimizer("sgd", {freeze.HEAD: 0.1, freeze.BACKBONE: 0.1}, plan)

    def made(key):
        return step.make_train_step(model, tx, plan, prepare=as_they_are, seed_key=key)

    mesh = sharding.data_mesh(jax.devices()[:1])
    traced = []

    def keyed(key, current, inputs):
        traced.append(key)
        return made(key)(current, inputs)

    for seed in (0, 1):
        key = jax.random.key(seed)
        found, _ = sharding.jit_keyed_train_step(keyed, mesh, key)(
            jax.tree.map(jnp.copy, state.create(variables, tx, plan)), batch()
        )
        expected, _ = jax.jit(made(key))(state.create(variables, tx, plan), batch())
        assert_equal_trees(found.params, expected.params)
    assert all(isinstance(key, jax.core.Tracer) for key in traced)

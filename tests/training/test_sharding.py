"""A step over a mesh is the step on one device, and its checkpoints open anywhere."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from tests.support.devices import DEVICES, STEPS, train_on
from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax.training import optim, sharding, state, step
from tl_jax.training.arrays import abstract
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.transfer import freeze

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_one_device():
    return train_on(sharding.data_mesh(jax.devices()[:1]))


def leaves_of(folder: Path, like) -> list:
    """Returns the other process's results as a tree like `like`."""
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


def test_a_batch_that_does_not_divide_is_an_error_that_names_one_that_does():
    mesh = AbstractMesh((4,), ("data",))
    sharding.check_batch_size(8, mesh)
    with pytest.raises(ValueError, match="a global batch of 6 .* over 4 devices; .*such as 8"):
        sharding.check_batch_size(6, mesh)


def test_the_state_that_is_passed_in_is_donated():
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

    traced = []

    def step_of_key(key):
        traced.append(isinstance(key, jax.core.Tracer))
        return step.make_train_step(model, tx, plan, augment_fn=images_unchanged, seed_key=key)

    key, mesh = jax.random.key(1), sharding.data_mesh(jax.devices()[:1])
    run = sharding.jit_keyed_train_step(lambda key, *args: step_of_key(key)(*args), mesh, key)
    actual, _ = run(jax.tree.map(jnp.copy, state.create(variables, tx, plan)), batch())
    assert traced == [True]
    expected, _ = jax.jit(step_of_key(key))(state.create(variables, tx, plan), batch())
    assert_equal_trees(actual.params, expected.params)

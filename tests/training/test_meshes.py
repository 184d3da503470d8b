"""A step divided over devices, its batch or its memory is the step on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, PartitionSpec

from tests.support import meshes
from tests.support.devices import run_on_devices
from tests.support.tiny import TinyNet, batch, images_unchanged, randomised
from tl_jax.models import layers
from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.training import pmap, sharding, state, step
from tl_jax.training.arrays import abstract
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.transfer import freeze


@pytest.mark.slow
def test_every_division_computes_the_same(tmp_path):
    run_on_devices(meshes.divide_steps, tmp_path, quick=True)
    with np.load(tmp_path / "state.npz") as arrays:
        expected = list(arrays.values())
    # What several devices shared opens on one.
    mesh = sharding.data_mesh(jax.devices()[:1])
    _, first, _ = meshes.make(meshes.Way())
    with Checkpoints(tmp_path / "checkpoints", best_metric=None) as checkpoints:
        found = checkpoints.restore(1, abstract(first, sharding.replicated(mesh)))
    for one, other in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.full
def test_twenty_steps_of_every_division_are_the_same(tmp_path):
    run_on_devices(meshes.divide_steps_in_all_ways, tmp_path, devices=meshes.DEVICES, timeout=1800)
    assert (tmp_path / "done").exists()


def test_eight_devices_hold_an_eighth_of_a_real_state_each():
    mesh = AbstractMesh((1, 8), sharding.AXES)
    variables = abstract_variables(create_model("resnet50"))
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    abstract = jax.eval_shape(lambda v: state.create(v, optax.adam(1e-3), plan), variables)
    layouts = sharding.layouts(mesh, abstract)
    whole = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    parts = sum(
        np.prod(layout.shard_shape(leaf.shape))
        for leaf, layout in zip(jax.tree.leaves(abstract), jax.tree.leaves(layouts), strict=True)
    )
    assert whole / 8 < parts < 1.1 * whole / 8


def test_what_is_computed_again_is_not_kept():
    model = create_model("resnet50")

    def kept(names):
        """Returns the bytes between the forward and the backward pass."""

        def pull(variables, images):
            def loss(params):
                with nn.intercept_methods(layers.rematerialising(names)):
                    logits, _ = model.apply(
                        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
                    )
                return logits.sum()

            return jax.vjp(loss, variables["params"])[1]

        images = jax.ShapeDtypeStruct((64, 64, 64, 3), jnp.float32)
        found = jax.eval_shape(pull, abstract_variables(model), images)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))

    everything = kept(())
    stages = [f"layer{stage}" for stage in (1, 2, 3, 4)]
    assert kept(stages) < 0.4 * everything
    assert kept(stages[:1]) < 0.8 * everything


def test_the_longest_axis_that_divides_is_split():
    mesh = AbstractMesh((2, 4), sharding.AXES)
    shapes = {"kernel": (3, 3, 64, 256), "square": (512, 512), "odd": (3, 99999), "small": (64, 64)}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = {name: layout.spec for name, layout in sharding.layouts(mesh, tree).items()}
    assert found == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "square": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
    }


def test_devices_that_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="fsdp=2 for 1 devices"):
        sharding.data_mesh(jax.devices()[:1], fsdp=2)
    mesh = AbstractMesh((2, 2), sharding.AXES)
    sharding.check_batch_size(16, mesh, accumulate=2)
    with pytest.raises(ValueError, match=r"12 .* over 4 devices in 2 slices .*; .*such as 16"):
        sharding.check_batch_size(12, mesh, accumulate=2)


def test_pmap_says_what_it_needs():
    with pytest.raises(ValueError, match="a batch of 7 'x' for 2 devices"):
        pmap.split({"x": np.zeros(7)}, 2 * jax.devices()[:1])
    with pytest.raises(TypeError, match="got a TinyNet; expected a network of create_model"):
        pmap.over_axis(TinyNet())


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped():
    model = TinyNet()
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    tx = optax.sgd(0.1, momentum=0.9)
    run = jax.jit(
        step.make_train_step(
            model,
            tx,
            plan,
            augment_fn=images_unchanged,
            seed_key=jax.random.key(0),
            skip_not_finite=True,
        )
    )
    first, given = state.create(variables, tx, plan), batch()
    after, metrics = run(first, given)
    assert metrics["skipped"] == 0
    assert np.abs(after.params["fc"]["kernel"] - first.params["fc"]["kernel"]).max() > 0
    given["image"] = np.where(np.arange(8)[:, None, None, None] == 3, np.nan, given["image"])
    kept, metrics = run(after, given)
    assert metrics["skipped"] == 1 and int(kept.step) == 2
    for one, other in zip(
        jax.tree.leaves(kept.replace(step=0)), jax.tree.leaves(after.replace(step=0)), strict=True
    ):
        np.testing.assert_array_equal(one, other)

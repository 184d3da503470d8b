"""The rest of a network behind a boundary computes and trains as within the whole, at less work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.tiny import TinyNet, as_they_are, assert_equal_trees, batch, randomised
from tl_jax import trees
from tl_jax.models.features import features
from tl_jax.models.registry import architecture, create_model
from tl_jax.probes.boundary import FromBoundary
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze
from tl_jax.weights.state_dict import abstract_variables

SIDE = 48
SHAPE = (SIDE, SIDE, 3)
AT = "layer2"
BEHIND = [("fc", "head"), ("layer3", "backbone"), ("layer4", "backbone"), ("*", freeze.FROZEN)]


@pytest.fixture(scope="module")
def network():
    """A ResNet with dropout and drop path, its variables, and the rest of it behind layer2."""
    model = create_model("test_resnet", num_classes=3, drop_rate=0.3, drop_path_rate=0.3)
    return model, randomised(model, side=SIDE), FromBoundary(model, AT, SHAPE)


def activations_of(model, variables, images, at):
    return jax.jit(lambda v, x: features(model, v, x, at=[at])[at])(variables, images)


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", pytest.param("test_convnext", marks=pytest.mark.full)],
)
def test_the_rest_computes_what_the_whole_does(name):
    model = create_model(name, num_classes=3)
    variables, images = randomised(model, side=SIDE), batch(2, side=SIDE)["image"]
    expected = jax.jit(model.apply)(variables, images)
    at = architecture(name).stages[2]
    rest = FromBoundary(model, at, SHAPE)
    found = jax.jit(rest.apply)(variables, activations_of(model, variables, images, at))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_input_is_the_activations_alone(network):
    model, variables, rest = network
    activations = activations_of(model, variables, batch(2, side=SIDE)["image"], AT)
    apply = jax.jit(rest.apply)
    assert np.abs(apply(variables, activations) - apply(variables, 0 * activations)).max() > 1e-3
    moved = trees.unflatten({
        path: leaf + 1 if trees.dotted(path[1:]) in rest.prefix else leaf
        for path, leaf in trees.flatten(variables).items()
    })  # fmt: skip
    assert_equal_trees(apply(moved, activations), apply(variables, activations))


def test_the_prefix_is_what_stands_before(network):
    _, variables, rest = network
    _, expected = trees.split(
        variables["params"], lambda name: name.startswith(("layer3.", "layer4.", "fc."))
    )
    assert sorted(rest.prefix) == sorted(trees.names(expected))
    assert (rest.classifier, rest.num_classes, rest.in_channels) == ("fc", 3, 3)
    drawn = jax.eval_shape(rest.init, jax.random.key(0), jnp.zeros((1, 6, 6, 48)))
    assert jax.tree.structure(drawn) == jax.tree.structure(variables)


def test_the_prefix_stands_still_in_training(network):
    model, variables, rest = network
    activations = activations_of(model, variables, batch(4, side=SIDE)["image"], AT)

    @jax.jit
    def train(variables, activations):
        rngs = {"dropout": jax.random.key(0)}
        return rest.apply(variables, activations, train=True, mutable=["batch_stats"], rngs=rngs)

    _, updates = train(variables, activations)
    before, after = (
        trees.split(stats, lambda name: name.startswith(("layer3.", "layer4.")))
        for stats in (variables["batch_stats"], updates["batch_stats"])
    )
    assert_equal_trees(after[1], before[1])
    assert len(trees.names(after[1])) > 10
    for one, other in zip(jax.tree.leaves(before[0]), jax.tree.leaves(after[0]), strict=True):
        assert (one != other).any()


# ---- training


def optimizer_of(plan):
    rates = {"head": 0.1, "backbone": 0.05}
    return optim.optimizer("sgd", rates, plan, weight_decay=0.01, clip_norm=1.0)


def step_of(model, plan):
    tx = optimizer_of(plan)
    return step.make_train_step(
        model, tx, plan, prepare=as_they_are, seed_key=jax.random.key(3)
    ), tx


def trained(model, plan, variables, batches):
    made, tx = step_of(model, plan)
    compiled, current = jax.jit(made), state.create(variables, tx, plan)
    for one in batches:
        current, _ = compiled(current, one)
    return current


def test_training_the_rest_is_training_the_whole(network):
    model, variables, rest = network
    plan = trees.label(variables["params"], BEHIND)
    rest.check_plan(plan)
    batches = [batch(4, side=SIDE, seed=i) for i in range(3)]
    cached = [
        {**one, "image": activations_of(model, variables, one["image"], AT)} for one in batches
    ]
    whole, behind = trained(model, plan, variables, batches), trained(rest, plan, variables, cached)
    for name, one, other in zip(
        trees.names(whole.variables),
        trees.flatten(whole.variables).values(),
        trees.flatten(behind.variables).values(),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, atol=2e-5, rtol=1e-4, err_msg=name)
    kernels = [
        params["layer3"]["0"]["conv1"]["kernel"] for params in (whole.params, variables["params"])
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3  # Else equal for want of training.


def test_a_plan_that_trains_the_prefix_is_refused(network):
    _, variables, rest = network
    labels = [("layer2.0.conv1", "backbone"), ("layer3", "backbone"), ("*", freeze.FROZEN)]
    with pytest.raises(ValueError, match=r"trains 1 parameters .* first 'layer2.0.conv1.kernel'"):
        rest.check_plan(trees.label(variables["params"], labels))


# ---- work


def flops(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).compile().cost_analysis()["flops"]


def test_no_work_is_done_before_the_boundary(network):
    model, _, rest = network
    variables = abstract_variables(model)
    images = jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32)
    activations = jax.eval_shape(lambda v, x: features(model, v, x, at=[AT])[AT], variables, images)
    before = flops(lambda v, x: features(model, v, x, at=[AT])[AT], variables, images)
    whole = flops(model.apply, variables, images)
    behind = flops(rest.apply, variables, activations)
    assert before > 0.3 * whole
    assert behind == pytest.approx(whole - before, rel=0.01)
    plan = trees.label(variables["params"], BEHIND)
    steps = {}
    for name, net, inputs in (("whole", model, images), ("rest", rest, activations)):
        made, tx = step_of(net, plan)
        initial = jax.eval_shape(lambda v, tx=tx: state.create(v, tx, plan), variables)
        labels = jax.ShapeDtypeStruct((4,), jnp.int32)
        steps[name] = flops(made, initial, {"image": inputs, "label": labels})
    assert steps["rest"] == pytest.approx(steps["whole"] - before, rel=0.01)


# ---- refusals


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("layr2", "no module 'layr2'; did you mean 'layer2'"),
        ("", "no module ''"),
        ("layer2.0.conv1", "sees the images on another path than through 'layer2.0.conv1'"),
    ],
)
def test_what_is_no_boundary_is_refused(at, message):
    with pytest.raises(ValueError, match=message):
        FromBoundary(create_model("test_resnet"), at, SHAPE)


def test_activations_of_images_of_another_size_are_refused():
    model = TinyNet()
    rest = FromBoundary(model, "block", (8, 8, 3))
    with pytest.raises(ValueError, match=r"activations \(2, 5, 5, 4\) .* returns \(2, 4, 4, 4\)"):
        rest.apply(randomised(model), jnp.zeros((2, 5, 5, 4)))

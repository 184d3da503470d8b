"""The network behind a boundary computes and trains as within the whole, with less work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.every_layer import EveryLayer
from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax import trees
from tl_jax.models.outputs import features
from tl_jax.models.registry import architecture, create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.probes.boundary import FromBoundary
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze

pytestmark = pytest.mark.slow

SIDE = 16
SHAPE = (SIDE, SIDE, 3)
AT = "layer2"
BEHIND = [("fc", "head"), ("layer3", "backbone"), ("*", freeze.FROZEN)]


@pytest.fixture(scope="module")
def network():
    """A network with dropout and drop path, its variables, and the rest of it behind layer2."""
    model = EveryLayer(num_classes=3, drop_rate=0.3, drop_path_rate=0.3)
    return model, randomised(model, side=SIDE), FromBoundary(model, AT, SHAPE)


@functools.cache
def compiled_features(model, at):
    return jax.jit(lambda v, x: features(model, v, x, at=[at])[at])


@functools.cache
def compiled_apply(model):
    return jax.jit(model.apply)


def activations_of(model, variables, images, at):
    return compiled_features(model, at)(variables, images)


def assert_rest_computes_what_the_network_does(model, variables, rest, at, side):
    images = batch(4, side=side)["image"]
    expected = compiled_apply(model)(variables, images)
    found = compiled_apply(rest)(variables, activations_of(model, variables, images, at))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_rest_computes_what_the_network_does(network):
    assert_rest_computes_what_the_network_does(*network, AT, SIDE)


@pytest.mark.full
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_the_rest_of_a_real_network_computes_what_the_network_does(name):
    model, at = create_model(name, num_classes=3), architecture(name).stages[2]
    rest = FromBoundary(model, at, (48, 48, 3))
    variables = randomised(model, side=48)
    assert_rest_computes_what_the_network_does(model, variables, rest, at, 48)


def test_the_input_is_the_activations_alone(network):
    model, variables, rest = network
    activations = activations_of(model, variables, batch(4, side=SIDE)["image"], AT)
    apply = compiled_apply(rest)
    assert np.abs(apply(variables, activations) - apply(variables, 0 * activations)).max() > 1e-3
    changed = trees.unflatten({
        path: leaf + 1 if trees.dotted(path[1:]) in rest.prefix else leaf
        for path, leaf in trees.flatten(variables).items()
    })  # fmt: skip
    assert_equal_trees(apply(changed, activations), apply(variables, activations))


def test_the_prefix_is_what_lies_before(network):
    _, variables, rest = network
    _, expected = trees.split(variables["params"], lambda name: name.startswith(("layer3.", "fc.")))
    assert sorted(rest.prefix) == sorted(trees.names(expected))
    assert (rest.classifier, rest.num_classes, rest.in_channels) == ("fc", 3, 3)
    drawn = jax.eval_shape(rest.init, jax.random.key(0), jnp.zeros((1, 8, 8, 6)))
    assert jax.tree.structure(drawn) == jax.tree.structure(variables)


def test_the_prefix_is_in_evaluation_mode_in_training(network):
    model, variables, rest = network
    activations = activations_of(model, variables, batch(4, side=SIDE)["image"], AT)

    @jax.jit
    def train(variables, activations):
        rngs = {"dropout": jax.random.key(0)}
        return rest.apply(variables, activations, train=True, mutable=["batch_stats"], rngs=rngs)

    _, updates = train(variables, activations)
    before, after = (
        trees.split(stats, lambda name: name.startswith("layer3."))
        for stats in (variables["batch_stats"], updates["batch_stats"])
    )
    assert_equal_trees(after[1], before[1])
    assert len(trees.names(after[1])) == 4
    for one, other in zip(jax.tree.leaves(before[0]), jax.tree.leaves(after[0]), strict=True):
        assert (one != other).any()


# ---- training


def optimizer_of(plan):
    rates = {"head": 0.1, "backbone": 0.05}
    return optim.optimizer("sgd", rates, plan, weight_decay=0.01, clip_norm=1.0)


def step_of(model, plan):
    tx = optimizer_of(plan)
    return step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(3)
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
    kernels = [params["layer3"]["conv"]["kernel"] for params in (whole.params, variables["params"])]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3  # Else equal for want of training.


def test_a_plan_that_trains_the_prefix_is_refused(network):
    _, variables, rest = network
    labels = [("layer1.conv", "backbone"), ("layer3", "backbone"), ("*", freeze.FROZEN)]
    with pytest.raises(ValueError, match=r"trains 1 parameters .* first 'layer1.conv.kernel'"):
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
    assert behind == pytest.approx(whole - before, rel=0.03)
    plan = trees.label(variables["params"], BEHIND)
    steps = {}
    for name, net, inputs in (("whole", model, images), ("rest", rest, activations)):
        made, tx = step_of(net, plan)
        initial = jax.eval_shape(lambda v, tx=tx: state.create(v, tx, plan), variables)
        labels = jax.ShapeDtypeStruct((4,), jnp.int32)
        steps[name] = flops(made, initial, {"image": inputs, "label": labels})
    assert steps["rest"] == pytest.approx(steps["whole"] - before, rel=0.03)


# ---- refusals


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("layr2", "no module 'layr2'; did you mean 'layer2'"),
        ("", "no module ''"),
        ("layer1.conv", "uses the images on a path around 'layer1.conv'"),
    ],
)
def test_modules_that_are_no_boundary_are_refused(at, message):
    with pytest.raises(ValueError, match=message):
        FromBoundary(EveryLayer(), at, SHAPE)


def test_activations_of_images_of_another_size_are_refused():
    model = TinyNet()
    rest = FromBoundary(model, "block", (8, 8, 3))
    with pytest.raises(ValueError, match=r"activations \(2, 5, 5, 4\) .* returns \(2, 4, 4, 4\)"):
        rest.apply(randomised(model), jnp.zeros((2, 5, 5, 4)))

"""Frozen means frozen: parameters, statistics, optimizer state, gradients and work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax import trees
from tl_jax.models.registry import architecture, create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.objectives import losses
from tl_jax.training import optim, state, step
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

SEED_KEY = jax.random.key(0)
PARTIAL = (("fc", freeze.HEAD), ("block", freeze.BACKBONE), ("*", freeze.FROZEN))


def sgd(plan, rate: float = 0.1, **options) -> optax.GradientTransformation:
    rates = {freeze.HEAD: rate, freeze.BACKBONE: rate}
    return optim.optimizer("sgd", rates, plan, **options)


def train(model, plan, variables, *, steps: int = 1, side: int = 8, size: int = 8, **options):
    """Returns the state after some steps, and the metrics of each."""
    tx = sgd(plan, **options)
    train_step = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=SEED_KEY
    )
    compiled = jax.jit(train_step)
    current, recorded = state.create(variables, tx, plan), []
    for i in range(steps):
        current, values = compiled(current, batch(size, side=side, seed=i))
        recorded.append(values)
    return current, recorded


# ---- the plan


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "tf_efficientnet_lite0"])
def test_every_parameter_of_a_network_has_one_label(name):
    params = abstract_variables(create_model(name, num_classes=5))["params"]
    head = architecture(name).classifier
    plan = freeze.plan(params, [head], train_backbone=False)
    labels = {trees.dotted(path): text for path, text in trees.flatten(plan).items()}
    assert list(labels) == trees.names(params)
    assert {name for name, text in labels.items() if text == freeze.HEAD} == {
        f"{head}.kernel",
        f"{head}.bias",
    }
    assert set(labels.values()) == {freeze.HEAD, freeze.FROZEN}


def test_a_backbone_that_is_trained_is_labelled_so():
    params = randomised(TinyNet())["params"]
    plan = freeze.plan(params, ["fc"], train_backbone=True)
    assert set(jax.tree.leaves(plan)) == {freeze.HEAD, freeze.BACKBONE}
    trained, frozen = freeze.split(plan, params)
    assert (trees.names(trained), frozen) == (trees.names(params), {})


def test_a_head_that_matches_nothing_is_an_error_that_names_the_nearest():
    params = randomised(TinyNet())["params"]
    with pytest.raises(ValueError, match=r"'fc.kernl' matches no parameter.*'fc.kernel'\?"):
        freeze.plan(params, ["fc.kernl"], train_backbone=False)


# ---- the policy of BatchNorm


def test_a_group_without_a_policy_updates_its_statistics():
    variables = randomised(TinyNet())
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    updated, fixed = freeze.apply_batch_norm_policies(
        plan, variables["batch_stats"], {freeze.HEAD: "frozen"}
    )
    assert (updated, fixed) == (plan, {freeze.HEAD})  # The head has no BatchNorm.


def test_an_unknown_policy_is_an_error_that_names_the_nearest():
    variables = randomised(TinyNet())
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    with pytest.raises(ValueError, match=r"'frozn'; did you mean 'frozen'\?"):
        freeze.apply_batch_norm_policies(plan, variables["batch_stats"], {freeze.BACKBONE: "frozn"})


# ---- a step of the head alone, on a real network


@pytest.fixture(scope="module")
def head_only():
    """ResNet-18 before and after three steps with everything that could move a frozen leaf."""
    model = create_model("resnet18", num_classes=3, drop_rate=0.5, drop_path_rate=0.5)
    variables = randomised(model, side=32)
    plan = freeze.plan(variables["params"], [model.classifier], train_backbone=False)
    after, recorded = train(
        model, plan, variables, steps=3, side=32, size=4, weight_decay=0.1, clip_norm=1.0
    )
    return variables, after, recorded


def test_frozen_parameters_and_statistics_keep_their_bits(head_only):
    before, after, _ = head_only
    _, frozen_before = trees.split(before["params"], lambda name: name.startswith("fc."))
    _, frozen_after = trees.split(after.params, lambda name: name.startswith("fc."))
    assert len(trees.names(frozen_after)) == 60
    assert_equal_trees(frozen_after, frozen_before)
    assert_equal_trees(after.batch_stats, before["batch_stats"])


def test_the_head_moves(head_only):
    before, after, _ = head_only
    for leaf in ("kernel", "bias"):
        assert np.all(before["params"]["fc"][leaf] != after.params["fc"][leaf])


def test_the_optimizer_holds_no_frozen_leaf(head_only):
    before, after, _ = head_only
    arrays = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
        if leaf.ndim
    }
    head = before["params"]["fc"]
    assert sorted(arrays.values()) == sorted(leaf.shape for leaf in head.values())
    assert all("['fc']" in path for path in arrays)


# ---- gradients, norms, layers in evaluation mode


def features_loss(model, variables, head, images, labels):
    """The loss as a function of the head alone, by a second way: no plan, no interceptor."""
    params = {**variables["params"], "fc": head}
    return losses.cross_entropy(model.apply({**variables, "params": params}, images), labels)


def test_gradient_and_clip_norm_see_only_trained_leaves():
    model = TinyNet()
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=False)
    after, (values,) = train(model, plan, variables, rate=1.0, momentum=0.0, clip_norm=1e-3)
    head = variables["params"]["fc"]
    loss = functools.partial(features_loss, model, variables)
    norm = optax.tree.norm(jax.grad(loss)(head, *batch().values()))
    np.testing.assert_allclose(values["grad_norm"], norm, rtol=1e-5)
    moved = jax.tree.map(jnp.subtract, after.params["fc"], head)
    np.testing.assert_allclose(optax.tree.norm(moved), 1e-3, rtol=1e-3)


def test_the_norm_of_all_gradients_is_another():
    # Otherwise the test above could not tell the trained leaves' norm from all leaves'.
    model = TinyNet()
    variables = randomised(model)
    norms = {}
    for train_backbone in (False, True):
        plan = freeze.plan(variables["params"], ["fc"], train_backbone=train_backbone)
        _, (values,) = train(model, plan, variables)
        norms[train_backbone] = float(values["grad_norm"])
    assert norms[True] > 1.05 * norms[False]


def test_a_partial_plan_moves_what_it_trains_and_nothing_else():
    model = TinyNet()
    variables = randomised(model)
    plan = trees.label(variables["params"], PARTIAL)
    after, _ = train(model, plan, variables, steps=2, weight_decay=0.1)
    assert_equal_trees(after.batch_stats["bn1"], variables["batch_stats"]["bn1"])
    for name in ("conv1", "bn1"):
        assert_equal_trees(after.params[name], variables["params"][name])
    moved = jax.tree.map(
        lambda one, other: bool((one != other).any()),
        {"params": after.params["block"], "stats": after.batch_stats["block"]},
        {"params": variables["params"]["block"], "stats": variables["batch_stats"]["block"]},
    )
    assert all(jax.tree.leaves(moved))


def losses_of_two_keys(model, variables, plan, fixed=()) -> list[float]:
    found = []
    for seed in (1, 2):
        with nn.intercept_methods(freeze.interceptor(plan, fixed)):
            logits, _ = model.apply(
                variables,
                batch()["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(seed)},
            )
        found.append(float(losses.cross_entropy(logits, batch()["label"])))
    return found


@pytest.mark.parametrize(
    ("rates", "train_backbone", "random"),
    [
        ({"drop_path_rate": 0.5}, False, False),  # the drop path of a frozen block is off
        ({"drop_path_rate": 0.5}, True, True),
        ({"drop_rate": 0.5}, False, True),  # the dropout before the head belongs to the head
        ({}, True, False),
    ],
)
def test_dropout_and_drop_path_of_frozen_layers_are_off(rates, train_backbone, random):
    model = TinyNet(**rates)
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=train_backbone)
    one, other = losses_of_two_keys(model, variables, plan)
    assert (one != other) is random


@pytest.mark.parametrize("rates", [{"drop_path_rate": 0.5}, {"drop_rate": 0.5}])
def test_dropout_and_drop_path_of_trained_layers_are_on_where_statistics_are_fixed(rates):
    model = TinyNet(**rates)
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    one, other = losses_of_two_keys(model, variables, plan, fixed=(freeze.HEAD, freeze.BACKBONE))
    assert one != other


def test_the_dropout_inside_a_frozen_top_is_off():
    model = create_model("vgg11", num_classes=3, drop_rate=0.5)
    params = abstract_variables(model)["params"]
    for head, expected in ((["head"], False), (["head", "pre_logits"], True)):
        plan = freeze.plan(params, head, train_backbone=False)
        assert _dropouts_in_training(model, plan)["pre_logits.drop"] is expected


def _dropouts_in_training(model: nn.Module, plan) -> dict[str, bool]:
    """Returns by name whether each dropout that is traced runs in training mode."""
    found = {}

    def note(next_function, args, kwargs, context):
        if context.method_name == "__call__" and "drop" in (context.module.name or ""):
            found[trees.dotted(context.module.path)] = kwargs["train"]
        return next_function(*args, **kwargs)

    def forward(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        # Interceptors nest: the first entered is the first called, so `note` sees the answer.
        with nn.intercept_methods(freeze.interceptor(plan)), nn.intercept_methods(note):
            return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    jax.eval_shape(forward, abstract_variables(model), image)
    return found


# ---- work


@pytest.mark.slow
def test_a_step_of_the_head_costs_no_more_than_the_forward_pass():
    model = create_model("resnet50", num_classes=10, drop_rate=0.1, drop_path_rate=0.1)
    variables = abstract_variables(model)
    plan = freeze.plan(variables["params"], [model.classifier], train_backbone=False)
    tx = sgd(plan, weight_decay=1e-4, clip_norm=1.0)
    train_step = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=SEED_KEY
    )
    inputs = {
        "image": jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    initial: TrainState = jax.eval_shape(lambda v: state.create(v, tx, plan), variables)
    forward = flops(model.apply, variables, inputs["image"])
    assert forward > 8 * 2e8  # ResNet-50 at 64 px: a third of a GFLOP an image, multiply and add
    assert flops(train_step, initial, inputs) <= 1.05 * forward


def flops(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).compile().cost_analysis()["flops"]

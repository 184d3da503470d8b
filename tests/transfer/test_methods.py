"""Every method: exactly the declared parameters and statistics change, and nothing else."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.support.every_layer import NAME, every_layer  # noqa: F401  A fixture.
from tests.support.tiny import batch, images_unchanged, randomised
from tl_jax import trees
from tl_jax.config import (
    AugmentConfig,
    Config,
    GroupConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from tl_jax.data.augment.mixing import make_mix_fn
from tl_jax.models.families.resnet import BasicBlock, ResNet
from tl_jax.models.model import Model
from tl_jax.models.outputs import features
from tl_jax.models.variables import abstract_variables
from tl_jax.run.defaults import resolve
from tl_jax.run.model import build_model, stage_names
from tl_jax.run.phases import Phase, group_parameters, make_phases
from tl_jax.training import ema, optim, state, step
from tl_jax.transfer import freeze, groups
from tl_jax.transfer.peft.base import is_added

# The tiny network has every kind of layer; the others are real, and take long to compile.
SIDES = {NAME: 8, "test_resnet": 32, "test_efficientnet": 32, "test_convnext2": 32}
STEPS = 2

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("every_layer")]


def of(**fields) -> dict:
    return {"transfer": TransferConfig(**{"batch_norm": "update", **fields})}


# By method: the configuration, whether a leaf is trained, and the groups whose running statistics
# change.
EVERY = "every"
METHODS = {
    "full": (of(), lambda leaf: True, EVERY),
    "head": (of(trained="head"), lambda leaf: leaf.group == "head", ()),
    "last stage": (
        of(trained="head+last:1"),
        lambda leaf: leaf.group in ("head", leaf.last),
        ("last",),
    ),
    "biases": (
        of(trained="head+biases", batch_norm="affine_only"),
        lambda leaf: leaf.group == "head" or leaf.bias,
        (),
    ),
    "norms": (of(trained="head+norms"), lambda leaf: leaf.group == "head" or leaf.norm, EVERY),
    "norms, running statistics": (
        of(trained="head+norms", batch_norm="recalibrate"),
        lambda leaf: leaf.group == "head" or leaf.norm,
        (),
    ),
    "full, frozen BatchNorm": (of(batch_norm="frozen"), lambda leaf: not leaf.batch_norm, ()),
    "full, affine BatchNorm": (of(batch_norm="affine_only"), lambda leaf: True, ()),
    "one group of its own": (
        of(groups=(GroupConfig("stage1", batch_norm="frozen", learning_rate=1e-4),)),
        lambda leaf: not (leaf.batch_norm and leaf.group == "stage1"),
        "not stage1",
    ),
    "a group without a rate": (
        of(groups=(GroupConfig("stage1", learning_rate=0.0, batch_norm="frozen"),)),
        lambda leaf: leaf.group != "stage1",
        "not stage1",
    ),
    "lora": (
        of(trained="head+added", adaptation="lora", lora_rank=2),
        lambda leaf: leaf.group == "head" or is_added(leaf.name),
        (),
    ),
    "ssf": (
        of(trained="head+added", adaptation="ssf", batch_norm="affine_only"),
        lambda leaf: leaf.group == "head" or is_added(leaf.name),
        (),
    ),
    "adapters": (
        of(trained="head+added", adaptation="adapters", adapter_reduction=2),
        lambda leaf: leaf.group == "head" or is_added(leaf.name),
        (),
    ),
    "l2-sp": ({"optim": OptimConfig("sgd", 0.1, l2_sp=0.1)}, lambda leaf: True, EVERY),
    "layer decay": (
        {"optim": OptimConfig("adamw", 0.1, layer_decay=0.5)},
        lambda leaf: True,
        EVERY,
    ),
    "cosine head": (
        {"model": {"head": "cosine"}, **of(trained="head")},
        lambda leaf: leaf.group == "head",
        (),
    ),
    "mlp head": (
        {"model": {"head": "mlp", "hidden": (8,)}, **of(trained="head+last:1")},
        lambda leaf: leaf.group in ("head", leaf.last),
        ("last",),
    ),
    "fused": (of(classifier="fuse", trained="head"), lambda leaf: leaf.group == "head", ()),
    "ema and mixup": (
        {
            "train": TrainConfig(ema=0.9),
            "augment": AugmentConfig(mixup=0.2),
            **of(trained="head+last:1"),
        },
        lambda leaf: leaf.group in ("head", leaf.last),
        ("last",),
    ),
}


class Leaf:
    """The properties of a parameter that decide whether a method trains it."""

    def __init__(self, path, group, last, shapes, batch_stats):
        self.name, self.group, self.last = trees.dotted(path), group, last
        # Of other layers only those with a kernel have a bias.
        self.norm = len(shapes[path]) == 1 and (*path[:-1], "kernel") not in shapes
        self.norm &= path[-1] in ("scale", "bias")
        self.batch_norm = path[:-1] in {p[:-1] for p in trees.flatten(batch_stats)}
        self.bias = path[-1] == "bias"


class Setup(NamedTuple):
    """What a method is trained with; every variable is random."""

    config: Config
    model: Model
    labels: dict[str, Any]
    variables: dict[str, Any]
    phase: Phase


def explicit(config: Config) -> Config:
    return resolve(config, has_batch_norm=True).config


def setup(backbone: str, method: str) -> Setup:
    fields = dict(METHODS[method][0])
    model_options = {"drop_path": 0.0, "head_dropout": 0.2} | fields.pop("model", {})
    fields.setdefault("optim", OptimConfig("adamw", 1e-2, weight_decay=0.1, clip_norm=1.0))
    fields.setdefault("transfer", TransferConfig(batch_norm="update"))
    config = explicit(Config(model=ModelConfig(backbone, **model_options), **fields))
    model = build_model(config, 3)
    variables = randomised(model, side=SIDES[backbone])
    labels = group_parameters(config, model, stage_names(config, model))
    (phase,) = make_phases(config, labels, variables, steps_per_epoch=STEPS)
    return Setup(config, model, labels, variables, phase)


@functools.cache
def train(backbone: str, method: str) -> tuple[Setup, state.TrainState, dict[str, Any]]:
    """Returns the setup of a method, the state after some steps, and the metrics of the last."""
    method_setup = setup(backbone, method)
    config, model, _, variables, phase = method_setup
    train_step = step.make_train_step(
        model,
        phase.tx,
        phase.plan,
        augment_fn=images_unchanged,
        seed_key=jax.random.key(0),
        mix_fn=make_mix_fn(config.augment),
        fixed_statistics=phase.fixed_statistics,
    )
    compiled = jax.jit(train_step)
    current = state.create(variables, phase.tx, phase.plan)
    for i in range(STEPS):
        current, metrics = compiled(current, batch(4, side=SIDES[backbone], seed=i))
    return method_setup, current, metrics


def changed_leaves(before, after) -> set[str]:
    """Returns the dotted names of the leaves that differ in any bit."""
    one, other = trees.flatten(before), trees.flatten(after)
    assert one.keys() == other.keys()
    return {
        trees.dotted(path)
        for path in one
        if np.asarray(one[path]).tobytes() != np.asarray(other[path]).tobytes()
    }


def expected(method, labels, variables) -> tuple[set[str], set[str]]:
    """Returns the names of the parameters, and of the layers with statistics, that change."""
    _, is_trained, statistics = METHODS[method]
    flat = trees.flatten(labels)
    last = max({g for g in flat.values() if g.startswith("stage")}, key=lambda g: int(g[5:]))
    stats = variables.get("batch_stats", {})
    shapes = {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}
    leaves = [Leaf(path, group, last, shapes, stats) for path, group in flat.items()]
    names = {leaf.name for leaf in leaves if is_trained(leaf)}
    group_of = {leaf.name.rpartition(".")[0]: leaf.group for leaf in leaves if leaf.batch_norm}
    updates = {
        EVERY: lambda g: True,
        "not stage1": lambda g: g != "stage1",
        ("last",): lambda g: g == last,
        (): lambda g: False,
    }[statistics]
    return names, {layer for layer, group in group_of.items() if updates(group)}


@pytest.mark.parametrize(
    "backbone",
    [NAME, *(pytest.param(name, marks=pytest.mark.full) for name in SIDES if name != NAME)],
)
@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_declared_leaves_change(method, backbone):
    (_, _, labels, variables, _), after, metrics = train(backbone, method)
    names, layers = expected(method, labels, variables)
    assert changed_leaves(variables["params"], after.params) == names
    stats = variables.get("batch_stats", {})
    changed_stats = changed_leaves(stats, after.batch_stats) if stats else set()
    assert {name.rpartition(".")[0] for name in changed_stats} == layers
    assert np.isfinite(float(metrics["grad_norm"]))


@pytest.mark.parametrize(
    "method", ["head", "last stage", "lora", "norms", "ema and mixup", "l2-sp"]
)
def test_the_optimizer_holds_only_the_declared_leaves(method):
    _, _, labels, variables, phase = setup(NAME, method)
    names, _ = expected(method, labels, variables)
    opt_state = jax.eval_shape(lambda v: state.create(v, phase.tx, phase.plan).opt_state, variables)
    known = set(trees.names(variables["params"]))
    held = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        if leaf.ndim:
            parts = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            # The path of a group's state begins with the group.
            held.add(next(n for n in (".".join(parts), ".".join(parts[1:])) if n in known))
    assert held == names
    if method == "ema and mixup":
        average = ema.averaged_params(opt_state)
        assert set(trees.names(average)) == names


def test_the_gradient_norm_is_that_of_the_declared_leaves():
    last, full = (float(train(NAME, m)[2]["grad_norm"]) for m in ("last stage", "full"))
    assert full > 1.01 * last


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trained": "heads"}, "'heads' of the selection 'heads' matches no parameter"),
        ({"trained": "added"}, "'added' of the selection"),
        ({"trained": "last:9"}, "must name 1 to 4 stages"),
        ({"groups": (GroupConfig("stage7"),)}, "'stage7', which is no group; did you mean 'stage"),
        (
            {"groups": (GroupConfig("a", ("layer1",)), GroupConfig("b", ("layer1.bn",)))},
            "exactly one label",
        ),
        ({"groups": (GroupConfig("a", ("layer7.cnv",)),)}, "'layer7.cnv' matches no parameter"),
        ({"trained": "batch_norm", "batch_norm": "frozen"}, "nothing is left to train"),
    ],
)
def test_invalid_plans_are_refused(fields, message):
    config = explicit(Config(model=ModelConfig(NAME), transfer=TransferConfig(**fields)))
    model = build_model(config, 3)
    with pytest.raises(ValueError, match=message):
        labels = group_parameters(config, model, stage_names(config, model))
        make_phases(config, labels, abstract_variables(model), steps_per_epoch=STEPS)


# ---- work


def flops(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).compile().cost_analysis()["flops"]


def test_the_work_of_a_step_falls_with_the_depth_that_is_frozen():
    model = ResNet(block=BasicBlock, depths=(1, 1, 1), widths=(32, 64, 128), num_classes=3)
    image = jax.ShapeDtypeStruct((4, 32, 32, 3), np.float32)
    inputs = {"image": image, "label": jax.ShapeDtypeStruct((4,), np.int32)}
    variables = abstract_variables(model)
    labels = groups.by_depth(model, ("act1", "layer1", "layer2", "layer3"))
    forward = flops(model.apply, variables, image)
    work = {}
    for selection in ("head", "head+last:1", "head+last:2", "all"):
        plan = freeze.train_only(labels, groups.select(labels, selection))
        rates = dict.fromkeys(groups.group_names(labels), 0.1)
        tx = optim.optimizer("sgd", rates, plan)
        train_step = step.make_train_step(
            model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(0)
        )
        initial = jax.eval_shape(lambda v, tx=tx, plan=plan: state.create(v, tx, plan), variables)
        work[selection] = flops(train_step, initial, inputs)
    assert work["head"] <= 1.05 * forward
    assert work["head"] < work["head+last:1"] < work["head+last:2"] < work["all"]
    # The last stage's gradients of kernels and of activations each cost as much as its forward
    # pass, and nothing is propagated below it.
    below = flops(lambda v, x: features(model, v, x, at=["layer2"]), variables, image)
    assert work["head+last:1"] == pytest.approx(forward + 2 * (forward - below), rel=0.15)
    assert work["all"] > 2.5 * forward

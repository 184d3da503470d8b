"""Every method on several backbones: exactly what is declared moves, and nothing else."""

import jax
import numpy as np
import pytest

from tests.training.tiny import as_they_are, batch, randomised
from tl_jax import trees
from tl_jax.config import (
    AugmentConfig,
    Config,
    GroupConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
)
from tl_jax.models.registry import architecture
from tl_jax.run import model as start
from tl_jax.run import phases
from tl_jax.training import augmenting, state, step
from tl_jax.transfer import averaging
from tl_jax.transfer.peft.base import added

BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext2"]
# What is compared on every backbone each time; the other pairs are in the full tests.
ON_ALL = {"last stage", "norms", "ssf", "adapters"}
SIDE, STEPS = 32, 2


def of(**fields) -> dict:
    return {"transfer": TransferConfig(**fields)}


# What each method trains, by the dotted name of a leaf, whether BatchNorm is among its layers, and
# the group of the leaf; and the groups whose running statistics move.
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
        lambda leaf: leaf.group == "head" or added(leaf.name),
        (),
    ),
    "ssf": (
        of(trained="head+added", adaptation="ssf", batch_norm="affine_only"),
        lambda leaf: leaf.group == "head" or added(leaf.name),
        (),
    ),
    "adapters": (
        of(trained="head+added", adaptation="adapters"),
        lambda leaf: leaf.group == "head" or added(leaf.name),
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
    """What an expectation may ask of a parameter."""

    def __init__(self, path, group, last, shapes, batch_stats):
        self.name, self.group, self.last = trees.dotted(path), group, last
        # Kernels are the only other leaves of these networks that have a bias beside them.
        self.norm = len(shapes[path]) == 1 and (*path[:-1], "kernel") not in shapes
        self.norm &= path[-1] in ("scale", "bias")
        self.batch_norm = path[:-1] in {p[:-1] for p in trees.flatten(batch_stats)}
        self.bias = path[-1] == "bias"


def made(backbone: str, method: str):
    """Returns network, groups, variables and the one phase of a method, with every leaf random."""
    fields, _, _ = METHODS[method]
    fields = dict(fields)
    model_options = {"drop_path": 0.0, "head_dropout": 0.2} | fields.pop("model", {})
    fields.setdefault("optim", OptimConfig("adamw", 1e-2, weight_decay=0.1, clip_norm=1.0))
    config = Config(model=ModelConfig(backbone, **model_options), **fields)
    model = start.build_model(config, 3)
    variables = randomised(model, side=SIDE)
    labels = phases.grouped(config, model, start.stages(config, model))
    (phase,) = phases.phases(config, labels, variables, steps_per_epoch=STEPS)
    return config, model, labels, variables, phase


def trained(config, model, phase, variables):
    """Returns the state after some steps and the metrics of the last."""
    take = step.make_train_step(
        model,
        phase.tx,
        phase.plan,
        prepare=as_they_are,
        seed_key=jax.random.key(0),
        mix=augmenting.mix_of(config.augment),
        still=phase.still,
    )
    compiled = jax.jit(take)
    current = state.create(variables, phase.tx, phase.plan)
    for i in range(STEPS):
        current, values = compiled(current, batch(4, side=SIDE, seed=i))
    return current, values


def moved(before, after) -> set[str]:
    """Returns the dotted names of the leaves that differ in any bit."""
    one, other = trees.flatten(before), trees.flatten(after)
    assert one.keys() == other.keys()
    return {
        trees.dotted(path)
        for path in one
        if np.asarray(one[path]).tobytes() != np.asarray(other[path]).tobytes()
    }


def expected(method, labels, variables):
    """Returns the names of the parameters and of the layers with statistics that are to move."""
    _, chosen, statistics = METHODS[method]
    flat = trees.flatten(labels)
    last = max({g for g in flat.values() if g.startswith("stage")}, key=lambda g: int(g[5:]))
    stats = variables.get("batch_stats", {})
    shapes = {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}
    leaves = [Leaf(path, group, last, shapes, stats) for path, group in flat.items()]
    names = {leaf.name for leaf in leaves if chosen(leaf)}
    group_of = {leaf.name.rpartition(".")[0]: leaf.group for leaf in leaves if leaf.batch_norm}
    groups = {
        EVERY: lambda g: True,
        "not stage1": lambda g: g != "stage1",
        ("last",): lambda g: g == last,
        (): lambda g: False,
    }[statistics]
    return names, {layer for layer, group in group_of.items() if groups(group)}


PAIRS = [
    pytest.param(
        method,
        backbone,
        marks=() if method in ON_ALL or backbone == BACKBONES[0] else pytest.mark.full,
    )
    for method in METHODS
    for backbone in BACKBONES
]


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_exactly_what_is_declared_moves(method, backbone):
    config, model, labels, variables, phase = made(backbone, method)
    names, layers = expected(method, labels, variables)
    after, values = trained(config, model, phase, variables)
    assert moved(variables["params"], after.params) == names
    stats = variables.get("batch_stats", {})
    found = moved(stats, after.batch_stats) if stats else set()
    assert {name.rpartition(".")[0] for name in found} == layers
    assert np.isfinite(float(values["grad_norm"]))


@pytest.mark.parametrize(
    "method", ["head", "last stage", "lora", "norms", "ema and mixup", "l2-sp"]
)
def test_the_optimizer_holds_the_declared_leaves_alone(method):
    _, _, labels, variables, phase = made("test_resnet", method)
    names, _ = expected(method, labels, variables)
    opt_state = jax.eval_shape(lambda v: state.create(v, phase.tx, phase.plan).opt_state, variables)
    known = set(trees.names(variables["params"]))
    found = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        if leaf.ndim:
            parts = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            # The path of a group's state begins with the group.
            found.add(next(n for n in (".".join(parts), ".".join(parts[1:])) if n in known))
    assert found == names
    if method == "ema and mixup":
        average = averaging.averaged(opt_state)
        assert set(trees.names(average)) == names


def test_the_gradient_norm_is_that_of_the_declared_leaves():
    config, model, _, variables, part = made("test_resnet", "last stage")
    whole = made("test_resnet", "full")[-1]
    norms = [float(trained(config, model, p, variables)[1]["grad_norm"]) for p in (part, whole)]
    assert norms[1] > 1.01 * norms[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trained": "heads"}, "'heads' of the selection 'heads' matches no parameter"),
        ({"trained": "added"}, "'added' of the selection"),
        ({"trained": "last:9"}, "must name 1 to 5 stages"),
        ({"groups": (GroupConfig("stage7"),)}, "'stage7', which is no group; did you mean 'stage"),
        (
            {"groups": (GroupConfig("a", ("layer1",)), GroupConfig("b", ("layer1.0",)))},
            "exactly one label",
        ),
        ({"groups": (GroupConfig("a", ("layer7.1.cnv",)),)}, "'layer7.1.cnv' matches no parameter"),
        ({"trained": "batch_norm", "batch_norm": "frozen"}, "nothing is left to train"),
    ],
)
def test_plans_that_make_no_sense_are_refused(fields, message):
    config = Config(model=ModelConfig("test_resnet"), transfer=TransferConfig(**fields))
    model = start.build_model(config, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, SIDE, SIDE, 3), "f4"))
    with pytest.raises(ValueError, match=message):
        labels = phases.grouped(config, model, start.stages(config, model))
        phases.phases(config, labels, variables, steps_per_epoch=STEPS)


# ---- work


def flops(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).compile().cost_analysis()["flops"]


def test_the_work_of_a_step_falls_with_the_depth_that_is_frozen():
    config = Config(model=ModelConfig("resnet18"))
    model = start.build_model(config, 3)
    image = jax.ShapeDtypeStruct((4, 64, 64, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    labels = phases.grouped(config, model, architecture("resnet18").stages)
    forward = flops(model.apply, variables, image)
    work = {}
    for selection in ("head", "head+last:1", "head+last:2", "all"):
        spec = TransferConfig(phases=(PhaseConfig(1, selection),))
        (phase,) = phases.phases(
            Config(model=config.model, transfer=spec), labels, variables, steps_per_epoch=2
        )
        take = step.make_train_step(
            model, phase.tx, phase.plan, prepare=as_they_are, seed_key=jax.random.key(0)
        )
        initial = jax.eval_shape(lambda v, p=phase: state.create(v, p.tx, p.plan), variables)
        label = jax.ShapeDtypeStruct((4,), np.int32)
        work[selection] = flops(take, initial, {"image": image, "label": label})
    assert work["head"] <= 1.05 * forward
    assert work["head"] < work["head+last:1"] < work["head+last:2"] < work["all"]
    # Of the last stage the gradients of kernels and of activations, each like its forward pass;
    # but nothing flows on into what lies below it.
    last = forward - flops(_without_last_stage(model), variables, image)
    assert work["head+last:1"] == pytest.approx(forward + 2 * last, rel=0.15)
    assert work["all"] > 2.5 * forward


def _without_last_stage(model):
    from tl_jax.models.features import features

    return lambda variables, image: features(model, variables, image, at=["layer3"])

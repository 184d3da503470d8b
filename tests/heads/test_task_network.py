"""Tests of the network of several tasks and inputs: outputs, masks, freezing, adapting, export."""

import dataclasses
import functools
import pickle
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import task_networks
from tests.support.devices import differentiate_tasks, run_on_devices
from tests.support.task_networks import ENCODERS, STAGES, TASKS, backbone, everything, inputs
from tests.support.tiny import assert_equal_trees, images_unchanged, randomised
from tl_jax import trees
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.head import MLP, Linear
from tl_jax.heads.neck import Neck
from tl_jax.heads.poolings import Pooling, PoolingName
from tl_jax.heads.task_network import TaskHead, TaskNetwork, resized
from tl_jax.models import layers
from tl_jax.models.model import Model, new_parts
from tl_jax.models.outputs import features
from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables, from_state_dict
from tl_jax.training import optim, recalibrate, state, step
from tl_jax.transfer import freeze, groups
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adapted, is_added
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF
from tl_jax.weights.state_dict import to_state_dict

KEY = jax.random.key(0)
INPUTS = inputs()
IMAGES = INPUTS["image"][:, 0]
TWO = (TaskHead("kind", 3), TaskHead("age", 1))
NAMELESS = (TaskHead("", 3),)
POOLINGS = [name for name in get_args(PoolingName) if name != "concatenate"]


def pooling(name: str) -> Pooling:
    return Pooling(name, heads=2)


@functools.cache
def full() -> tuple[TaskNetwork, dict]:
    """Returns the network with all that there is, and random variables."""
    return everything(), randomised(everything())


@functools.cache
def evaluation_of_full():
    """Returns the compiled network: inputs -> outputs, and what it shows of its weights."""
    model, variables = full()
    compiled = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))
    return functools.partial(compiled, variables)


def apply(model: TaskNetwork, variables: dict, *args, **options):
    return jax.jit(functools.partial(model.apply, **options))(variables, *args)


def assert_close(found, expected, rtol=1e-5, atol=1e-6) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected
    )


# ---- shapes and names


@pytest.mark.parametrize("name", [*POOLINGS, "concatenate"])
def test_every_pooling_takes_every_input(name):
    neck = Neck(
        pooling(name if name != "concatenate" else "average"),
        pooling(name),
        pooling(name),
        join="gated_sum" if name in ("gem", "max") else "concatenate",
        **ENCODERS,
    )
    model = TaskNetwork(backbone(), neck, TASKS, views=2, scales=(1.0, 0.5))
    given = model.abstract_inputs((2, 8, 8, 3))
    outputs, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x), given)
    assert {name: y.shape for name, y in outputs.items()} == {
        task.name: (2, task.outputs) for task in TASKS
    }
    assert {y.dtype for y in outputs.values()} == {jnp.dtype("float32")}
    parts = {name.partition(".")[0] for name in trees.names(variables["params"])}
    assert parts == {"backbone", *model.new_parts}


def test_new_parts_are_those_with_parameters():
    assert TaskNetwork(backbone(), tasks=TWO).new_parts == ("heads",)
    # Neither is there a pyramid, nor are there views.
    unused = Neck(scale_fusion=pooling("gru"), view_fusion=pooling("gem"))
    assert TaskNetwork(backbone(), unused, TWO).new_parts == ("heads",)
    learned = TaskNetwork(backbone(), Neck(pooling("gem")), TWO, weighting="learned")
    assert learned.new_parts == ("neck", "heads", "loss_weights")
    assert learned.clone(tasks=()).new_parts == ("neck",)
    assert TaskNetwork(backbone()).new_parts == ()
    assert new_parts(Adapted(learned, LoRA())) == learned.new_parts
    assert new_parts(backbone(num_classes=3, global_pool="avg")) == ("fc",)
    assert new_parts(Classifier(backbone(), Linear(3))) == ("head",)


def test_it_is_a_model_and_plain_data():
    model = everything()
    assert isinstance(model, Model)
    assert (model.num_classes, model.in_channels, model.classifier) == (3, 3, "heads")
    assert pickle.loads(pickle.dumps(model)) == model == everything()
    assert hash(model) == hash(everything())
    assert model.clone(scales=(1.0,)) != model
    assert model.clone(tasks=()).num_classes == 0


# ---- what it computes


@pytest.mark.parametrize("head", [Linear(3), MLP(3, (5,))])
def test_one_nameless_task_is_a_classifier_bit_for_bit(head):
    plain = Classifier(backbone(), head)
    kind = "mlp" if isinstance(head, MLP) else "linear"
    model = TaskNetwork(backbone(), tasks=(TaskHead("", 3, kind, (5,)),))
    theirs = randomised(plain)
    ours = {
        "params": {
            "backbone": theirs["params"]["backbone"],
            "heads": theirs["params"]["head"],
        },
        "batch_stats": theirs["batch_stats"],
    }
    np.testing.assert_array_equal(apply(model, ours, IMAGES), apply(plain, theirs, IMAGES))


def test_named_tasks_share_the_features():
    model = TaskNetwork(backbone(), tasks=TWO, weighting="learned")
    variables = randomised(model)
    found = apply(model, variables, IMAGES)
    np.testing.assert_array_equal(
        found.pop("log_variances"), variables["params"]["loss_weights"]["log_variances"]
    )
    x = apply(model.clone(tasks=()), variables, IMAGES)
    assert x.shape == (4, 6)
    heads = {task.name: variables["params"][f"heads.{task.name}"]["fc"] for task in TWO}
    expected = {name: x @ fc["kernel"] + fc["bias"] for name, fc in heads.items()}
    assert_close(found, expected)


def test_log_variances_start_at_zero_and_levels_alike():
    model = TaskNetwork(backbone(), tasks=(TaskHead("level", 3, "coral"),), weighting="learned")
    outputs, _ = jax.jit(model.init_with_output)(KEY, IMAGES)
    np.testing.assert_array_equal(outputs["log_variances"], [0.0])
    np.testing.assert_allclose(jax.nn.sigmoid(outputs["level"][0]), [0.75, 0.5, 0.25], rtol=1e-6)


def test_stages_are_pooled_and_concatenated():
    model = TaskNetwork(backbone(), Neck(pooling("max")), stages=STAGES)
    variables = randomised(model)
    of_backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
    maps = features(backbone(), of_backbone, IMAGES, at=STAGES)
    expected = np.concatenate([x.max((1, 2)) for x in maps.values()], axis=-1)
    assert_close(apply(model, variables, IMAGES), expected)


def test_scales_pass_through_one_backbone():
    neck = Neck(scale_fusion=pooling("concatenate"))
    model = TaskNetwork(backbone(), neck, scales=(1.0, 0.5))
    alone = TaskNetwork(backbone())
    variables = randomised(model)
    found = apply(model, variables, IMAGES)
    parts = [apply(alone, variables, x) for x in (IMAGES, resized(IMAGES, 0.5))]
    assert_close(found, np.concatenate(parts, axis=-1))


def test_a_pyramid_of_the_images_alone_is_none():
    np.testing.assert_array_equal(resized(IMAGES, 1.0), IMAGES)
    half = resized(jnp.ones((1, 5, 8, 3), jnp.bfloat16), 0.5)
    assert (half.shape, half.dtype) == ((1, 2, 4, 3), jnp.bfloat16)
    np.testing.assert_allclose(half.astype(jnp.float32), 1.0, rtol=1e-2)
    # A fusion of scales with parameters has no part in it.
    model = TaskNetwork(backbone(), Neck(scale_fusion=pooling("gru")), scales=(1.0,))
    variables = randomised(model)
    assert variables["params"].keys() == {"backbone"}
    plain = TaskNetwork(backbone())
    np.testing.assert_array_equal(apply(model, variables, IMAGES), apply(plain, variables, IMAGES))


@pytest.mark.parametrize("name", ["average", "max", "average_max", "attention", "concatenate"])
def test_one_view_is_the_single_image(name):
    model = TaskNetwork(backbone(), Neck(view_fusion=pooling(name)), views=1)
    variables = randomised(model)
    given = {"image": IMAGES[:, None], "view_mask": np.ones((4, 1), bool)}
    expected = apply(TaskNetwork(backbone()), variables, IMAGES)
    np.testing.assert_array_equal(apply(model, variables, given), expected)


# ---- masks and order


def test_views_may_change_places_where_the_order_is_none():
    evaluate, order = evaluation_of_full(), [2, 0, 1]
    other = {**INPUTS, **{key: INPUTS[key][:, order] for key in ("image", "view_mask")}}
    assert_close(evaluate(other)[0], evaluate(INPUTS)[0])


def test_what_is_masked_has_no_influence():
    model, variables = full()
    rng = np.random.default_rng(5)
    noise = rng.normal(size=INPUTS["image"].shape).astype(np.float32)
    noise[0] = np.nan
    shown = INPUTS["view_mask"][..., None, None, None]
    other = {**INPUTS, "image": np.where(shown, INPUTS["image"], noise)}

    def value_and_grad(inputs):
        def loss(params):
            outputs, updates = model.apply(
                {**variables, "params": params}, inputs, train=True, mutable=["batch_stats"]
            )
            return task_networks.sum_of_outputs(outputs), (outputs, updates)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    compiled = jax.jit(value_and_grad)
    # In training too: the statistics of BatchNorm hold no padding.
    found = compiled(INPUTS)
    assert_equal_trees(compiled(other), found)
    (_, (outputs, _)), grads = found
    assert all(np.isfinite(y).all() for y in outputs.values())
    for path, leaf in trees.flatten(grads).items():
        assert np.isfinite(leaf).all(), path
        assert leaf.any(), path


@pytest.mark.full
def test_a_modality_that_no_example_has_changes_nothing():
    model, variables = full()
    none = {
        **INPUTS,
        "vector": np.full_like(INPUTS["vector"], np.nan),
        "tokens": np.zeros_like(INPUTS["tokens"]),
    }
    fewer = model.clone(neck=model.neck.clone(vector=None, tokens=None))
    given = {key: value for key, value in INPUTS.items() if key not in ("vector", "tokens")}
    assert_close(evaluation_of_full()(none)[0], apply(fewer, variables, given))


def test_attention_weights_and_gates_can_be_returned():
    _, found = evaluation_of_full()(INPUTS)
    neck = found["intermediates"]["neck"]
    (weights,), (gates,) = neck["views"]["attention"], neck["modalities"]["gates"]
    mask = INPUTS["view_mask"]
    np.testing.assert_allclose(weights.sum(1)[mask.any(1)], 1, rtol=1e-6)
    assert not weights[~mask].any()
    np.testing.assert_allclose(gates.sum(1), 1, rtol=1e-6)
    # The last example has columns and no image: the image, numeric, categorical, tokens, vector.
    assert (gates[3] > 0).tolist() == [False, True, True, True, False]


# ---- training


def test_gradients_of_one_norm_do_not_depend_on_the_scale_of_a_loss():
    model = TaskNetwork(backbone(), tasks=TWO, weighting="gradient_normalised")
    variables = randomised(model)

    @jax.jit
    @functools.partial(jax.grad, argnums=0)
    def gradients(backbone_params, factor):
        params = {**variables["params"], "backbone": backbone_params}
        outputs = jax.checkpoint(model.apply)({**variables, "params": params}, IMAGES)
        return factor * jnp.sum(jnp.sin(outputs["kind"])) + jnp.sum(jnp.cos(outputs["age"]))

    def direction(factor: float) -> np.ndarray:
        found = gradients(variables["params"]["backbone"], factor)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
        return flat / np.linalg.norm(flat)

    np.testing.assert_allclose(direction(100.0), direction(1.0), rtol=1e-3, atol=1e-5)
    assert np.abs(direction(0.0) - direction(1.0)).max() > 1e-2


@pytest.fixture(scope="module")
def of_views() -> tuple[TaskNetwork, dict, dict]:
    """A network of views with one nameless task, its variables and a batch of labels and inputs."""
    neck = Neck(pooling("gem"), view_fusion=pooling("attention"), numeric=ENCODERS["numeric"])
    model = TaskNetwork(backbone(), neck, NAMELESS, views=3)
    given = {key: INPUTS[key] for key in ("image", "view_mask", "numeric")}
    return model, randomised(model), {"image": given, "label": np.array([0, 1, 2, 0], np.int32)}


def step_of(model, variables, batch, selection: str, policy: str = "update"):
    """Returns the variables after one step, and the names of the parameters in the plan."""
    labels = groups.by_depth(model, [f"backbone.{stage}" for stage in STAGES])
    stats = variables["batch_stats"]
    trained = groups.select(labels, selection, stats)
    policies = dict.fromkeys(groups.group_names(labels), policy)
    plan, fixed = freeze.apply_batch_norm_policies(
        freeze.train_only(labels, trained), stats, policies
    )
    tx = optim.optimizer("sgd", dict.fromkeys(groups.group_names(labels), 0.1), plan)
    made = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=KEY, fixed_statistics=fixed
    )
    return jax.jit(made)(state.create(variables, tx, plan), batch)[0], trained


@pytest.mark.parametrize(
    ("selection", "policy"),
    [
        ("head", "update"),
        pytest.param("head+last:1", "update", marks=pytest.mark.full),
        pytest.param("head+norms", "recalibrate", marks=pytest.mark.full),
        pytest.param("head+biases", "affine_only", marks=pytest.mark.full),
        pytest.param("all", "frozen", marks=pytest.mark.full),
    ],
)
def test_exactly_what_is_selected_changes(of_views, selection, policy):
    model, variables, batch = of_views
    after, trained = step_of(model, variables, batch, selection, policy)
    before = trees.flatten(variables["params"])
    changed = {
        trees.dotted(path)
        for path, leaf in trees.flatten(after.params).items()
        if (leaf != before[path]).any()
    }
    norms = {"backbone.bn1", "backbone.layer1.bn"}
    frozen = {n for n in trained if policy == "frozen" and n.rpartition(".")[0] in norms}
    assert changed == trained - frozen
    assert {name.partition(".")[0] for name in changed} >= {"neck", "heads"}
    if selection == "head":
        assert not any(trees.is_under(name, "backbone") for name in changed)
    if selection != "head+last:1":
        assert_equal_trees(after.batch_stats, variables["batch_stats"])


def test_training_the_head_costs_no_backward_pass_of_the_backbone():
    deep = create_model("simple_cnn", num_classes=0, global_pool="")
    neck = Neck(pooling("gem"), view_fusion=pooling("attention"))
    model = TaskNetwork(deep, neck, TWO, views=2)
    variables = abstract_variables(model)
    given = model.abstract_inputs((2, 32, 32, 3))
    plan = freeze.plan(variables["params"], model.new_parts, train_backbone=False)

    def gradients(variables, inputs):
        trained, frozen = freeze.split(plan, variables["params"])

        def loss(trained):
            outputs = model.apply({"params": trees.merge(trained, frozen)}, inputs, train=True)
            return task_networks.sum_of_outputs(outputs)

        return jax.grad(loss)(trained)

    def flops(function) -> float:
        return jax.jit(function).lower(variables, given).compile().cost_analysis()["flops"]

    assert flops(gradients) <= 1.05 * flops(model.apply)


def test_modalities_are_dropped_in_training_alone():
    neck = Neck(join="concatenate", modality_dropout=0.5, numeric=ENCODERS["numeric"])
    model = TaskNetwork(backbone(), neck)
    variables = randomised(model)
    given = {"image": IMAGES, "numeric": INPUTS["numeric"][[0, 2, 3, 3]]}

    @functools.partial(jax.jit, static_argnames="train")
    def shown(key, train):
        rngs = {"dropout": key}
        x, _ = model.apply(variables, given, train=train, rngs=rngs, mutable=["batch_stats"])
        return x[:, 6:].any(axis=1)

    seen = {tuple(shown(jax.random.key(key), train=True).tolist()) for key in range(5)}
    assert len(seen) > 1
    assert shown(KEY, train=False).all()


def test_statistics_can_be_recalibrated(of_views):
    model, variables, batch = of_views
    after = recalibrate.recalibrate(model, variables, [batch["image"]])
    changed = trees.flatten(after["batch_stats"])
    assert all(
        (leaf != changed[path]).any()
        for path, leaf in trees.flatten(variables["batch_stats"]).items()
    )


def test_batch_norm_is_folded(of_views):
    model, variables, batch = of_views

    def evaluate(variables, inputs):
        return layers.folded(model.apply)(variables, inputs)

    with layers.fold_norms("always"):
        folded = jax.jit(evaluate)(variables, batch["image"])
        jaxpr = str(jax.make_jaxpr(evaluate)(variables, batch["image"]))
    expected = apply(model, variables, batch["image"])
    assert_close(folded, expected, rtol=1e-4, atol=1e-5)
    assert (np.asarray(folded) != expected).any()
    assert jaxpr


# ---- adapting and exporting


ADAPTATIONS = {
    "lora": LoRA(rank=2),
    "ssf": SSF(),
    "adapters": Adapters(at=("backbone.act1", "backbone.layer1")),
}


@pytest.mark.parametrize("name", ["lora", pytest.param("ssf", marks=pytest.mark.full), "adapters"])
def test_the_backbone_alone_is_adapted(of_views, name):
    model, variables, batch = of_views
    adapted = Adapted(model, ADAPTATIONS[name])
    start = adapted.add_to(KEY, variables)
    added = {name for name in trees.names(start["params"]) if is_added(name)}
    assert added
    assert all(trees.is_under(name, "backbone") for name in added)
    found = apply(adapted, start, batch["image"])
    assert_close(found, apply(model, variables, batch["image"]))
    shapes = jax.eval_shape(adapted.init, KEY, batch["image"])
    assert set(trees.names(shapes["params"])) == set(trees.names(start["params"]))
    labels = groups.by_depth(adapted, [f"backbone.{stage}" for stage in STAGES])
    assert groups.group_names(labels) == ["stage0", "stage1", "head"]


def test_an_adapter_after_a_stage_acts_on_what_the_stage_gives():
    model = TaskNetwork(backbone(), tasks=NAMELESS, stages=("layer1",))
    adapted = Adapted(model, Adapters(at=("backbone.layer1",)))
    variables = adapted.add_to(KEY, randomised(model))
    changed = trees.flatten(variables["params"])
    path = ("backbone", "layer1", "adapter", "adapter_up_bias")
    changed[path] = changed[path] + 1
    moved = {**variables, "params": trees.unflatten(changed)}
    difference = apply(adapted, moved, IMAGES) - apply(adapted, variables, IMAGES)
    kernel = variables["params"]["heads"]["fc"]["kernel"]
    assert_close(difference, np.tile(kernel.sum(0), (4, 1)), rtol=1e-4, atol=1e-4)


def test_all_that_is_new_is_the_head_of_the_groups():
    model = everything()
    labels = groups.by_depth(model, [f"backbone.{stage}" for stage in STAGES])
    for path, label in trees.flatten(labels).items():
        assert (label == "head") == (path[0] != "backbone"), path
    assert groups.group_names(labels) == ["stage0", "stage1", "head"]


def test_the_backbone_is_exported_and_read_under_its_own_keys():
    model, variables = full()
    subtree = {collection: tree["backbone"] for collection, tree in variables.items()}
    exported = to_state_dict(subtree)
    assert not any(key.startswith("backbone") for key in exported)
    read = from_state_dict(model.backbone.clone(), exported)
    assert_equal_trees(read, subtree)


@pytest.mark.full
def test_timm_takes_the_backbone():
    from tests.support.pairs import timm

    network = create_model("test_resnet", num_classes=0, global_pool="")
    variables = randomised(TaskNetwork(network, Neck(pooling("gem")), TWO), side=32)
    subtree = {collection: tree["backbone"] for collection, tree in variables.items()}
    peer = timm.create_model("test_resnet", num_classes=0)
    import torch

    exported = {key: torch.from_numpy(np.array(x)) for key, x in to_state_dict(subtree).items()}
    left_out = peer.load_state_dict(exported, strict=False)
    assert not left_out.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in left_out.missing_keys)


@pytest.mark.full
def test_devices_give_the_same_gradients(tmp_path):
    run_on_devices(differentiate_tasks, tmp_path)


# ---- what cannot be meant


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": (TWO[0], TWO[0])}, "two tasks are named 'kind'"),
        ({"tasks": (*NAMELESS, TWO[0])}, "without a name must be the only one"),
        ({"tasks": NAMELESS, "weighting": "learned"}, "without a name must be the only one"),
        ({"tasks": (TaskHead("log_variances", 2),)}, "cannot be named 'log_variances'"),
        ({"weighting": "leaned"}, "unknown weighting 'leaned'; did you mean 'learned'"),
        ({"scales": ()}, "scales are ()"),
        ({"scales": (1.0, 1.0)}, "scales are (1.0, 1.0)"),
        ({"scales": (1.0, -0.5)}, "scales are (1.0, -0.5)"),
        ({"views": -1}, "views is -1"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        TaskNetwork(backbone(), **{"tasks": TWO, **fields})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pooling": Pooling("concatenate")}, ValueError, "cannot be 'concatenate'"),
        ({"view_fusion": "gem"}, TypeError, "view_fusion is a str; expected a Pooling"),
        ({"join": "sum"}, ValueError, "unknown join 'sum' of modalities"),
        ({"modality_dropout": 2}, ValueError, "dropout is 2"),
    ],
)
def test_necks_that_cannot_be_meant_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Neck(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "liner"}, "unknown kind 'liner' of the head of 'a'; did you mean 'linear'"),
        ({"outputs": 0}, "num_classes is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_heads_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TaskHead(**{"name": "a", "outputs": 2, **options})


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {"tokens": None}, "inputs lack 'tokens'; this network takes image, numeric"),
        ({}, {"text": IMAGES}, "inputs hold 'text'"),
        ({}, {"image": IMAGES}, "expected .batch, views, height, width, channels"),
        ({"views": 0}, {}, "expected .batch, height, width, channels., because views is 0"),
        ({"views": 2}, {}, "got 3 views of each example.*views=2 at most"),
        ({"stages": ("layer9",)}, {}, "the backbone has no module 'layer9'"),
    ],
)
def test_inputs_that_cannot_be_meant_are_refused(changes, given, message):
    model = everything(**changes)
    merged = {**INPUTS, **given}
    merged = {key: value for key, value in merged.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(KEY, merged))


def test_a_backbone_with_a_classifier_is_refused():
    with pytest.raises(ValueError, match="classifier of 7 classes.*num_classes=0"):
        TaskNetwork(create_model("test_resnet", num_classes=7), tasks=TWO)


def test_concatenated_views_are_all_needed():
    model = TaskNetwork(backbone(), Neck(view_fusion=pooling("concatenate")), views=4)
    with pytest.raises(ValueError, match="got 3 views.*views=4, all of which are concatenated"):
        jax.eval_shape(lambda: model.init(KEY, {"image": INPUTS["image"]}))


def test_tasks_are_plain_data():
    head = TaskHead("a", 2, "mlp", (3,), 0.1)
    assert dataclasses.replace(head, outputs=2) == head
    assert head.module(parent=None) == MLP(2, (3,), 0.1)

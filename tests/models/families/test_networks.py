"""What all networks promise: fields, fresh weights, drop rates, types, features by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm
from tests.models.peers import calls_in_training, check_drop_paths, check_fresh, random_variables
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.families import efficientnet, resnet, vgg
from tl_jax.models.features import features
from tl_jax.weights.state_dict import abstract_variables, to_state_dict

timm = import_timm()
TINY = {
    "resnet": resnet.ResNet(
        block=resnet.Bottleneck, depths=(1, 1), widths=(8, 16), num_classes=5, drop_path_rate=0.5
    ),
    "vgg": vgg.VGG(depths=(1, 1), widths=(4, 8), batch_norm=True, num_classes=5, drop_rate=0.5),
    "efficientnet": efficientnet.EfficientNet(
        width=0.1, depth=0.2, padding="same", num_classes=5, drop_rate=0.5, drop_path_rate=0.5
    ),
}
ALL = {**resnet.ARCHITECTURES, **vgg.ARCHITECTURES, **efficientnet.ARCHITECTURES}
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)


@functools.cache
def tiny_variables(family: str) -> dict:
    return random_variables(TINY[family])


def evaluate(model: nn.Module, variables: dict) -> jax.Array:
    return jax.jit(model.apply)(variables, IMAGES)


def train(model: nn.Module, variables: dict) -> tuple[jax.Array, dict]:
    rngs = {"dropout": jax.random.key(1)}
    return model.apply(variables, IMAGES, train=True, mutable=["batch_stats"], rngs=rngs)


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_leaves_parameters_statistics_and_logits_in_float32(family):
    model, variables = TINY[family].clone(dtype=jnp.bfloat16), tiny_variables(family)
    fresh = abstract_variables(model)
    logits, updated = jax.eval_shape(functools.partial(train, model), variables)
    leaves = jax.tree.leaves((fresh, logits, updated))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_computes_in_bfloat16(family):
    headless = TINY[family].clone(num_classes=0, global_pool="")
    half = evaluate(headless.clone(dtype=jnp.bfloat16), tiny_variables(family))
    exact = evaluate(headless, tiny_variables(family))
    assert half.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(half, np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("family", TINY)
def test_training_layers_are_told_the_mode_by_keyword(family):
    """The freezing of layers rests on it."""
    calls = calls_in_training(TINY[family], IMAGES)
    assert {type(layer) for layer, _, _ in calls} >= {layers.BatchNorm, layers.Dropout}
    assert all(keywords == {"train": True} for _, _, keywords in calls)


@pytest.mark.parametrize("family", TINY)
def test_evaluation_is_deterministic_and_training_is_not(family):
    model, variables = TINY[family], tiny_variables(family)
    evaluated = evaluate(model, variables)
    np.testing.assert_array_equal(evaluated, evaluate(model, variables))
    assert not np.allclose(
        jax.jit(train, static_argnums=0)(model, variables)[0], evaluated, atol=1e-3
    )


@pytest.mark.parametrize("family", TINY)
def test_parts_of_the_top_are_left_out(family):
    model = TINY[family]
    whole = set(trees.names(tiny_variables(family)["params"]))
    headless = model.clone(num_classes=0)
    bare = headless.clone(global_pool="")
    kept = trees.names(abstract_variables(headless)["params"])
    assert whole - set(kept) == {f"{model.classifier}.kernel", f"{model.classifier}.bias"}
    kept = trees.names(abstract_variables(bare)["params"])
    assert not any(name.startswith("pre_logits") for name in kept)
    pooled = evaluate(headless, tiny_variables(family))
    feature_map = evaluate(bare, tiny_variables(family))
    if family != "vgg":
        average = layers.global_average(feature_map)
        np.testing.assert_allclose(average, pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "efficientnet_b1"])
def test_drop_path_rates_are_timms(name):
    theirs = timm.create_model(name, drop_path_rate=0.2)
    model = ALL[name].build(num_classes=5, drop_path_rate=0.2)
    check_drop_paths(model, theirs, IMAGES, acts=lambda block: getattr(block, "has_skip", True))


def shallow(name: str) -> tuple[nn.Module, torch.nn.Module]:
    """Returns a network of the real widths with one block in each stage, and timm's."""
    torch.manual_seed(0)
    if name == "resnet":
        theirs = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1))
        return resnet.ResNet(block=resnet.BasicBlock, depths=(1, 1, 1, 1)), theirs
    theirs = timm.models.efficientnet._gen_efficientnet("efficientnet_b0", depth_multiplier=0.1)
    return efficientnet.EfficientNet(depth=0.1), theirs


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_fresh_weights_are_drawn_as_timms(name):
    model, theirs = shallow(name)
    ours = to_state_dict(jax.jit(model.init)(jax.random.key(0), IMAGES))
    check_fresh(ours, theirs.state_dict(), classifier=model.classifier)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"global_pool": "max"}, "use 'avg'"),
        ({"global_pool": ""}, "set num_classes=0"),
        ({"num_classes": -1}, "use 0 for no classifier"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
    ],
)
def test_contradictory_fields_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        TINY[family].clone(**fields)


def test_vgg_has_no_branch_to_drop():
    with pytest.raises(ValueError, match="no residual branch"):
        vgg.VGG(drop_path_rate=0.1)


def test_features_are_those_on_the_way_to_the_logits():
    model, variables = TINY["resnet"], tiny_variables("resnet")
    at = ["layer2", "act1", "layer1.0.bn3", "fc"]
    found = jax.jit(functools.partial(features, model, at=at))(variables, IMAGES)
    assert set(found) == set(at)
    assert found["act1"].shape == (2, 17, 24, 64)
    assert found["layer2"].shape == (2, 5, 6, 64)
    np.testing.assert_allclose(found["fc"], evaluate(model, variables), atol=1e-6)


def test_features_name_the_nearest_module():
    with pytest.raises(ValueError, match=r"no module 'layr2'; did you mean 'layer2'"):
        features(TINY["resnet"], tiny_variables("resnet"), IMAGES, ["layr2"])

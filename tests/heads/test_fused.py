"""Tests of the kept classifier beside a new head: its features, logits and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.every_layer import EveryLayer
from tests.support.families import PAIRS
from tests.support.tiny import (
    TinyNet,
    assert_equal_trees,
    batch,
    images_unchanged,
    randomised,
)
from tl_jax import trees
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models.network import Network
from tl_jax.models.registry import FAMILIES, create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze

IMAGES = batch()["image"]
KEY = jax.random.key(0)
# The smallest of its family, where that is not the first.
SMALL = {
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "efficientnet": "test_efficientnet",
    "convnext": "test_convnext",
    "nfnet": "test_nfnet",
}
ONE_OF_EACH = [SMALL.get(family, next(iter(f.architectures))) for family, f in FAMILIES.items()]


class Features(nn.Module):
    """In the place of a `Fusion`: returns the features."""

    num_classes: int = 5

    @nn.compact
    def __call__(self, features, source_logits, *, train: bool = False):
        assert source_logits.shape[0] == features.shape[0]
        return features


@pytest.fixture
def model() -> Fused:
    return Fused(TinyNet(), Fusion(Linear(5)))


@pytest.fixture
def variables(model):
    return randomised(model)


@functools.cache
def smallest() -> dict[str, Network]:
    """Returns a network of each family: a tiny one, or the smallest of those without such."""
    networks = {family: next(iter(about.architectures)) for family, about in FAMILIES.items()}
    tiny = {pair.family: pair.network.clone(num_classes=11) for pair in PAIRS.values()}
    return {
        family: tiny.get(family) or create_model(name, num_classes=11)
        for family, name in networks.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_fused(family):
    network = smallest()[family]
    model = Fused(network, Fusion(Linear(5)))
    images = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, KEY, images)
    names = trees.names(variables["params"])
    # A Linen name may hold dots, so the subtree is found by its dotted name.
    kept = [key for key in names if trees.is_under(key, model.pretrained_classifier)]
    assert sorted(kept) == [f"{model.pretrained_classifier}.{leaf}" for leaf in ("bias", "kernel")]
    bare = {
        collection: tree["backbone"] for collection, tree in variables.items() if "backbone" in tree
    }
    features = jax.eval_shape(network.clone(num_classes=0).apply, bare, images)
    assert logits.shape == (2, 5)
    head = variables["params"]["head"]
    assert head["on_features"]["fc"]["kernel"].shape == (features.shape[1], 5)
    assert head["mix"].keys() == {"kernel"}
    assert head["mix"]["kernel"].shape == (11, 5)


def assert_features_are_those_of_the_plain_network(backbone: Network, side: int) -> None:
    images = batch(2, side=side)["image"]
    model = Fused(backbone, Features())
    variables = randomised(model, side=side)
    bare = {collection: tree["backbone"] for collection, tree in variables.items()}
    found = jax.jit(model.apply)(variables, images)
    expected = jax.jit(backbone.clone(num_classes=0).apply)(bare, images)
    assert expected.std() > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["every_layer", "torchvision/squeezenet1_1"])
def test_features_are_those_of_the_network_without_a_classifier(name):
    """A classifier on features, and one on the feature map."""
    small = EveryLayer(num_classes=11)
    backbone = small if name == "every_layer" else create_model(name, num_classes=11)
    assert_features_are_those_of_the_plain_network(backbone, 32)


@pytest.mark.full
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_features_of_every_family_are_those_of_the_network_without_a_classifier(name):
    assert_features_are_those_of_the_plain_network(create_model(name, num_classes=11), 96)


def test_it_starts_at_even_odds(model):
    variables = model.init(KEY, IMAGES)
    np.testing.assert_array_equal(model.apply(variables, IMAGES), np.zeros((8, 5)))
    assert model.num_classes == 5
    assert model.in_channels == 3


@pytest.mark.parametrize("scaling", ["standardized", "probabilities"])
def test_logits_are_those_by_hand(scaling, variables):
    model = Fused(TinyNet(), Fusion(Linear(5), scaling))
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    source = np.asarray(TinyNet().apply(backbone, IMAGES))
    features = Fused(TinyNet(), Features()).apply(variables, IMAGES)
    if scaling == "standardized":
        scaled = (source - source.mean(1, keepdims=True)) / source.std(1, keepdims=True)
    else:
        scaled = np.exp(source) / np.exp(source).sum(1, keepdims=True)
    head = variables["params"]["head"]
    on_features = features @ head["on_features"]["fc"]["kernel"] + head["on_features"]["fc"]["bias"]
    expected = on_features + scaled @ head["mix"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, IMAGES), expected, rtol=1e-3, atol=1e-4)


def test_standardised_logits_forget_offset_and_spread(model, variables):
    expected = model.apply(variables, IMAGES)
    kept = variables["params"]["backbone"]["fc"]
    kept = {"kernel": 20 * kept["kernel"], "bias": 20 * kept["bias"] - 70}
    params = {**variables["params"], "backbone": {**variables["params"]["backbone"], "fc": kept}}
    found = model.apply({**variables, "params": params}, IMAGES)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_source_logits_all_the_same_are_no_trouble(model, variables):
    params = variables["params"]
    kept = jax.tree.map(jnp.zeros_like, params["backbone"]["fc"])
    params = {**params, "backbone": {**params["backbone"], "fc": kept}}

    def loss(params):
        return model.apply({**variables, "params": params}, IMAGES).sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(loss)(params)))


def test_gradients_reach_the_mix_the_head_the_classifier_and_the_backbone(model, variables):
    def loss(params):
        logits = model.apply({**variables, "params": params}, IMAGES)
        return jnp.square(logits - 1).sum()

    gradients = jax.grad(loss)(variables["params"])
    for part in ("head.mix", "head.on_features.fc", "backbone.fc", "backbone.conv1"):
        under = functools.partial(trees.is_under, prefix=part)
        taken, _ = trees.split(gradients, under)
        leaves = jax.tree.leaves(taken)
        assert leaves, part
        assert all(np.abs(leaf).max() > 1e-4 for leaf in leaves), part


@pytest.mark.parametrize("head", [MLP(5, (6,)), Cosine(5)])
def test_any_head_can_be_on_the_features(head):
    model = Fused(TinyNet(), Fusion(head))
    params = model.init(KEY, IMAGES)["params"]
    assert params["head"]["on_features"].keys() == head.init(
        KEY, jnp.zeros((1, 4))
    )["params"].keys()  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
def test_a_plan_trains_the_head_with_or_without_the_kept_classifier(model, variables, kept):
    head = [model.classifier, *([model.pretrained_classifier] if kept else [])]
    plan = freeze.plan(variables["params"], head, train_backbone=False)
    tx = optim.optimizer("sgd", {freeze.HEAD: 0.1}, plan)
    made = step.make_train_step(model, tx, plan, augment_fn=images_unchanged, seed_key=KEY)
    after, _ = made(state.create(variables, tx, plan), batch(classes=5))
    before = variables["params"]
    assert_equal_trees(after.batch_stats, variables["batch_stats"])
    changed = {
        name
        for name, one, other in zip(
            trees.names(before), jax.tree.leaves(after.params), jax.tree.leaves(before), strict=True
        )
        if (one != other).any()
    }
    expected = {"head.mix.kernel", "head.on_features.fc.kernel", "head.on_features.fc.bias"}
    assert changed == expected | ({"backbone.fc.kernel", "backbone.fc.bias"} if kept else set())


def test_bfloat16_ends_in_float32():
    backbone = create_model("test_resnet", num_classes=11, dtype=jnp.bfloat16)
    variables = abstract_variables(Fused(backbone, Fusion(Linear(5))))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits = jax.eval_shape(Fused(backbone, Fusion(Linear(5))).apply, variables, images)
    assert logits.dtype == jnp.float32


def test_it_may_lie_within_another_module(model, variables):
    outer = Classifier(model, None)
    nested = {collection: {"backbone": tree} for collection, tree in variables.items()}
    found = outer.apply(nested, IMAGES)
    np.testing.assert_array_equal(found, model.apply(variables, IMAGES))


def test_a_backbone_without_a_classifier_is_refused():
    model = Fused(create_model("test_resnet", num_classes=0), Fusion(Linear(5)))
    with pytest.raises(ValueError, match="no classifier 'fc' to keep"):
        abstract_variables(model)


def test_an_unknown_scaling_names_the_nearest():
    model = Fused(TinyNet(), Fusion(Linear(5), "probability"))
    with pytest.raises(ValueError, match="did you mean 'probabilities'"):
        abstract_variables(model)

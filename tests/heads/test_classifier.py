"""Tests of networks of a backbone and a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.every_layer import EveryLayer
from tests.support.tiny import assert_equal_trees, batch, images_unchanged, randomised
from tl_jax import trees
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models import layers
from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze

IMAGES = batch()["image"]


class Backbone(nn.Module):
    """A convolution and a BatchNorm, whose output is the feature map."""

    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.Conv(4, 3, dtype=self.dtype, name="conv1")(x)
        return layers.relu(layers.BatchNorm(dtype=self.dtype, name="bn1")(x, train=train))


@pytest.fixture
def model() -> Classifier:
    return Classifier(Backbone(), MLP(3, (6, 5)))


def test_names_and_shapes(model):
    variables = model.init(jax.random.key(0), IMAGES)
    shapes = {trees.dotted(path): leaf.shape for path, leaf in trees.flatten(variables).items()}
    assert shapes == {
        "params.backbone.conv1.kernel": (3, 3, 3, 4),
        "params.backbone.bn1.scale": (4,),
        "params.backbone.bn1.bias": (4,),
        "params.head.fc1.kernel": (4, 6),
        "params.head.fc1.bias": (6,),
        "params.head.fc2.kernel": (6, 5),
        "params.head.fc2.bias": (5,),
        "params.head.fc.kernel": (5, 3),
        "params.head.fc.bias": (3,),
        "batch_stats.backbone.bn1.mean": (4,),
        "batch_stats.backbone.bn1.var": (4,),
    }


def test_logits_are_those_by_hand(model):
    variables = model.init(jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    found = model.apply({**variables, "params": params}, IMAGES)
    backbone = {"params": params["backbone"], "batch_stats": variables["batch_stats"]["backbone"]}
    x = np.mean(Backbone().apply(backbone, IMAGES), (1, 2))
    for name in ("fc1", "fc2"):
        x = np.maximum(x @ params["head"][name]["kernel"] + params["head"][name]["bias"], 0)
    expected = x @ params["head"]["fc"]["kernel"] + params["head"]["fc"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_fresh_head_gives_even_odds_and_can_learn(model):
    variables = model.init(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(model.apply(variables, IMAGES), np.zeros((8, 3)))
    assert variables["params"]["head"]["fc1"]["kernel"].std() > 0.1


def test_no_head_gives_the_pooled_features():
    model = Classifier(Backbone(), None)
    assert model.num_classes == 0
    variables = model.init(jax.random.key(0), IMAGES)
    assert variables["params"].keys() == {"backbone"}
    found = model.apply(variables, IMAGES)
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    np.testing.assert_array_equal(found, Backbone().apply(backbone, IMAGES).mean((1, 2)))


def test_bfloat16_ends_in_float32_and_pools_in_it():
    half = jnp.bfloat16
    model = Classifier(Backbone(half), MLP(3, (6,), dtype=half))
    variables = model.init(jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert model.apply(variables, IMAGES).dtype == jnp.float32
    pooled = Classifier(Backbone(half), None).apply(
        {**variables, "params": {"backbone": variables["params"]["backbone"]}}, IMAGES
    )
    assert pooled.dtype == jnp.float32
    assert (pooled != pooled.astype(half)).any()


def test_dropout_acts_in_training_alone():
    model = Classifier(Backbone(), MLP(3, (64,), dropout=0.5))
    variables = model.init(jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    variables = {**variables, "params": params}

    def logits(seed: int, *, train: bool):
        rngs = {"dropout": jax.random.key(seed)}
        found, _ = model.apply(variables, IMAGES, train=train, mutable=["batch_stats"], rngs=rngs)
        return found

    np.testing.assert_array_equal(logits(0, train=False), logits(1, train=False))
    assert (logits(0, train=True) != logits(1, train=True)).any()


def test_its_head_can_be_trained_alone(model):
    variables = model.init(jax.random.key(0), IMAGES)
    plan = freeze.plan(variables["params"], [model.classifier], train_backbone=False)
    tx = optim.optimizer("sgd", {freeze.HEAD: 0.1}, plan, weight_decay=0.1)
    made = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(0)
    )
    after, _ = made(state.create(variables, tx, plan), batch())
    assert_equal_trees(after.params["backbone"], variables["params"]["backbone"])
    assert_equal_trees(after.batch_stats, variables["batch_stats"])
    assert (after.params["head"]["fc"]["bias"] != 0).all()


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "tf_efficientnet_lite0"])
def test_every_family_can_be_its_backbone(name):
    model = Classifier(create_model(name, num_classes=0, global_pool=""), MLP(5, (32,)))
    params = abstract_variables(model)["params"]
    features = {"vgg16": 512, "resnet18": 512, "tf_efficientnet_lite0": 1280}[name]
    assert params["head"]["fc1"]["kernel"].shape == (features, 32)
    assert not any(key.startswith("pre_logits") for key in params["backbone"])


@pytest.mark.parametrize("head", [Linear(5), MLP(5, (32,)), Cosine(5)])
def test_features_that_are_pooled_are_taken_images_unchanged(head):
    backbone = EveryLayer(num_classes=0)
    model = Classifier(backbone, head)
    assert (model.num_classes, model.in_channels) == (5, 3)
    variables = randomised(model, side=32)
    images = batch(2, side=32)["image"]
    of_backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
    features = jax.jit(backbone.apply)(of_backbone, images)
    assert features.shape == (2, 6)
    found = jax.jit(model.apply)(variables, images)
    expected = head.apply({"params": variables["params"]["head"]}, features)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_backbone_with_a_classifier_is_refused():
    model = Classifier(create_model("test_resnet", num_classes=7), Linear(5))
    with pytest.raises(ValueError, match="classifier of 7 classes.*num_classes=0"):
        abstract_variables(model)

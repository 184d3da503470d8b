"""AlexNet, GoogLeNet, SqueezeNet, ShuffleNetV2, Xception, the Inceptions: what is peculiar to them.

That their numbers are those of timm and torchvision `experiments.parity` shows for each.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments import parity
from experiments.torch_peer import import_timm, settle
from tests.support.classic_pairs import (
    ShallowGoogLeNet,
    ShallowInceptionV3,
    torchvision_googlenet,
)
from tests.support.families import PAIRS
from tests.support.pairs import timm_file
from tests.support.peers import (
    abstract_images,
    abstract_output,
    calls_in_training,
    check_spread,
    in_torch,
    random_variables,
)
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.families import (
    alexnet,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    shufflenetv2,
    squeezenet,
    xception,
)
from tl_jax.models.network import Network
from tl_jax.models.variables import from_state_dict
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
# Importable only after timm's import has been prepared for.
torchvision_models = importlib.import_module("torchvision.models")
KEY = jax.random.key(0)
FAMILIES = (alexnet, googlenet, squeezenet, shufflenetv2, xception, inception_v3, inception_v4,
            inception_resnet_v2)  # fmt: skip
NETWORKS = {name: network for family in FAMILIES for name, network in family.NETWORKS.items()}


def images(side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, side, side, channels)).astype("f4")


@pytest.mark.slow
def test_alexnets_numbers_and_export_equal_torchvisions():
    row = parity.compare("torchvision/alexnet")
    assert row["passed"], row


@pytest.mark.parametrize(
    "name, theirs, side",
    [
        ("torchvision/alexnet", functools.partial(torchvision_models.alexnet, dropout=0.4), 63),
        ("torchvision/squeezenet1_1", torchvision_models.squeezenet1_1, 63),
        ("torchvision/googlenet", functools.partial(torchvision_models.googlenet), 63),
    ],
)
def test_dropout_is_where_torchvision_has_it(name, theirs, side):
    """Compares the shapes of what the dropouts get: channels first there, last here."""
    if name.endswith("googlenet"):
        theirs = functools.partial(theirs, aux_logits=False, init_weights=False)
    with torch.device("meta"):
        network = theirs(num_classes=5).train()
    expected = []
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_pre_hook(lambda _, args: expected.append(args[0].shape))
    network(torch.empty(2, 3, side, side, device="meta"))
    model = NETWORKS[name].clone(num_classes=5, drop_rate=0.4)
    ours = [
        (shape[0], shape[-1], *shape[1:-1])
        for layer, shape, _ in calls_in_training(model, abstract_images(model, side))
        if isinstance(layer, layers.Dropout) and layer.rate == 0.4
    ]
    assert ours == [tuple(shape) for shape in expected] != []


@pytest.mark.slow
def test_alexnets_features_are_what_its_classifier_sees():
    model = alexnet.AlexNet(num_classes=3)
    x = images(63)
    variables = random_variables(model, low=-0.03, high=0.03)
    features = model.clone(num_classes=0).apply(variables, x)
    top = variables["params"]["classifier.6"]
    np.testing.assert_allclose(
        model.apply(variables, x), features @ top["kernel"] + top["bias"], rtol=1e-4, atol=1e-6
    )


SQUEEZENET = squeezenet.SqueezeNet(stem=(8, 3), fires=("pool", (4, 8)), num_classes=5)


@functools.cache
def fresh_squeezenet() -> dict:
    return jax.jit(SQUEEZENET.init)(KEY, images(19))


def test_a_fresh_squeezenet_learns():
    """A classifier of zeros would get no gradient through the activation behind it."""

    @jax.jit
    @jax.grad
    def gradient(params: dict) -> jax.Array:
        return jnp.sum(SQUEEZENET.apply({"params": params}, images(19)))

    found = gradient(fresh_squeezenet()["params"])
    assert np.linalg.norm(found["classifier.1"]["kernel"]) > 0
    assert np.linalg.norm(found["features.0"]["kernel"]) > 0


def test_squeezenets_features_are_the_mean_of_its_last_map():
    headless = SQUEEZENET.clone(num_classes=0)
    feature_map = jax.jit(headless.clone(global_pool="").apply)(fresh_squeezenet(), images(19))
    features = jax.jit(headless.apply)(fresh_squeezenet(), images(19))
    np.testing.assert_allclose(features, feature_map.mean((1, 2)), rtol=1e-5)


def test_the_shuffle_is_torchvisions():
    joined = images(3, 12)
    shuffle = torchvision_models.shufflenetv2.channel_shuffle
    expected = shuffle(in_torch(joined), 2).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(
        shufflenetv2.channel_shuffle(joined[..., :6], joined[..., 6:]), expected
    )


def with_auxiliary_heads(name: str) -> tuple[Network, torch.nn.Module, int]:
    """Returns a shallow network with them, its peer, and the side of the images."""
    torch.manual_seed(0)
    if name == "googlenet":
        model = ShallowGoogLeNet(num_classes=5, aux_logits=True, aux_drop_rate=0.0)
        return model, torchvision_googlenet(aux_logits=True), 64
    network = PAIRS["inception_v3"].peer()
    whole = timm_file("inception_v3").InceptionV3(5, aux_logits=True)
    network.AuxLogits = whole.AuxLogits
    return ShallowInceptionV3(num_classes=5, aux_logits=True), network, 299


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.full)]
)
def test_auxiliary_logits_are_those_of_the_peer(name):
    model, theirs, side = with_auxiliary_heads(name)
    x = images(side)
    settle(theirs, model.classifier, in_torch(x))
    state_dict = {key: value.clone() for key, value in theirs.state_dict().items()}
    variables = from_state_dict(model, state_dict)
    for key, value in to_state_dict(variables).items():
        np.testing.assert_array_equal(value, state_dict[key], err_msg=key)
    with torch.no_grad():
        expected, *auxiliary = theirs.train()(in_torch(x))
    # torchvision returns the last head first.
    expected = [expected, *auxiliary[::-1]]
    train = functools.partial(model.apply, train=True, mutable=["batch_stats", "auxiliary"])
    logits, updated = jax.jit(train)(variables, x)
    heads = [updated["auxiliary"][head]["logits"][0] for head in model.auxiliary]
    for ours, peers in zip([logits, *heads], expected, strict=True):
        np.testing.assert_allclose(ours, peers, rtol=1e-4, atol=1e-4 * peers.abs().max())
    statistics = to_state_dict({"batch_stats": updated["batch_stats"]})
    after = theirs.state_dict()
    for key in (key for key in statistics if key.startswith(model.auxiliary)):
        np.testing.assert_allclose(statistics[key], after[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_for_training_only(name):
    model, theirs, side = with_auxiliary_heads(name)
    x = abstract_images(model, side)
    _, evaluated = abstract_output(model, x)
    _, trained = abstract_output(model, x, train=True)
    assert "auxiliary" not in evaluated
    assert set(trained["auxiliary"]) == set(model.auxiliary)
    bare = model.clone(aux_logits=False)
    names = trees.names(from_state_dict(bare, theirs.state_dict())["params"])
    assert not any(found.startswith(model.auxiliary) for found in names)
    _, headless = abstract_output(model.clone(num_classes=0), x, train=True)
    assert "auxiliary" not in headless


def test_images_too_small_for_the_auxiliary_head_are_refused():
    model = inception_v3.InceptionV3(num_classes=5, aux_logits=True)
    with pytest.raises(ValueError, match="at least 299x299"):
        abstract_output(model, abstract_images(model, 282), train=True)


def torch_fresh(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name.endswith("googlenet"):
        return torchvision_models.googlenet(num_classes=5, aux_logits=False, init_weights=True)
    if name.startswith("torchvision/"):
        return torchvision_models.get_model(name.removeprefix("torchvision/"), num_classes=5)
    return timm.create_model(name, num_classes=5)


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_kernels_are_drawn_as_the_peers(name):
    """Kernels have the same spread; scales are one; the classifier is zero, but SqueezeNet's."""
    model, theirs = NETWORKS[name].clone(num_classes=5), torch_fresh(name)
    ours = to_state_dict(jax.jit(model.init)(KEY, images(80)))
    for key, value in theirs.state_dict().items():
        is_classifier = key == f"{model.classifier}.weight" and "squeezenet" not in name
        if is_classifier:
            np.testing.assert_array_equal(ours[key], 0)
        elif value.ndim in (2, 4):
            check_spread(ours[key], value, key=key)
        elif key.endswith("weight"):
            np.testing.assert_array_equal(ours[key], value, err_msg=key)

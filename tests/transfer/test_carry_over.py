"""Rows of a pretrained classifier carried over to new classes, and the score before training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.every_layer import EveryLayer
from tests.support.tiny import CLASSES, TinyNet, assert_equal_trees, batch, randomised
from tl_jax import trees
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import Linear
from tl_jax.models.registry import create_model
from tl_jax.objectives import metrics
from tl_jax.transfer import carry_over
from tl_jax.transfer.class_names import ClassMapping

MAPPING = ClassMapping(("x", "y", "z", "w"), ("a", "b", "c"), ((2,), (), (0,), (0, 1)))


@pytest.mark.parametrize("shape", [(4, CLASSES), (1, 1, 4, CLASSES)])
def test_rows_are_carried_exactly_and_means_taken(shape):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=shape).astype("f"), rng.normal(size=CLASSES).astype("f")
    found, found_bias = carry_over.carry_rows(kernel, bias, MAPPING)
    assert found.shape == (*shape[:-1], 4)
    assert found.dtype == found_bias.dtype == jnp.float32
    for rows, carried in ((kernel, found), (bias, found_bias)):
        np.testing.assert_array_equal(carried[..., 0], rows[..., 2])
        np.testing.assert_array_equal(carried[..., 1], 0 * rows[..., 0])
        np.testing.assert_array_equal(carried[..., 2], rows[..., 0])
        np.testing.assert_allclose(carried[..., 3], (rows[..., 0] + rows[..., 1]) / 2, rtol=1e-6)


def test_rows_of_another_classifier_are_refused():
    with pytest.raises(ValueError, match=r"from 3 source classes.*shape \(4, 1000\)"):
        carry_over.carry_rows(np.zeros((4, 1000)), np.zeros(1000), MAPPING)


@pytest.mark.parametrize(
    "network", [EveryLayer(), create_model("torchvision/squeezenet1_1")], ids=["dense", "map"]
)
def test_a_new_network_has_the_old_logits(network):
    """The classifiers are a dense layer, and a convolution on the feature map."""
    old, new = (network.clone(num_classes=count) for count in (CLASSES, 2))
    variables = randomised(old, side=32)
    fresh = randomised(new, side=32, seed=1)["params"]
    images = batch(2, side=32)["image"]
    mapping = ClassMapping(("x", "y"), ("a", "b", "c"), ((2,), (0,)))
    params = carry_over.carry_classifier(variables["params"], old.classifier, mapping, like=fresh)
    old_head, backbone = trees.split(
        variables["params"], lambda n: trees.is_under(n, old.classifier)
    )
    head, rest = trees.split(params, lambda n: trees.is_under(n, old.classifier))
    _, fresh_rest = trees.split(fresh, lambda n: trees.is_under(n, old.classifier))
    assert_equal_trees(rest, fresh_rest)
    logits = jax.jit(old.apply)(variables, images)
    found = jax.jit(new.apply)({**variables, "params": trees.merge(backbone, head)}, images)
    assert logits.std() > 0
    # The rows have the same bits; a product of another width may be summed in another order.
    np.testing.assert_allclose(found, logits[:, [2, 0]], rtol=1e-5, atol=1e-6)
    for leaf in ("kernel", "bias"):
        rows, carried = (
            next(value for path, value in trees.flatten(tree).items() if path[-1] == leaf)
            for tree in (old_head, head)
        )
        np.testing.assert_array_equal(carried, rows[..., [2, 0]])


def test_unmatched_classes_start_as_the_new_network_draws_them():
    variables = randomised(TinyNet())
    fresh = {**variables["params"], "fc": {"kernel": jnp.full((4, 4), 7.0), "bias": jnp.ones(4)}}
    params = carry_over.carry_classifier(variables["params"], "fc", MAPPING, like=fresh)
    old = variables["params"]["fc"]
    carried, _ = carry_over.carry_rows(old["kernel"], old["bias"], MAPPING)
    np.testing.assert_array_equal(params["fc"]["kernel"][:, 1], np.full(4, 7))
    assert params["fc"]["bias"][1] == 1
    for i in (0, 2, 3):
        np.testing.assert_array_equal(params["fc"]["kernel"][:, i], carried[:, i])


def test_a_classifier_that_does_not_fit_is_refused():
    params = randomised(TinyNet())["params"]
    with pytest.raises(ValueError, match="no layer 'fcs'; did you mean 'fc'"):
        carry_over.carry_classifier(params, "fcs", MAPPING, like=params)
    with pytest.raises(ValueError, match=r"fc.kernel of the new network has shape \(4, 3\)"):
        carry_over.carry_classifier(params, "fc", MAPPING, like=params)


def test_a_mix_starts_from_the_mapping():
    model = Fused(TinyNet(), Fusion(Linear(4), "probabilities"))
    variables = randomised(model)
    head = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    params = carry_over.init_mix({**variables["params"], "head": head}, MAPPING)
    found = model.apply({**variables, "params": params}, batch()["image"])
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    odds = jax.nn.softmax(TinyNet().apply(backbone, batch()["image"]))
    expected = [odds[:, 2], 0 * odds[:, 0], odds[:, 0], (odds[:, 0] + odds[:, 1]) / 2]
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-3, atol=1e-6)
    two = dataclasses.replace(MAPPING, new_names=("x", "y"), sources=((0,), (1,)))
    with pytest.raises(ValueError, match=r"head.mix.kernel has .* 3 source classes to 2"):
        carry_over.init_mix(params, two)


# ---- before training


def test_unmatched_classes_are_never_predicted():
    logits = jnp.asarray([[-5.0, 9.0, -4.0, -6.0], [-50.0, 0.0, -60.0, -70.0]])
    found = carry_over.matched_logits(logits, MAPPING)
    assert np.argmax(found, -1).tolist() == [2, 0]
    np.testing.assert_array_equal(found[:, [0, 2, 3]], logits[:, [0, 2, 3]])
    assert np.isfinite(jax.nn.log_softmax(found)).all()
    nothing = dataclasses.replace(MAPPING, sources=((),) * 4)
    with pytest.raises(ValueError, match="none of the new classes has a source"):
        carry_over.matched_logits(logits, nothing)


def test_examples_of_unmatched_classes_count_as_wrong():
    confusion = [[3, 0, 1, 0], [2, 0, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    found = carry_over.zero_shot(confusion, MAPPING)
    assert found == carry_over.ZeroShot(examples=10, of_matched_classes=6, correct=5)
    assert found.accuracy == 0.5
    assert found.matched_accuracy == pytest.approx(5 / 6)
    by_class = metrics.by_class(np.array(confusion))
    assert carry_over.zero_shot(by_class, MAPPING) == found
    of_none = carry_over.zero_shot(np.array([[0] * 4, [1, 0, 0, 0], [0] * 4, [0] * 4]), MAPPING)
    assert of_none.accuracy == 0
    assert np.isnan(of_none.matched_accuracy)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (np.ones((4, 4)), "an unmatched class was predicted"),
        (np.ones((3, 3)), r"got shape \(3, 3\)"),
        (np.zeros((4, 4)), "a sum of 0"),
    ],
)
def test_a_confusion_matrix_that_cannot_be_is_refused(confusion, message):
    with pytest.raises(ValueError, match=message):
        carry_over.zero_shot(confusion, MAPPING)


def test_a_network_of_matched_classes_is_evaluated_in_the_place_of_the_network():
    variables = randomised(TinyNet())
    examples, mapping = batch(), ClassMapping(("x", "y", "z"), ("a", "b"), ((0,), (1,), ()))
    logits = carry_over.MatchedOnly(TinyNet(), mapping).apply(variables, examples["image"])
    plain = np.array(TinyNet().apply(variables, examples["image"]))
    assert (plain.argmax(-1) == 2).any()
    plain[:, 2] = -np.inf
    np.testing.assert_array_equal(np.argmax(logits, -1), plain.argmax(-1))
    mask = jnp.ones(8, bool)
    confusion = metrics.confusion_matrix(logits, jnp.asarray(examples["label"]), mask)
    found = carry_over.zero_shot(confusion, mapping)
    assert found.examples == 8
    assert found.accuracy == np.mean(plain.argmax(-1) == examples["label"])

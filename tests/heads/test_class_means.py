"""Tests of heads that start from class means: they find the nearest mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tiny import assert_equal_trees
from tl_jax import trees
from tl_jax.heads import class_means as heads
from tl_jax.heads.head import Cosine, Linear

CLASSES, WIDTH = 4, 6
NAMES = ("cat", "dog", "crane", "tench")


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """Features around four means that lie far from zero, as those after a ReLU do, and labels."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, 60)])
    means = 5 + rng.normal(size=(CLASSES, WIDTH))
    return (means[labels] + rng.normal(size=(64, WIDTH))).astype(np.float32), labels


def squared_distances(features, means) -> np.ndarray:
    return np.square(features[:, None] - means).sum(-1)


def test_means_are_those_by_hand(data):
    features, labels = data
    means = heads.class_means(features, labels, num_classes=CLASSES)
    for label in range(CLASSES):
        np.testing.assert_allclose(means[label], features[labels == label].mean(0), rtol=1e-6)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    found = heads.class_means(features, labels, num_classes=CLASSES, normalize=True)
    expected = heads.class_means(features / lengths, labels, num_classes=CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_head_finds_the_nearest_mean(data, scale):
    features, labels = data[0] * scale, data[1]
    head = Linear(CLASSES)
    params = head.init(jax.random.key(0), features)["params"]
    params = heads.init_from_class_means(params, "fc", features, labels)
    logits = head.apply({"params": params}, features)
    means = heads.class_means(features, labels, num_classes=CLASSES)
    distances = squared_distances(features, means)
    np.testing.assert_array_equal(np.argmax(logits, 1), np.argmin(distances, 1))
    # Not only the order: the logits are the distances, up to a factor and each example's offset.
    gaps = np.asarray(logits) - np.asarray(logits)[:, :1]
    expected = distances[:, :1] - distances
    factor = np.sum(gaps * expected) / np.sum(expected**2)
    np.testing.assert_allclose(gaps, factor * expected, rtol=1e-2, atol=1e-3)
    assert 0.5 < np.std(gaps) < 20


@pytest.mark.parametrize(("num_classes", "confidence"), [(2, 0.9), (5, 0.9), (5, 0.3)])
def test_means_equally_far_apart_have_the_confidence_asked_for(num_classes, confidence):
    means = 100 + 0.7 * np.eye(num_classes, 8)
    kernel, bias = heads.linear_from_means(means, confidence)
    probabilities = jax.nn.softmax(jnp.asarray(means, jnp.float32) @ kernel + bias)
    np.testing.assert_allclose(np.diag(probabilities), confidence, atol=1e-3)


def test_a_cosine_head_finds_the_mean_of_the_nearest_direction(data):
    features, labels = data
    head = Cosine(CLASSES)
    params = head.init(jax.random.key(0), features)["params"]
    started = heads.init_from_class_means(params, "fc", features, labels)
    assert started["fc"]["logit_scale"] is params["fc"]["logit_scale"]
    kernel = np.asarray(started["fc"]["kernel"])
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
    means = heads.class_means(features, labels, num_classes=CLASSES, normalize=True)
    np.testing.assert_array_equal(kernel, heads.cosine_from_means(means))
    cosines = features @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    logits = head.apply({"params": started}, features)
    np.testing.assert_array_equal(np.argmax(logits, 1), np.argmax(cosines, 1))


def test_a_classifier_that_is_a_convolution_keeps_its_form_and_the_rest_its_bits(data):
    features, labels = data
    params = {
        "stem": {"kernel": jnp.ones((3, 3, 3, 2))},
        "head.fc": {"kernel": jnp.zeros((1, 1, WIDTH, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }
    found = heads.init_from_class_means(params, "head.fc", features, labels)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert_equal_trees(found["stem"], params["stem"])
    means = heads.class_means(features, labels, num_classes=CLASSES)
    kernel, bias = heads.linear_from_means(means)
    np.testing.assert_array_equal(found["head.fc"]["kernel"][0, 0], kernel)
    np.testing.assert_array_equal(found["head.fc"]["bias"], bias)


def test_a_class_without_examples_is_named(data):
    features, labels = data
    some = (labels != 1) & (labels != 2)
    with pytest.raises(ValueError, match="2 of 4 classes have no example: 'dog', 'crane';"):
        heads.class_means(features[some], labels[some], num_classes=CLASSES, class_names=NAMES)
    with pytest.raises(ValueError, match="92 of 96 .*: '4', '5', .* and 82 more;"):
        heads.class_means(features, labels, num_classes=96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "fcc"}, "no layer 'fcc'; did you mean 'fc'"),
        ({"features": np.ones((64, 3))}, r"kernel of shape \(6, 4\).*have width 3"),
        ({"features": np.ones((64, 3, 3, WIDTH))}, r"expected \[N, C\] and \[N\]"),
        ({"labels": np.zeros(5, int)}, r"labels \(5,\); expected"),
        ({"labels": np.arange(64)}, r"labels from 0 to 63 .*from 0 to 3"),
        ({"confidence": 0.2}, "confidence is 0.2; among 4 classes .* between 0.25 and 1"),
        ({"features": np.ones((64, WIDTH))}, "all 4 classes are equal"),
    ],
)
def test_what_does_not_fit_is_refused(data, change, message):
    params = Linear(CLASSES).init(jax.random.key(0), data[0])["params"]
    arguments = {"params": params, "layer": "fc", "features": data[0], "labels": data[1]} | change
    with pytest.raises(ValueError, match=message):
        heads.init_from_class_means(**arguments)


def test_one_class_and_a_mean_of_zero_are_refused():
    with pytest.raises(ValueError, match="means of 1 classes, expected at least 2"):
        heads.linear_from_means(np.ones((1, 3)))
    with pytest.raises(ValueError, match="row 1 of 2 is zero"):
        heads.cosine_from_means(np.array([[1.0, 0], [0, 0]]))


def test_parameters_given_are_left_alone(data):
    params = Linear(CLASSES).init(jax.random.key(0), data[0])["params"]
    heads.init_from_class_means(params, "fc", *data)
    assert not any(leaf.any() for leaf in trees.flatten(params).values())

"""MobileNetV3 and its kin: the head, dropout, and which of them have shortcuts to drop."""

import functools

import jax
import numpy as np
import pytest

from tests.support.families import PAIRS
from tests.support.peers import abstract_images, abstract_output, random_variables
from tl_jax.models.families import hardcorenas, mobilenetv3
from tl_jax.models.variables import abstract_variables

IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "name, head",
    [("mobilenetv4, hybrid", {"conv_head", "norm_head"}), ("mobilenetv3", {"conv_head"})],
)
def test_the_head_is_left_out_with_the_pooling(name, head):
    pooled = PAIRS[name].network.clone(num_classes=0)
    bare = pooled.clone(global_pool="")
    kept, body = (set(abstract_variables(model)["params"]) for model in (pooled, bare))
    assert kept - body == head
    assert abstract_output(pooled, abstract_images(pooled, 33))[0].shape == (2, 48)


def test_dropout_zeroes_what_the_classifier_sees_in_training():
    model = PAIRS["mobilenetv3"].network.clone(num_classes=0, drop_rate=0.5)
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    features, _ = apply(random_variables(model), IMAGES, rngs={"dropout": jax.random.key(1)})
    assert 0.3 < np.mean(features == 0) < 0.7


def test_lcnet_has_no_shortcut_to_drop():
    with pytest.raises(ValueError, match="no block of this network has a shortcut"):
        mobilenetv3.NETWORKS["lcnet_050"].clone(drop_path_rate=0.1)
    assert hardcorenas.NETWORKS["hardcorenas_a"].clone(drop_path_rate=0.1)

"""DenseNet: dropout of each layer's channels, and the names of torchvision's old checkpoints."""

import functools

import jax
import numpy as np

from tests.support.families import PAIRS
from tests.support.pairs import timm_file
from tests.support.peers import random_variables
from tl_jax.models.families import densenet

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype("f4")


def test_the_channels_that_a_layer_adds_are_dropped():
    """And those it got are not. The block has 8 channels, and each of its two layers adds 4."""
    tiny = PAIRS["densenet"].network
    model = tiny.clone(proj_drop_rate=0.5, num_classes=0, global_pool="")
    variables = random_variables(model)

    @functools.partial(jax.jit, static_argnums=0)
    def block(train: bool) -> jax.Array:
        _, captured = model.apply(
            variables,
            IMAGES,
            train=train,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": KEY},
            capture_intermediates=lambda module, _: module.name == "features.denseblock1",
        )
        return captured["intermediates"]["features.denseblock1"]["__call__"][0]

    trained, evaluated = block(True), block(False)
    assert trained.shape[-1] == 16
    assert 0.4 < np.mean(trained[..., 8:] == 0) < 0.6
    assert np.mean(evaluated[..., 8:] == 0) < 0.01


def test_old_checkpoints_are_renamed_as_timm_does():
    block = "features.denseblock4.denselayer16"
    old = [f"{block}.norm.1.running_mean", f"{block}.conv.2.weight", "features.norm0.weight"]
    theirs = timm_file("densenet")._filter_torchvision_pretrained(dict.fromkeys(old))
    renamed = [densenet.rename(key) for key in old]
    assert set(renamed) == set(theirs)
    assert [densenet.rename(key) for key in renamed] == renamed

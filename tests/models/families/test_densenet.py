"""DenseNet: what parity with timm does not show."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.models.peers import check_bfloat16, check_fresh, check_logits
from tl_jax.models.families import densenet
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 1)).astype("f4")
TINY = densenet.DenseNet(
    depths=(2, 1), growth=4, deep_stem=True, blur_stem=True, num_classes=5, in_channels=1
)


def peer() -> torch.nn.Module:
    """Returns timm's network of the shape of `TINY`."""
    torch.manual_seed(0)
    return timm.models.densenet.DenseNet(
        4, (2, 1), num_classes=5, in_chans=1, stem_type="deep", aa_layer=timm.layers.BlurPool2d
    )


@functools.cache
def fresh() -> dict:
    return jax.jit(TINY.init)(KEY, IMAGES)


def test_a_small_network_is_timms():
    check_logits(TINY, peer(), IMAGES)


def test_fresh_weights_are_drawn_as_timms():
    ours = to_state_dict(fresh())
    check_fresh(ours, peer().state_dict(), classifier=TINY.classifier)


def test_the_channels_that_a_layer_adds_are_dropped():
    """And those it got are not. The block has 8 channels, and each of its two layers adds 4."""
    model = TINY.clone(proj_drop_rate=0.5, num_classes=0, global_pool="")

    @functools.partial(jax.jit, static_argnums=0)
    def block(train: bool) -> jax.Array:
        _, found = model.apply(
            fresh(),
            IMAGES,
            train=train,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": KEY},
            capture_intermediates=lambda module, _: module.name == "features.denseblock1",
        )
        return found["intermediates"]["features.denseblock1"]["__call__"][0]

    trained, evaluated = block(True), block(False)
    assert trained.shape[-1] == 16
    assert 0.4 < np.mean(trained[..., 8:] == 0) < 0.6
    assert np.mean(evaluated[..., 8:] == 0) < 0.01


def test_half_precision_maps_and_whole_logits():
    check_bfloat16(TINY, IMAGES)


def test_old_checkpoints_are_renamed_as_timm_does():
    block = "features.denseblock4.denselayer16"
    old = [f"{block}.norm.1.running_mean", f"{block}.conv.2.weight", "features.norm0.weight"]
    theirs = timm.models.densenet._filter_torchvision_pretrained(dict.fromkeys(old))
    renamed = [densenet.rename(key) for key in old]
    assert set(renamed) == set(theirs)
    assert [densenet.rename(key) for key in renamed] == renamed


def test_there_is_no_branch_to_drop():
    with pytest.raises(ValueError, match="drop_path_rate is 0.1"):
        TINY.clone(drop_path_rate=0.1)

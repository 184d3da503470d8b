"""ResNetV2: equal to timm's on small networks of each kind, fresh weights, drop rates, types."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.models.peers import check_bfloat16, check_drop_paths, check_fresh, check_logits
from tl_jax.models import layers
from tl_jax.models.families import resnetv2
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
IMAGES = np.random.default_rng(0).normal(size=(2, 35, 47, 3)).astype(np.float32)
TINY = {
    "basic": resnetv2.ResNetV2(
        block=resnetv2.PreActBasic, depths=(1, 2), widths=(32, 64),
        deep_stem=(32, 32), average_shortcut=True, num_classes=5,
    ),
    "bit": resnetv2.ResNetV2(
        depths=(1, 1), widths=(128, 256), stem_width=32, zero_pool_border=True,
        conv=functools.partial(layers.StdConv, epsilon=1e-8), norm=layers.GroupNorm, num_classes=5,
    ),
}  # fmt: skip
NORMS = [layers.BatchNorm, layers.GroupNorm, layers.EvoNormS0, layers.FilterResponseNorm]


def peer(kind: str) -> torch.nn.Module:
    """Returns timm's network of the same shape."""
    make = functools.partial(timm.models.resnetv2.ResNetV2, num_classes=5)
    torch.manual_seed(0)
    if kind == "bit":
        conv = functools.partial(timm.layers.StdConv2d, eps=1e-8)
        return make((1, 1), (128, 256), stem_chs=32, stem_type="fixed", conv_layer=conv)
    return make(
        (1, 2), (32, 64), stem_type="deep", basic=True, bottle_ratio=1.0,
        avg_down=True, conv_layer=timm.layers.create_conv2d, norm_layer=timm.layers.BatchNormAct2d,
    )  # fmt: skip


@pytest.mark.parametrize("kind", TINY)
def test_small_networks_are_timms(kind):
    """Odd maps, the border of the pooling, the averaging of the shortcuts, the classifier."""
    check_logits(TINY[kind], peer(kind), IMAGES)


@pytest.mark.parametrize("kind", TINY)
def test_fresh_weights_are_drawn_as_timms(kind):
    model = TINY[kind]
    fresh = to_state_dict(jax.jit(model.init)(jax.random.key(0, impl="unsafe_rbg"), IMAGES))
    check_fresh(fresh, peer(kind).state_dict(), classifier=model.classifier)


def test_drop_path_rates_are_timms():
    theirs = timm.create_model("resnetv2_18", drop_path_rate=0.2)
    model = resnetv2.ARCHITECTURES["resnetv2_18"].build(num_classes=5, drop_path_rate=0.2)
    check_drop_paths(model, theirs, IMAGES)


@pytest.mark.parametrize("rates", [{"drop_rate": 0.5}, {"drop_path_rate": 0.5}])
def test_training_drops_at_random(rates):
    model = TINY["bit"].clone(num_classes=0, **rates)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    train = functools.partial(model.apply, train=True)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(train, shapes, IMAGES)
    jax.eval_shape(model.apply, shapes, IMAGES)


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_maps_and_float32_logits(norm):
    model = TINY["bit"].clone(norm=norm, in_channels=1)
    _, feature_map = check_bfloat16(model, IMAGES[..., :1])
    assert feature_map.shape == (2, 5, 6, 256)

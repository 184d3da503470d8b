"""ResNetV2: equal to timm's on small networks of each kind, fresh weights, drop rates, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm, settle
from tl_jax import trees
from tl_jax.models import layers, resnetv2
from tl_jax.weights.state_dict import from_state_dict, to_state_dict

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


def as_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", TINY)
def test_small_networks_are_timms(kind):
    """Odd maps, the border of the pooling, the averaging of the shortcuts, the classifier."""
    theirs, model = peer(kind), TINY[kind]
    settle(theirs, model.classifier, as_torch(IMAGES))
    variables = from_state_dict(model, theirs.state_dict())
    found = jax.jit(model.apply)(variables, IMAGES)
    with torch.no_grad():
        expected = theirs(as_torch(IMAGES)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", TINY)
def test_fresh_weights_are_drawn_as_timms(kind):
    """Scales and biases are equal; kernels have the same spread; the classifier is zero."""
    model, theirs = TINY[kind], peer(kind)
    fresh = to_state_dict(jax.jit(model.init)(jax.random.key(0, impl="unsafe_rbg"), IMAGES))
    for key, value in theirs.state_dict().items():
        if key.startswith(model.classifier):
            np.testing.assert_array_equal(fresh[key], 0)
            assert fresh[key].shape == value.shape
        elif value.ndim == 4:
            spread = 5 / np.sqrt(value.numel())
            np.testing.assert_allclose(fresh[key].std(), value.std(), rtol=spread, err_msg=key)
        elif not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(fresh[key], value, err_msg=key)


def test_drop_path_rates_are_timms():
    theirs = timm.create_model("resnetv2_18", drop_path_rate=0.2)
    expected = {
        name: module.drop_prob
        for name, module in theirs.named_modules()
        if isinstance(module, timm.layers.DropPath)
    }
    model = resnetv2.ARCHITECTURES["resnetv2_18"].build(num_classes=5, drop_path_rate=0.2)
    assert drop_paths(model) == pytest.approx(expected)


def drop_paths(model: resnetv2.ResNetV2) -> dict[str, float]:
    """Returns the rate of each drop path that acts, by its name."""
    found = {}

    def record(following, args, kwargs, context):
        if isinstance(context.module, layers.DropPath) and context.module.rate > 0:
            found[trees.dotted(context.module.path)] = context.module.rate
        return following(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return found


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
    model = TINY["bit"].clone(norm=norm, in_channels=1, dtype=jnp.bfloat16)
    images = IMAGES[..., :1]
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    bare = model.clone(num_classes=0, global_pool="")
    feature_map = jax.eval_shape(bare.apply, variables, images)
    assert (feature_map.shape, feature_map.dtype) == ((2, 5, 6, 256), jnp.bfloat16)

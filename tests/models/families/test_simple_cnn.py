"""The network for training from scratch: torch's numbers with the same weights, and any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tl_jax.models.families import simple_cnn
from tl_jax.models.outputs import features
from tl_jax.weights.state_dict import to_state_dict

WIDTHS = (32, 64, 128, 128)
MODEL = simple_cnn.NETWORKS["simple_cnn"].clone(num_classes=7)
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)


@functools.cache
def variables() -> dict:
    """Returns random variables, drawn without a compilation."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype("f4"), shapes)


def torch_network() -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    """Returns the convolutions and the top in torch, with the same weights."""
    ours = to_state_dict(variables())
    body, top = [], [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    for i, (inputs, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False), 1):
        conv = torch.nn.Conv2d(inputs, width, 3, padding=1)
        body += [loaded(conv, ours, f"conv{i}"), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    top += [loaded(torch.nn.Linear(WIDTHS[-1], 512), ours, "fc1"), torch.nn.ReLU()]
    top += [torch.nn.Dropout(0.5), loaded(torch.nn.Linear(512, 7), ours, "fc")]
    return torch.nn.Sequential(*body).eval(), torch.nn.Sequential(*top).eval()


def loaded(module: torch.nn.Module, state_dict: dict, name: str) -> torch.nn.Module:
    weights = {leaf: torch.tensor(state_dict[f"{name}.{leaf}"]) for leaf in ("weight", "bias")}
    module.load_state_dict(weights)
    return module


def test_logits_and_stages_are_torchs():
    body, top = torch_network()
    at = [*simple_cnn.ARCHITECTURES["simple_cnn"].stages, "fc"]
    found = jax.jit(functools.partial(features, MODEL, at=at))(variables(), IMAGES)
    x = torch.tensor(IMAGES).permute(0, 3, 1, 2)
    with torch.no_grad():
        for i, name in enumerate(at[:-1]):
            expected = body[3 * i : 3 * i + 2](x).permute(0, 2, 3, 1)
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
            x = body[3 * i : 3 * i + 3](x)
        np.testing.assert_allclose(found["fc"], top(x), atol=1e-5)


@pytest.mark.parametrize("channels, size", [(1, (16, 16)), (3, (150, 150)), (4, (37, 90))])
def test_any_size_and_channels_have_the_same_dense_layers(channels, size):
    model = MODEL.clone(in_channels=channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, channels)))
    assert shapes["params"]["conv1"]["kernel"].shape == (3, 3, channels, 32)
    assert shapes["params"]["fc1"]["kernel"].shape == (128, 512)


def test_features_are_the_hidden_layers_and_need_no_classifier():
    model = MODEL.clone(num_classes=0, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert set(shapes["params"]) == {"conv1", "conv2", "conv3", "conv4", "fc1"}
    pooled = jax.eval_shape(model.apply, shapes, IMAGES)
    assert (pooled.shape, pooled.dtype) == ((2, 512), jnp.float32)
    feature_map = jax.eval_shape(model.clone(global_pool="").apply, shapes, IMAGES)
    assert (feature_map.shape, feature_map.dtype) == ((2, 2, 2, 128), jnp.bfloat16)


def test_dropout_acts_in_training_alone():
    model = MODEL.clone(drop_rate=0.5)
    apply = jax.jit(model.apply, static_argnames="train")
    rngs = {"dropout": jax.random.key(1)}
    evaluated = apply(variables(), IMAGES, rngs=rngs, train=False)
    np.testing.assert_array_equal(evaluated, apply(variables(), IMAGES, train=False))
    assert not np.allclose(apply(variables(), IMAGES, rngs=rngs, train=True), evaluated, atol=1e-4)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 16x16"):
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 15, 40, 3)))


def test_there_is_no_branch_to_drop():
    with pytest.raises(ValueError, match="no residual branch"):
        MODEL.clone(drop_path_rate=0.1)

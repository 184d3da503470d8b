"""The first convolution for other numbers of channels is adapted as timm adapts it."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from experiments.torch_peer import import_timm
from tl_jax import trees
from tl_jax.models.pretrained import load_pretrained, load_weights
from tl_jax.models.registry import create_model
from tl_jax.weights.stem import adapt_stem

timm = import_timm()


def random_kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 6, 7])
def test_kernels_are_timms(in_channels):
    kernel = random_kernel(5, 3, 7, 7)
    found = adapt_stem({"conv1.weight": kernel, "fc.bias": kernel}, "conv1", in_channels)
    theirs = timm.models.adapt_input_conv(in_channels, torch.tensor(kernel))
    np.testing.assert_allclose(found["conv1.weight"], theirs, rtol=1e-6, atol=1e-7)
    assert found["fc.bias"] is kernel


def test_a_stem_that_folds_pixels_keeps_its_folds():
    kernel = random_kernel(5, 12, 3, 3)
    found = adapt_stem({"stem.weight": kernel}, "stem", 1)["stem.weight"]
    theirs = timm.models.adapt_input_conv(1, torch.tensor(kernel))
    np.testing.assert_allclose(found, theirs, rtol=1e-6, atol=1e-7)


def test_what_cannot_be_adapted_is_named():
    with pytest.raises(ValueError, match=r"stem\.weight takes 12 channels .* adapted to 5"):
        adapt_stem({"stem.weight": random_kernel(5, 12, 3, 3)}, "stem", 5)
    with pytest.raises(ValueError, match=r"no conv1\.weight"):
        adapt_stem({}, "conv1", 1)


@pytest.fixture
def weights(tmp_path):
    state_dict = timm.create_model("test_resnet", num_classes=3).state_dict()
    arrays = {key: value.numpy() for key, value in state_dict.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    return str(tmp_path / "a.safetensors")


def test_a_gray_image_gives_what_its_three_equal_channels_gave(weights):
    rgb_model, rgb = load_pretrained("test_resnet", weights=weights, verbose=False)
    model, variables = load_pretrained("test_resnet", weights=weights, in_channels=1, verbose=False)
    gray = np.random.default_rng(1).normal(size=(1, 40, 40, 1)).astype(np.float32)
    expected = jax.jit(rgb_model.apply)(rgb, np.repeat(gray, 3, axis=-1))
    found = jax.jit(model.apply)(variables, gray)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_made_already_decides(weights):
    model = create_model("test_resnet", num_classes=3, in_channels=5)
    variables, _ = load_weights(model, "test_resnet", weights)
    kernel = trees.layer_leaves(variables["params"], "conv1.0")["kernel"]
    assert kernel.shape[2] == 5


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"takes images \[batch, height, width, 1\].*in_channels="):
        create_model("test_resnet", num_classes=3, in_channels=1).init(
            jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
        )

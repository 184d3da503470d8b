"""Real ImageNet weights on real photographs: a cat is a cat, with the probabilities of timm."""

import jax
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from experiments.torch_peer import import_timm
from tl_jax.models.pretrained import load_pretrained
from tl_jax.models.registry import architecture
from tl_jax.weights.classes import class_names
from tl_jax.weights.sources import read_weights

pytestmark = pytest.mark.slow
NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def images():
    """Photographs under timm's own evaluation transform for this network, [B, 3, H, W]."""
    import_timm()
    import timm.data

    config = timm.get_pretrained_cfg(NAME).to_dict()
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=config), is_training=False
    )
    photographs = (skimage.data.chelsea(), skimage.data.coffee())
    return torch.stack([transform(Image.fromarray(photograph)) for photograph in photographs])


@pytest.fixture(scope="module")
def ours(images):
    model, variables = load_pretrained(NAME, weights="package")
    logits = jax.jit(model.apply)(variables, images.permute(0, 2, 3, 1).numpy())
    return np.asarray(jax.nn.softmax(logits))


def test_a_cat_and_an_espresso_are_recognised(ours):
    cat, coffee = ours.argmax(axis=1)
    assert cat in (281, 282, 285)
    assert coffee == 967
    assert "cat" in class_names(NAME)[cat]
    assert class_names(NAME)[coffee] == "espresso"


def test_probabilities_are_those_of_timm(images, ours):
    state_dict, record = read_weights(NAME, "package")
    rename = architecture(NAME).rename
    reference = import_timm().create_model(NAME).eval()
    published = torch.load(record.file)
    assert published.keys() == state_dict.keys()
    reference.load_state_dict({rename(key): value for key, value in published.items()})
    with torch.inference_mode():
        theirs = reference(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.max(axis=1).min() > 0.1

"""Every method equals its formula in torch, on a tiny network of timm's with the same weights."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.support.families import PAIRS
from tests.support.peers import settled_peer
from tl_jax.explanations.cam import GradCAM, GradCAMPlusPlus, HiResCAM
from tl_jax.explanations.gradients import IntegratedGradients, Saliency, SmoothGrad
from tl_jax.explanations.method import of_image_size
from tl_jax.explanations.occlusion import Occlusion
from tl_jax.models import layers
from tl_jax.models.variables import from_state_dict

pytestmark = pytest.mark.slow
# Its activations are smooth: those with kinks move a gradient by more than rounding does.
PAIR = PAIRS["regnet z"]
STAGE = PAIR.architecture.stages[-2]
INDEX = [3, 1]
METHODS = (
    GradCAM(STAGE),
    GradCAMPlusPlus(STAGE),
    HiResCAM(STAGE),
    Saliency(),
    SmoothGrad(samples=2, seed=3),
    IntegratedGradients(steps=3),
    Occlusion(window=14, stride=10),
)


@pytest.fixture(scope="module")
def peer():
    network, images = settled_peer(PAIR)
    return network.eval(), images[: len(INDEX)]


@pytest.fixture(scope="module")
def found(peer) -> dict[str, np.ndarray]:
    """The maps of all methods, in one compiled function."""
    network, images = peer
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    variables = from_state_dict(PAIR.network, state)
    inputs = jnp.asarray(images.numpy().transpose(0, 2, 3, 1))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def maps(variables, inputs):
        index = jnp.array(INDEX)
        return {each.name: each(PAIR.network, variables, inputs, index) for each in METHODS}

    with layers.convolution_form("general"):
        return jax.device_get(maps(variables, inputs))


def score(network, images):
    return network(images)[torch.arange(len(INDEX)), torch.tensor(INDEX)]


def gradient(network, images):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(score(network, images).sum(), images)[0]


@pytest.fixture(scope="module")
def stage(peer) -> tuple[torch.Tensor, torch.Tensor]:
    """The stage's maps and the gradients by them, [B, C, h, w]."""
    network, images = peer
    kept = []
    handle = network.get_submodule(STAGE).register_forward_hook(lambda *args: kept.append(args[2]))
    total = score(network, images).sum()
    handle.remove()
    return kept[0].detach(), torch.autograd.grad(total, kept[0])[0]


def assert_close(maps: np.ndarray, expected: torch.Tensor) -> None:
    expected = expected.numpy()
    assert maps.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(maps - expected).max() <= 1e-4 * np.abs(expected).max()


def test_grad_cam(found, stage):
    maps, gradients = stage
    expected = (gradients.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    assert_close(found["grad_cam"], expected)


def test_grad_cam_plus_plus(found, stage):
    maps, g = stage
    alpha = g**2 / (2 * g**2 + maps.sum((2, 3), keepdim=True) * g**3)
    weights = (alpha * g.relu()).sum((2, 3), keepdim=True)
    assert_close(found["grad_cam_plus_plus"], (weights * maps).sum(1).relu())


def test_hires_cam(found, stage):
    maps, gradients = stage
    assert_close(found["hires_cam"], (maps * gradients).sum(1).relu())


def test_saliency(found, peer):
    assert_close(found["saliency"], gradient(*peer).abs().amax(1))


def test_smooth_grad(found, peer):
    network, images = peer
    spread = 0.15 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    total = torch.zeros_like(images)
    shape = (len(images), *images.shape[2:], images.shape[1])
    for key in jax.random.split(jax.random.key(3), 2):
        noise = torch.tensor(np.asarray(jax.random.normal(key, shape))).permute(0, 3, 1, 2)
        total += gradient(network, images + spread * noise)
    assert_close(found["smooth_grad"], (total / 2).abs().amax(1))


def test_integrated_gradients(found, peer):
    network, images = peer
    nodes, weights = np.polynomial.legendre.leggauss(3)
    mean = sum(
        float(weight) / 2 * gradient(network, float(1 + node) / 2 * images)
        for node, weight in zip(nodes, weights, strict=True)
    )
    assert_close(found["integrated_gradients"], (images * mean).sum(1))


def test_occlusion(found, peer):
    network, images = peer
    height, width = images.shape[2:]
    total, count = torch.zeros(len(images), height, width), torch.zeros(height, width)
    with torch.no_grad():
        whole = score(network, images)
        for top, left in itertools.product(range(0, height, 10), range(0, width, 10)):
            if top - 10 + 14 >= height or left - 10 + 14 >= width:
                continue  # The window before reached the edge.
            hidden = images.clone()
            hidden[:, :, top : top + 14, left : left + 14] = 0
            fall = whole - score(network, hidden)
            total[:, top : top + 14, left : left + 14] += fall[:, None, None]
            count[top : top + 14, left : left + 14] += 1
    assert count.min() >= 1
    assert_close(found["occlusion"], total / count)


def test_maps_are_enlarged_as_torch_does(found, peer):
    images = peer[1]
    inputs = jnp.zeros((len(images), *images.shape[2:], 3))
    small = torch.tensor(found["grad_cam"])[:, None]
    expected = torch.nn.functional.interpolate(small, images.shape[2:], mode="bilinear")
    assert_close(np.asarray(of_image_size(jnp.asarray(found["grad_cam"]), inputs)), expected[:, 0])

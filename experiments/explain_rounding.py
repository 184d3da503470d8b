"""Tells rounding from error: gradients of an explanation against torch's in single and double.

    python -m experiments.explain_rounding

EfficientNet-Lite0 with its ImageNet weights has ReLU6, whose gradient jumps at 0 and at 6.
Saliency, SmoothGrad and integrated gradients of two photographs are computed here and by their
formulas in torch, in both precisions. If rounding across the jumps is all that parts them, double
precision makes them equal. It prints the largest difference of a pixel, relative to the largest
value of the map. torch and timm are needed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
import torch

import tl_jax
from experiments import torch_peer
from tl_jax.explanations.gradients import IntegratedGradients, Saliency, SmoothGrad
from tl_jax.models import layers

NAME = "tf_efficientnet_lite0"
SIZE = (160, 160)
SMOOTH, INTEGRATED = SmoothGrad(samples=4), IntegratedGradients(steps=32)


def main() -> None:
    """Prints a row of differences for each precision."""
    jax.config.update("jax_enable_x64", True)
    print(f"{'':8}{'logits':>10}{'saliency':>12}{'SmoothGrad':>12}{'integrated gradients':>22}")
    for dtype in ("float32", "float64"):
        logits, *maps = differences(dtype)
        print(f"{dtype:8}{logits:10.1e}{maps[0]:12.1e}{maps[1]:12.1e}{maps[2]:22.1e}", flush=True)


def differences(dtype: str) -> list[float]:
    """Returns the relative differences of the logits and of three methods' maps."""
    model, variables = tl_jax.load_pretrained(NAME, verbose=False)
    config = tl_jax.Preprocess(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = tl_jax.preprocess([skimage.data.chelsea(), skimage.data.coffee()], config)
    network = torch_peer.create_peer(NAME, num_classes=1000).eval()
    state = tl_jax.to_state_dict(variables)
    network.load_state_dict(
        {key: torch.tensor(value) for key, value in state.items()}, strict=False
    )
    network = network.to(getattr(torch, dtype))

    model = model.clone(dtype=jnp.dtype(dtype))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    images = jnp.asarray(images, dtype)
    with layers.convolution_form("general"):
        logits = np.asarray(jax.jit(model.apply)(variables, images))
        index = logits.argmax(-1)
        found = [
            np.asarray(jax.jit(functools.partial(method, model))(variables, images, index))
            for method in (Saliency(), SMOOTH, INTEGRATED)
        ]
    with torch.no_grad():
        expected = [network(as_torch(images)).numpy()]
    expected += torch_maps(gradient_of(network, index), images)
    return [
        float(np.abs(a - b).max() / np.abs(b).max())
        for a, b in zip([logits, *found], expected, strict=True)
    ]


def as_torch(images: jax.Array) -> torch.Tensor:
    """Returns images [B, H, W, C] in torch's layout."""
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


def gradient_of(network: torch.nn.Module, index: np.ndarray) -> Callable[[jax.Array], np.ndarray]:
    """Returns a function from images [B, H, W, C] to torch's gradient of a logit of each."""

    def gradient(images: jax.Array) -> np.ndarray:
        pixels = as_torch(images).requires_grad_()
        score = network(pixels).gather(1, torch.tensor(index)[:, None]).sum()
        return torch.autograd.grad(score, pixels)[0].numpy().transpose(0, 2, 3, 1)

    return gradient


def torch_maps(
    gradient: Callable[[jax.Array], np.ndarray], images: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns saliency, SmoothGrad and integrated gradients by their formulas, [B, H, W]."""
    saliency = np.abs(gradient(images)).max(-1)
    axes = (1, 2, 3)
    spread = SMOOTH.noise * (images.max(axes, keepdims=True) - images.min(axes, keepdims=True))
    keys = jax.random.split(jax.random.key(SMOOTH.seed), SMOOTH.samples)
    noise = [jax.random.normal(key, images.shape, images.dtype) for key in keys]
    smooth = np.abs(np.mean([gradient(images + spread * each) for each in noise], 0)).max(-1)
    nodes, weights = np.polynomial.legendre.leggauss(INTEGRATED.steps)
    points = zip((1 + nodes) / 2, weights / 2, strict=True)
    mean = sum(weight * gradient(images * float(share)) for share, weight in points)
    return saliency, smooth, (np.asarray(images) * mean).sum(-1)


if __name__ == "__main__":
    main()

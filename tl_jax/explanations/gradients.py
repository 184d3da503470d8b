"""Gradients of the target by the pixels: saliency, SmoothGrad and integrated gradients."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax import arguments
from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.method import Method
from tl_jax.explanations.target import Target, as_target, images_of, outputs_of, with_images
from tl_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Saliency(Method):
    """The size of the gradient by each pixel, the largest of its channels (arXiv:1312.6034)."""

    name: ClassVar[str] = "saliency"
    title: ClassVar[str] = "saliency"

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the maps have the size of the images."""
        gradient = gradient_fn(model, variables, inputs, target)
        return jnp.abs(gradient(images_of(inputs))).max(-1)


@dataclasses.dataclass(frozen=True)
class SmoothGrad(Method):
    """Saliency of the mean gradient over noisy copies of the image (arXiv:1706.03825).

    Attributes:
      samples: number of copies.
      noise: standard deviation of the noise, relative to the range of an image's values.
      seed: of the noise.
    """

    name: ClassVar[str] = "smooth_grad"
    title: ClassVar[str] = "SmoothGrad"

    samples: int = 16
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        arguments.whole_number("samples", self.samples, least=1)
        arguments.rate("noise", self.noise)
        arguments.whole_number("seed", self.seed, least=0)

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the maps have the size of the images."""
        gradient, images = gradient_fn(model, variables, inputs, target), images_of(inputs)
        axes = tuple(range(1, images.ndim))
        spread = self.noise * (images.max(axes, keepdims=True) - images.min(axes, keepdims=True))

        def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            noise = jax.random.normal(key, images.shape, images.dtype)
            return total + gradient(images + spread * noise), None

        keys = jax.random.split(jax.random.key(self.seed), self.samples)
        total, _ = jax.lax.scan(add, jnp.zeros_like(images), keys)
        return jnp.abs(total / self.samples).max(-1)


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(Method):
    """The pixel's difference from the mean colour, times its mean gradient on the straight line
    from an image of the mean colour to the image (arXiv:1703.01365).

    The sum of a map is the score of the image less that of the image of the mean colour, up to the
    error of the integral, which is by Gauss and Legendre's rule.

    Attributes:
      steps: points on the line.
    """

    name: ClassVar[str] = "integrated_gradients"
    title: ClassVar[str] = "integrated gradients"
    is_signed: ClassVar[bool] = True

    steps: int = 32

    def __post_init__(self) -> None:
        arguments.whole_number("steps", self.steps, least=1)

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the maps have the size of the images."""
        gradient, images = gradient_fn(model, variables, inputs, target), images_of(inputs)
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        points = jnp.asarray(np.stack([(1 + nodes) / 2, weights / 2], 1), images.dtype)

        def add(total: jax.Array, point: jax.Array) -> tuple[jax.Array, None]:
            share, weight = point
            return total + weight * gradient(share * images), None

        mean, _ = jax.lax.scan(add, jnp.zeros_like(images), points)
        return (images * mean).sum(-1)


def gradient_fn(
    model: Model,
    variables: Mapping[str, Any],
    inputs: NetworkInput,
    target: Target | ArrayLike,
) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from images to the gradient of the target by them, of the same shape.

    Arguments are those of `Method`; what a network takes beside images stays as it is.
    """
    explained = as_target(target)

    def score(images: jax.Array) -> jax.Array:
        outputs = outputs_of(model, variables, with_images(inputs, images))
        # In evaluation mode no example sees another, so one gradient is that of all.
        return explained.scores(outputs).sum()

    return jax.grad(score)

"""How far a map is true of the network: insertion and deletion, and the share in a region."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tl_jax import arguments
from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.target import Target, as_target, images_of, outputs_of, with_images
from tl_jax.models.model import Model

# The image that insertion begins with keeps one value for so many pixels of a side.
_BLUR = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curves:
    """The target's probability, or number, as pixels go or come in the order of a map.

    Attributes:
      shares: of the pixels, [S + 1], from 0 to 1.
      deletion: float32 [B, S + 1], as the pixels of the highest values are painted over first.
      insertion: float32 [B, S + 1], as they come back into a blurred image first.
    """

    shares: jax.Array
    deletion: jax.Array
    insertion: jax.Array

    @property
    def deletion_area(self) -> jax.Array:
        """The mean of the curve of deletion, float32 [B]: the lower, the more the map says."""
        return jnp.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> jax.Array:
        """The mean of the curve of insertion, float32 [B]: the higher, the more the map says."""
        return jnp.trapezoid(self.insertion, self.shares)


def curves(
    model: Model,
    variables: Mapping[str, Any],
    inputs: NetworkInput,
    target: Target | ArrayLike,
    maps: jax.Array,
    *,
    steps: int = 16,
) -> Curves:
    """Measures deletion and insertion of maps (arXiv:1806.07421); a pure function.

    Pixels that are deleted get the mean colour. It costs 2 * (steps + 1) forward passes.

    Args:
      model, variables, inputs, target: as in `tl_jax.explanations.method.Method`.
      maps: float [B, H, W], of views [B, V, H, W]: of the size of the images.
      steps: how often pixels are taken, each time as many.

    Raises:
      ValueError: if the maps have another size.
    """
    arguments.whole_number("steps", steps, least=1)
    explained, images = as_target(target), images_of(inputs)
    if maps.shape != images.shape[:-1]:
        raise ValueError(
            f"got maps of shape {maps.shape} for images {images.shape}; expected "
            f"{images.shape[:-1]}: of_image_size enlarges the maps of a stage"
        )
    flat = maps.reshape(len(maps), -1)
    # The place of each pixel in the order; pixels of equal values follow each other row by row.
    places = jnp.argsort(jnp.argsort(-flat, axis=-1, stable=True), axis=-1).reshape(maps.shape)
    blurred = _blurred(images)

    def values(share: jax.Array) -> tuple[jax.Array, jax.Array]:
        taken = (places < jnp.round(share * flat.shape[-1]))[..., None]
        shown = jnp.where(taken, 0, images), jnp.where(taken, images, blurred)
        without, only = (
            explained.values(outputs_of(model, variables, with_images(inputs, x))) for x in shown
        )
        return without, only

    shares = jnp.linspace(0.0, 1.0, steps + 1)
    deletion, insertion = jax.lax.map(values, shares)
    return Curves(shares, deletion.T, insertion.T)


def share_in(maps: jax.Array, region: ArrayLike) -> jax.Array:
    """Returns the share of what speaks for the target that is in a region, float32 [B].

    Values below 0 count as 0; the share of a map without any other is 0.

    Args:
      maps: float [B, H, W].
      region: bool [H, W], or [B, H, W] for a region of each image.

    Examples:
      >>> share_in(jnp.array([[[3.0, 1.0], [-5.0, 0.0]]]), [[True, False], [False, False]]).tolist()
      [0.75]
    """
    positive = jax.nn.relu(maps)
    total = positive.sum((-2, -1))
    inside = jnp.where(jnp.asarray(region), positive, 0).sum((-2, -1))
    return inside / jnp.where(total > 0, total, 1.0)


def _blurred(images: jax.Array) -> jax.Array:
    """Returns images [..., H, W, C] without what is smaller than 16 pixels."""
    *lead, height, width, channels = images.shape
    small = (*lead, max(height // _BLUR, 1), max(width // _BLUR, 1), channels)
    return jax.image.resize(jax.image.resize(images, small, "linear"), images.shape, "linear")

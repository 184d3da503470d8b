"""The interface of all methods of explaining, and the size of their maps."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.target import Target, images_of
from tl_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Method:
    """Base of the methods: their options are fields, and a call is a pure function of arrays.

    A method is hashable, so it may be a static argument of `jax.jit`.

    Attributes:
      name: what it is called, also on the command line (a class attribute).
      title: the same for a picture (a class attribute).
      is_signed: whether its maps say with negative values what speaks against the target (a class
        attribute); others are 0 where nothing speaks for it.
      takes_stage: whether it has the field `stage` (a class attribute).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_signed: ClassVar[bool] = False
    takes_stage: ClassVar[bool] = False

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """Returns a map of each image: where is what speaks for the target.

        Args:
          model: the network.
          variables: its params and batch_stats.
          inputs: images [B, H, W, C], normalised; or the dict of a network of several inputs, with
            "image", of views [B, V, H, W, C].
          target: what is explained; or class indices, int [B].

        Returns:
          float32 [B, h, w], of views [B, V, h, w]: of the images' size, or of a feature map's
          (`of_image_size` enlarges it).

        Raises:
          ValueError: if the method is not for this network, or there is no such stage.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__()")


def of_image_size(maps: jax.Array, inputs: NetworkInput) -> jax.Array:
    """Returns maps [..., h, w] in the size of the images, [..., H, W], bilinear.

    Args:
      maps: of a method.
      inputs: what the network was given.

    Examples:
      >>> of_image_size(jnp.ones((2, 3, 3)), jnp.zeros((2, 9, 9, 3))).shape
      (2, 9, 9)
    """
    return resized(maps, images_of(inputs).shape[-3:-1])


@functools.partial(jax.jit, static_argnames=("model", "method"))
def maps_of(
    variables: Mapping[str, Any],
    inputs: NetworkInput,
    target: Target | ArrayLike,
    *,
    model: Model,
    method: Method,
) -> jax.Array:
    """Returns the maps of a method in the size of the images, float32 [B, H, W] or [B, V, H, W].

    It is compiled once for a network, a method and a shape, whatever the variables.

    Args:
      variables, inputs, target, model: as in `Method`.
      method: of explaining.
    """
    return of_image_size(method(model, variables, inputs, target), inputs)


def resized(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns maps [..., h, w] in another size, [..., *size], bilinear."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return jax.image.resize(maps, (*maps.shape[:-2], *size), "bilinear", antialias=False)


def by_view(maps: jax.Array, inputs: NetworkInput) -> jax.Array:
    """Returns maps of views, [B * V, h, w], as [B, V, h, w]; those of single images unchanged."""
    images = images_of(inputs)
    if images.ndim == 5:
        return jnp.reshape(maps, (*images.shape[:2], *maps.shape[1:]))
    return maps

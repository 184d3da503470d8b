"""Occlusion: how far the target falls when a window of the image is painted over."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
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

# Windows of the default size are this part of the shorter side.
_PART = 7


@dataclasses.dataclass(frozen=True)
class Occlusion(Method):
    """The mean fall of the target over all windows that hide a pixel (arXiv:1311.2901).

    A window is painted with the mean colour. It needs no gradient, and a forward pass for each
    window: 169 by default. Of several views one is painted at a time.

    Attributes:
      window: side of a window in pixels; 0 for a seventh of the image's shorter side.
      stride: pixels from one window to the next; 0 for half a window.
    """

    name: ClassVar[str] = "occlusion"
    title: ClassVar[str] = "occlusion"
    is_signed: ClassVar[bool] = True

    window: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        arguments.whole_number("window", self.window, least=0)
        arguments.whole_number("stride", self.stride, least=0)
        if self.window and self.stride > self.window:
            raise ValueError(
                f"the stride of {self.stride} pixels is more than the window of {self.window}, and "
                "would leave pixels that no window hides; expected at most the window"
            )

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the maps have the size of the images."""
        explained, images = as_target(target), images_of(inputs)
        places, window = self._places(images.shape)

        def score(shown: jax.Array) -> jax.Array:
            return explained.scores(outputs_of(model, variables, with_images(inputs, shown)))

        whole = score(images)

        def add(
            sums: tuple[jax.Array, jax.Array], place: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            total, count = sums
            hidden = _window(images.shape[1:-1], place, window)
            fall = whole - score(jnp.where(hidden[..., None], 0, images))
            return (total + jnp.multiply.outer(fall, hidden), count + hidden), None

        count = jnp.zeros(images.shape[1:-1], jnp.float32)
        total = jnp.zeros(images.shape[:-1], jnp.float32)
        (total, count), _ = jax.lax.scan(add, (total, count), jnp.asarray(places))
        return total / count

    def _places(self, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Returns the view, top and left of each window, int [P, 3], and the windows' side."""
        height, width = shape[-3:-1]
        window = self.window or max(round(min(height, width) / _PART), 1)
        if window > min(height, width):
            raise ValueError(
                f"the window of {window} pixels is larger than the images of {height} x {width}; "
                "expected a smaller one"
            )
        stride = self.stride or max(window // 2, 1)
        views = range(shape[1] if len(shape) == 5 else 1)
        tops, lefts = (
            [i * stride for i in range(1 + math.ceil((side - window) / stride))]
            for side in (height, width)
        )
        return np.array(list(itertools.product(views, tops, lefts)), np.int32), window


def _window(shape: tuple[int, ...], place: jax.Array, side: int) -> jax.Array:
    """Returns which pixels a window hides, bool [H, W], or [V, H, W] of views."""
    view, top, left = place
    rows, columns = (jnp.arange(length) for length in shape[-2:])
    hidden = ((rows >= top) & (rows < top + side))[:, None] & (
        (columns >= left) & (columns < left + side)
    )
    if len(shape) == 2:
        return hidden
    return hidden & (jnp.arange(shape[0]) == view)[:, None, None]

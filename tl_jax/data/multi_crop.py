"""Evaluation on several views of each image: crops, flips, scales, and the mean of the outputs."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp


def views(
    images: jax.Array,
    size: tuple[int, int],
    *,
    crops: Literal[1, 5] = 1,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> jax.Array:
    """Cuts several views out of each image. `crops=5, flip=True` is the 10-crop.

    Args:
      images: [B, H, W, C], normalised, larger than the views: see `Preprocess.uncropped`.
      size: height and width of a view.
      crops: 1 (the middle) or 5 (the corners, in the order of reading, and the middle).
      flip: the same crops again of the images flipped left and right.
      scales: factors by which the images are resized first (bicubic, antialiased).

    Returns:
      [views, B, *size, C] of the images' type: for each scale all crops, then those of the flipped
      images, as torchvision's `ten_crop` orders them.

    Raises:
      ValueError: if a scaled image is smaller than a view, there is no scale, or `crops` is
        neither 1 nor 5.

    Example:
      >>> many = views(images, (224, 224), crops=5, flip=True)            # doctest: +SKIP
      >>> logits = average(jax.lax.map(network, many))                    # doctest: +SKIP
    """
    if crops not in (1, 5) or not scales:
        raise ValueError(
            f"got crops={crops} and scales={scales}; expected 1 or 5 crops and at least one scale"
        )
    found = []
    for scale in scales:
        scaled = _scaled(images, scale)
        found += _crops(scaled, size, crops)
        found += _crops(scaled[:, :, ::-1], size, crops) if flip else []
    return jnp.stack(found)


def _scaled(images: jax.Array, scale: float) -> jax.Array:
    if scale == 1:
        return images
    count, height, width, channels = images.shape
    shape = (count, round(height * scale), round(width * scale), channels)
    resized = jax.image.resize(images.astype(jnp.float32), shape, "cubic", antialias=True)
    return resized.astype(images.dtype)


def _crops(images: jax.Array, size: tuple[int, int], crops: int) -> list[jax.Array]:
    """Returns the crops, at torchvision's places (`five_crop`)."""
    room = [have - want for have, want in zip(images.shape[1:3], size, strict=True)]
    if min(room) < 0:
        raise ValueError(
            f"got images of {images.shape[1]} x {images.shape[2]} pixels, scaled, for views of "
            f"{size[0]} x {size[1]}; expected images at least as large: give larger images, "
            "larger scales or smaller views"
        )
    middle = (round(room[0] / 2), round(room[1] / 2))
    corners = [(0, 0), (0, room[1]), (room[0], 0), (room[0], room[1])] if crops == 5 else []
    return [
        images[:, top : top + size[0], left : left + size[1]] for top, left in [*corners, middle]
    ]


def average(
    logits: jax.Array,
    *,
    of: Literal["probabilities", "logits"] = "probabilities",
    multi_label: bool = False,
) -> jax.Array:
    """Averages the outputs for the views of each image.

    Args:
      logits: [views, B, classes].
      of: what is averaged.
      multi_label: whether each class has a probability of its own (a sigmoid's), not a share of
        one (a softmax's).

    Returns:
      Logits [B, classes]: their softmax, or sigmoid, is the mean probability, or they are the mean
      logits.

    Raises:
      ValueError: if `of` is something else.
    """
    if of not in ("probabilities", "logits"):
        raise ValueError(f"got of={of!r}; expected 'probabilities' or 'logits'")
    if of == "logits":
        return logits.mean(axis=0)
    if multi_label:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))

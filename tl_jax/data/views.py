"""Evaluation on several views of each image: crops, flips, scales, and the mean of the outputs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from tl_jax.data.preprocess import Preprocess


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of each image a network is asked about; by default the one of `Preprocess`.

    `Views(crops=5, flip=True)` is the 10-crop.

    Raises:
      ValueError: on construction, if there are neither 1 nor 5 crops, no scale, or one that is
        not above 0.
    """

    crops: Literal[1, 5] = 1
    """The middle, or the four corners and the middle."""
    flip: bool = False
    """Also each crop of the image flipped left and right."""
    scales: tuple[float, ...] = (1.0,)
    """Factors by which the image is resized before it is cropped; each gives all crops."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over the views."""

    def __post_init__(self) -> None:
        if self.crops not in (1, 5) or not self.scales or min(self.scales) <= 0:
            raise ValueError(
                f"got crops={self.crops} and scales={self.scales}; expected 1 or 5 crops and at "
                "least one scale, all above 0"
            )
        _check_average("average", self.average)

    def __len__(self) -> int:
        return self.crops * (1 + self.flip) * len(self.scales)

    @property
    def cuts(self) -> bool:
        """Whether the views are more than the image as it is prepared, and its mirror image."""
        return self.crops > 1 or self.scales != (1.0,)

    def transform(self, preprocess: Preprocess) -> Preprocess:
        """Returns how images are prepared from which the views are cut.

        Raises:
          ValueError: if the crops would all be the same, or larger than a scaled image.
        """
        if not self.cuts:
            return preprocess
        whole = preprocess.uncropped()
        least, most = (
            tuple(round(side * scale) for side in whole.size)
            for scale in (min(self.scales), max(self.scales))
        )
        height, width = preprocess.size
        if least[0] < height or least[1] < width:
            raise ValueError(
                f"images resized to {whole.size[0]} x {whole.size[1]} pixels and scaled by "
                f"{min(self.scales):g} are smaller than the network's {height} x {width}; expected "
                "larger scales"
            )
        if self.crops > 1 and most == preprocess.size:
            raise ValueError(
                f"all {self.crops} crops would be the same: with crop_pct={preprocess.crop_pct:g} "
                f"nothing is cut off the images of {height} x {width} pixels; add a scale above 1"
            )
        return whole

    def logits(
        self, network: Callable[[jax.Array], jax.Array], images: jax.Array, size: tuple[int, int]
    ) -> jax.Array:
        """Returns the network's logits [B, classes], averaged over the views, one view at a time.

        Args:
          network: [B, *size, C] -> [B, classes].
          images: [B, H, W, C], prepared by `transform`, normalised.
          size: height and width that the network gets.
        """
        if len(self) == 1 and not self.cuts:
            return network(images)
        many = views(images, size, crops=self.crops, flip=self.flip, scales=self.scales)
        return average(jax.lax.map(network, many), of=self.average)


def _check_average(name: str, value: str) -> None:
    if value not in ("probabilities", "logits"):
        raise ValueError(f"got {name}={value!r}; expected 'probabilities' or 'logits'")


ONE_VIEW = Views()


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
      ValueError: if a scaled image is smaller than a view; as `Views`.

    Example:
      >>> many = views(images, (224, 224), crops=5, flip=True)            # doctest: +SKIP
      >>> logits = average(jax.lax.map(network, many))                    # doctest: +SKIP
    """
    Views(crops, flip, tuple(scales))  # Refuses what it does not take.
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
    _check_average("of", of)
    if of == "logits":
        return logits.mean(axis=0)
    if multi_label:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))

"""Evaluation on several views of each image: crops, flips, scales, and the mean output."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tl_jax.data.preprocess import Preprocess

Average = Literal["probabilities", "logits"]


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of each image a network evaluates; by default the one of `Preprocess`.

    `Views(crops=5, flip=True)` is the 10-crop.

    Raises:
      ValueError: on construction, if there are neither 1 nor 5 crops, no scale, or a scale of 0 or
        less.
    """

    crops: Literal[1, 5] = 1
    """1 is the middle, 5 are the four corners and the middle."""
    flip: bool = False
    """Whether each crop of the image flipped left and right is added."""
    scales: tuple[float, ...] = (1.0,)
    """Factors by which the image is resized before the crops are taken."""
    average: Average = "probabilities"
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
    def is_cropped(self) -> bool:
        """Whether any view differs from the image of `Preprocess` and its mirror image."""
        return self.crops > 1 or self.scales != (1.0,)

    def transform(self, preprocess: Preprocess) -> Preprocess:
        """Returns the preprocessing of the images that the views are cut from.

        Raises:
          ValueError: if the crops would all be the same, or larger than a scaled image.
        """
        if not self.is_cropped:
            return preprocess
        uncropped = preprocess.uncropped()
        smallest, largest = (
            tuple(round(side * scale) for side in uncropped.size)
            for scale in (min(self.scales), max(self.scales))
        )
        height, width = preprocess.size
        if smallest[0] < height or smallest[1] < width:
            raise ValueError(
                f"images resized to {uncropped.size[0]} x {uncropped.size[1]} pixels and scaled by "
                f"{min(self.scales):g} are smaller than the network's {height} x {width}; expected "
                "larger scales"
            )
        if self.crops > 1 and largest == preprocess.size:
            raise ValueError(
                f"all {self.crops} crops would be the same: with crop_pct={preprocess.crop_pct:g} "
                f"nothing is cut off the images of {height} x {width} pixels; add a scale above 1"
            )
        return uncropped

    def logits(
        self,
        network: Callable[[jax.Array], Any],
        images: jax.Array,
        size: tuple[int, int],
        *,
        average_fn: Callable[[Any, Average], Any] | None = None,
    ) -> Any:
        """Returns the network's logits [B, classes], averaged over the views, one view at a time.

        Args:
          network: [B, *size, C] -> [B, classes], or a tree of such outputs.
          images: [B, H, W, C], prepared by `transform`, normalised.
          size: height and width of a view.
          average_fn: averages outputs [views, B, ...] of another meaning, and is told what is
            averaged; None for the logits of classes.
        """
        if len(self) == 1 and not self.is_cropped:
            return network(images)
        batches = views(images, size, crops=self.crops, flip=self.flip, scales=self.scales)
        outputs = jax.lax.map(network, batches)
        return (
            average_fn(outputs, self.average) if average_fn else average(outputs, of=self.average)
        )


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
      crops: 1 (the centre) or 5 (the corners, in reading order, and the centre).
      flip: whether to add the same crops of the images flipped left and right.
      scales: factors by which the images are resized first (bicubic, antialiased).

    Returns:
      [views, B, *size, C] of the images' type: for each scale all crops, then those of the flipped
      images, as torchvision's `ten_crop` orders them.

    Raises:
      ValueError: if a scaled image is smaller than a view; as `Views`.

    Examples:
      >>> views(jnp.zeros((2, 10, 10, 3)), (8, 8), crops=5, flip=True).shape
      (10, 2, 8, 8, 3)
    """
    Views(crops, flip, tuple(scales))  # Checks the values.
    batches = []
    for scale in scales:
        scaled = _resize(images, scale)
        batches += _crop(scaled, size, crops)
        if flip:
            batches += _crop(scaled[:, :, ::-1], size, crops)
    return jnp.stack(batches)


def _resize(images: jax.Array, scale: float) -> jax.Array:
    if scale == 1:
        return images
    count, height, width, channels = images.shape
    shape = (count, round(height * scale), round(width * scale), channels)
    resized = jax.image.resize(images.astype(jnp.float32), shape, "cubic", antialias=True)
    return resized.astype(images.dtype)


def _crop(images: jax.Array, size: tuple[int, int], crops: int) -> list[jax.Array]:
    """Returns the crops, at the places of torchvision's `five_crop`."""
    height, width = size
    rows, columns = images.shape[1] - height, images.shape[2] - width
    if min(rows, columns) < 0:
        raise ValueError(
            f"got images of {images.shape[1]} x {images.shape[2]} pixels, after scaling, for views "
            f"of {height} x {width}; expected images at least as large: give larger images, larger "
            "scales or smaller views"
        )
    places = [(0, 0), (0, columns), (rows, 0), (rows, columns)] if crops == 5 else []
    places.append((round(rows / 2), round(columns / 2)))
    return [images[:, top : top + height, left : left + width] for top, left in places]


def average(
    logits: jax.Array,
    *,
    of: Average = "probabilities",
    multi_label: bool = False,
) -> jax.Array:
    """Averages the outputs for the views of each image.

    Args:
      logits: [views, B, classes].
      of: what is averaged.
      multi_label: whether the probabilities are a sigmoid of each logit, rather than a softmax.

    Returns:
      Logits [B, classes]: the mean logits, or the logits whose softmax (sigmoid) is the mean of the
      probabilities.

    Raises:
      ValueError: if `of` has another value.
    """
    _check_average("of", of)
    if of == "logits":
        return logits.mean(axis=0)
    if multi_label:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))

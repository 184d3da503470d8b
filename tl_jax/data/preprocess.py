"""Evaluation preprocessing, equal to timm's own transform for the model."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax.weights.index import PretrainedConfig

if TYPE_CHECKING:
    from tl_jax.data.images.decode import ImageLike

# Pillow is imported by the functions that resize: a machine that only runs steps may not have it.

# The names that timm and Pillow use; the weights of the index use the first two.
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an image is prepared for a network, in timm's terms.

    Attributes:
      size: height and width of the result.
      crop_pct: side of the crop over side of the resized image, in (0, 2]; above 1 the resized
        image is smaller than the crop and is padded with black.
      crop_mode: "center" resizes the short side and crops the centre, "squash" resizes both sides,
        "border" resizes the long side and pads with the mean colour.
      interpolation: "bicubic", "bilinear", "lanczos", "hamming" or "box", antialiased, or
        "nearest".
      mean, std: of the channels, for values in [0, 1]; three, or one for gray images.

    Raises:
      ValueError: on construction, if a field has another value.
    """

    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS or self.crop_mode not in CROP_MODES:
            raise ValueError(
                f"got interpolation {self.interpolation!r} and crop mode {self.crop_mode!r}; "
                f"expected one of {', '.join(INTERPOLATIONS)} and one of {', '.join(CROP_MODES)}"
            )
        if not 0 < self.crop_pct <= 2 or min(self.size) < 1:
            raise ValueError(
                f"got crop_pct={self.crop_pct} and size={self.size}; expected 0 < crop_pct <= 2 "
                "(a share, not a percentage) and sides of at least one pixel"
            )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(
                f"got mean={self.mean} and std={self.std}; expected three values each, one "
                "per channel, or one each for gray images"
            )

    @classmethod
    def of(
        cls, config: PretrainedConfig, *, input_size: int | tuple[int, int] | None = None
    ) -> "Preprocess":
        """Returns the preprocessing that pretrained weights were trained for.

        Args:
          config: entry of the weight index.
          input_size: side, or height and width, to use in place of the weights' own.
        """
        size = config.input_size[1:] if input_size is None else input_size
        return cls(
            size=(size, size) if isinstance(size, int) else (size[0], size[1]),
            crop_pct=config.crop_pct,
            crop_mode=config.crop_mode,
            interpolation=config.interpolation,
            mean=tuple(config.mean),
            std=tuple(config.std),
        )

    @property
    def canvas(self) -> int:
        """Side of the square canvas that training crops are cut from: the resized longer side."""
        return round(max(self.size) / min(self.crop_pct, 1))

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for gray."""
        return len(self.mean)

    def uncropped(self) -> "Preprocess":
        """Returns the transform without its final crop, for `tl_jax.data.views.views` to cut from.

        The centre of its image is the result of this transform, shifted by one pixel if the
        margins on two opposite sides differ.
        """
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        return dataclasses.replace(self, size=(height, width), crop_pct=1.0)

    def departures(self, trained: PretrainedConfig) -> list[str]:
        """Lists how this transform differs from the one that weights were trained with.

        Args:
          trained: entry of the weight index.

        Returns:
          A sentence for each difference, for a warning; an empty list if there is none.

        Examples:
          >>> from tl_jax import pretrained_config
          >>> weights = pretrained_config("resnet50")
          >>> Preprocess.of(weights, input_size=96).departures(weights)
          ['96 x 96 pixels, where the weights were trained with 224 x 224 pixels']
        """
        pairs = zip(self._describe(), Preprocess.of(trained)._describe(), strict=True)
        return [
            f"{ours}, where the weights were trained with {theirs}"
            for ours, theirs in pairs
            if ours != theirs
        ]

    def _describe(self) -> list[str]:
        """Describes each property that a network may be sensitive to, always in the same order."""
        height, width = self.size
        return [
            f"{height} x {width} pixels",
            f"the mean {', '.join(f'{value:g}' for value in self.mean)}",
            f"the standard deviation {', '.join(f'{value:g}' for value in self.std)}",
            f"{self.interpolation} interpolation",
            f"a crop of {self.crop_pct:g} of the side",
            f"the crop mode {self.crop_mode!r}",
        ]


def normalize(images: ArrayLike, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Scales pixels to [0, 1], subtracts the mean and divides by the standard deviation.

    Args:
      images: [..., channels], values in [0, 255], of any type.
      mean, std: of each channel, for values in [0, 1].

    Returns:
      float32 of the same shape.
    """
    values = jnp.asarray(images, jnp.float32) / 255
    return (values - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def preprocess(images: Sequence["ImageLike"], config: Preprocess | PretrainedConfig) -> jax.Array:
    """Prepares images for a network: resized, cropped and normalised.

    Args:
      images: paths, Pillow images or uint8 arrays ([H, W] or [H, W, 1, 3 or 4]), of any sizes.
      config: a `Preprocess`, or an entry of the weight index.

    Returns:
      float32 [len(images), height, width, channels].

    Raises:
      CorruptImageError, FileNotFoundError, TypeError, ValueError: as `decode.as_rgb`; ValueError
        if `images` is empty.

    Examples:
      >>> photo = np.zeros((30, 40, 3), np.uint8)
      >>> preprocess([photo], Preprocess(size=(16, 16))).shape
      (1, 16, 16, 3)
    """
    if isinstance(images, str) or len(images) == 0:
        raise ValueError(f"got {images!r}; expected a list of at least one image")
    if not isinstance(config, Preprocess):
        config = Preprocess.of(config)
    return normalize(
        np.stack([eval_image(image, config) for image in images]), config.mean, config.std
    )


def eval_image(image: "ImageLike", config: Preprocess) -> np.ndarray:
    """Resizes and crops one image to uint8 [height, width, channels], as timm does.

    Source: `transforms_imagenet_eval` in timm/data/transforms_factory.py; the resize is Pillow's.
    """
    from PIL import Image

    from tl_jax.data.images.decode import as_rgb

    picture = as_rgb(image) if config.channels == 3 else as_rgb(image).convert("L")
    resample = Image.Resampling[config.interpolation.upper()]
    resized = picture.resize(_resized_size(picture.width, picture.height, config), resample)
    pixels = np.asarray(resized).reshape(resized.height, resized.width, config.channels)
    fill = [round(255 * value) if config.crop_mode == "border" else 0 for value in config.mean]
    return _center_crop(pixels, config.size, fill)


def _resized_size(width: int, height: int, config: Preprocess) -> tuple[int, int]:
    """Returns Pillow's (width, height) of an image after the resize."""
    target_height, target_width = (math.floor(side / config.crop_pct) for side in config.size)
    if config.crop_mode == "squash":
        return target_width, target_height
    if config.crop_mode == "center" and target_height == target_width:
        # torchvision's Resize truncates the longer side, where timm's ResizeKeepRatio rounds.
        if width <= height:
            return target_width, int(target_width * height / width)
        return int(target_height * width / height), target_height
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if config.crop_mode == "border" else min(ratios)
    return round(width / ratio), round(height / ratio)


def _center_crop(image: np.ndarray, size: tuple[int, int], fill: Sequence[int]) -> np.ndarray:
    """Crops the centre, with torchvision's rounding; pads a smaller image with `fill` first."""
    height, width, channels = image.shape
    missing_rows, missing_columns = max(size[0] - height, 0), max(size[1] - width, 0)
    if missing_rows or missing_columns:
        padded = np.empty((height + missing_rows, width + missing_columns, channels), np.uint8)
        padded[:] = fill
        top, left = missing_rows // 2, missing_columns // 2
        padded[top : top + height, left : left + width] = image
        image = padded
    top, left = (round((image.shape[axis] - size[axis]) / 2) for axis in (0, 1))
    return image[top : top + size[0], left : left + size[1]]

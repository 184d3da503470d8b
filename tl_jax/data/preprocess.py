"""Evaluation preprocessing on the host, equal to timm's own transform for the model."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from tl_jax.data import decode
from tl_jax.data.augment import normalize
from tl_jax.weights.index import PretrainedConfig

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_CROP_MODES = ("center", "squash", "border")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What is done to an image before a network sees it, in timm's terms.

    Attributes:
      size: height and width that the network gets.
      crop_pct: the crop's share of the resized image's side, in (0, 1].
      crop_mode: "center" resizes the short side and cuts the middle out, "squash" resizes both
        sides, "border" resizes the long side and fills with the mean colour.
      interpolation: "bicubic" or "bilinear", antialiased.
      mean, std: of the channels, for values in [0, 1].

    Raises:
      ValueError: on construction, if a field has no such value.
    """

    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS or self.crop_mode not in _CROP_MODES:
            raise ValueError(
                f"got interpolation {self.interpolation!r} and crop mode {self.crop_mode!r}; "
                f"expected one of {', '.join(_FILTERS)} and one of {', '.join(_CROP_MODES)}"
            )
        if not 0 < self.crop_pct <= 1 or min(self.size) < 1:
            raise ValueError(
                f"got crop_pct={self.crop_pct} and size={self.size}; expected 0 < crop_pct <= 1 "
                "and sides of at least one pixel"
            )

    @classmethod
    def of(
        cls, config: PretrainedConfig, *, input_size: int | tuple[int, int] | None = None
    ) -> "Preprocess":
        """Returns the preprocessing that goes with pretrained weights.

        Args:
          config: entry of the weight index, or anything with these fields: input_size
            (channels, height, width), crop_pct, crop_mode, interpolation, mean, std.
          input_size: side, or height and width, instead of the weights' own.
        """
        size = tuple(config.input_size[-2:]) if input_size is None else input_size
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
        return round(max(self.size) / self.crop_pct)


def preprocess(
    images: Sequence[decode.ImageLike], config: Preprocess | PretrainedConfig
) -> jax.Array:
    """Prepares images for a network: resized, cropped and normalised.

    Args:
      images: paths, Pillow images or uint8 arrays ([H, W] or [H, W, 1, 3 or 4]), of any sizes.
      config: a `Preprocess`, or an entry of the weight index.

    Returns:
      float32 [len(images), height, width, 3].

    Raises:
      CorruptImageError, FileNotFoundError, TypeError, ValueError: as `decode.as_rgb`; ValueError
        if `images` is empty.
    """
    if isinstance(images, str) or len(images) == 0:
        raise ValueError(f"got {images!r}; expected a list of at least one image")
    how = config if isinstance(config, Preprocess) else Preprocess.of(config)
    return normalize(np.stack([eval_image(image, how) for image in images]), how.mean, how.std)


def eval_image(image: decode.ImageLike, config: Preprocess) -> np.ndarray:
    """Resizes and crops one image to uint8 [height, width, 3], as timm does for evaluation.

    Source: `transforms_imagenet_eval` in timm/data/transforms_factory.py; the resize is Pillow's.
    """
    rgb = decode.as_rgb(image)
    width, height = _resized(rgb.size, config)
    resized = rgb.resize((width, height), _FILTERS[config.interpolation])
    border = config.crop_mode == "border"
    fill = tuple(round(255 * value) for value in config.mean) if border else (0, 0, 0)
    return _center(np.asarray(resized), config.size, fill)


def canvas_image(image: decode.ImageLike, canvas: int) -> np.ndarray:
    """Stretches one image, antialiased, to the uint8 [canvas, canvas, 3] of training."""
    rgb = decode.as_rgb(image)
    return np.asarray(rgb.resize((canvas, canvas), Image.Resampling.BICUBIC))


def _resized(size: tuple[int, int], config: Preprocess) -> tuple[int, int]:
    """Returns width and height after the resize; `size` is Pillow's (width, height)."""
    width, height = size
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


def _center(image: np.ndarray, size: tuple[int, int], fill: tuple[int, ...]) -> np.ndarray:
    """Cuts the middle out, with torchvision's rounding; what is too small is filled up first."""
    missing = [max(want - have, 0) for want, have in zip(size, image.shape, strict=False)]
    if any(missing):
        (top, bottom), (left, right) = ((m // 2, (m + 1) // 2) for m in missing)
        padded = np.empty(
            (image.shape[0] + top + bottom, image.shape[1] + left + right, 3), np.uint8
        )
        padded[:] = fill
        padded[top : top + image.shape[0], left : left + image.shape[1]] = image
        image = padded
    top, left = (round((have - want) / 2) for want, have in zip(size, image.shape, strict=False))
    return image[top : top + size[0], left : left + size[1]]

"""Evaluation preprocessing on the host, equal to timm's own transform for the model."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from tl_jax.data.augment.augment import normalize
from tl_jax.data.images import decode
from tl_jax.weights.index import PretrainedConfig

# What timm and Pillow know; the weights of the index use the first two.
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_CROP_MODES = ("center", "squash", "border")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What is done to an image before a network sees it, in timm's terms.

    Attributes:
      size: height and width that the network gets.
      crop_pct: the crop's share of the resized image's side, in (0, 2]; above 1 the resized image
        is smaller than the crop, and black is around it.
      crop_mode: "center" resizes the short side and cuts the middle out, "squash" resizes both
        sides, "border" resizes the long side and fills with the mean colour.
      interpolation: "bicubic", "bilinear", "lanczos", "hamming" or "box", antialiased, or
        "nearest".
      mean, std: of the channels, for values in [0, 1]; three, or one for gray images.

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
        if not 0 < self.crop_pct <= 2 or min(self.size) < 1:
            raise ValueError(
                f"got crop_pct={self.crop_pct} and size={self.size}; expected 0 < crop_pct <= 2 "
                "(a share, not a percentage) and sides of at least one pixel"
            )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(
                f"got mean={self.mean} and std={self.std}; expected one value each for each of "
                "three channels, or of one"
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
        return round(max(self.size) / min(self.crop_pct, 1))

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for gray."""
        return len(self.mean)

    def uncropped(self) -> "Preprocess":
        """Returns the transform without the last crop: what `multi_crop.views` is cut from.

        The middle of its image is this transform's, or one pixel beside it if the margins that
        are cut off differ.
        """
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        return dataclasses.replace(self, size=(height, width), crop_pct=1.0)

    def departures(self, trained: PretrainedConfig) -> list[str]:
        """Says in what this transform differs from that which weights were trained with.

        Args:
          trained: entry of the weight index, or anything with its fields, as for `of`.

        Returns:
          A sentence for each difference, for a warning; none where all is alike.

        Example:
          >>> weights = pretrained_config("resnet50")
          >>> Preprocess.of(weights, input_size=96).departures(weights)
          ['96 x 96 pixels, where the weights were trained with 224 x 224 pixels']
        """
        own, theirs = _facts(self), _facts(Preprocess.of(trained))
        return [
            f"{own[fact]}, where the weights were trained with {theirs[fact]}"
            for fact in own
            if own[fact] != theirs[fact]
        ]


def preprocess(
    images: Sequence[decode.ImageLike], config: Preprocess | PretrainedConfig
) -> jax.Array:
    """Prepares images for a network: resized, cropped and normalised.

    Args:
      images: paths, Pillow images or uint8 arrays ([H, W] or [H, W, 1, 3 or 4]), of any sizes.
      config: a `Preprocess`, or an entry of the weight index.

    Returns:
      float32 [len(images), height, width, channels].

    Raises:
      CorruptImageError, FileNotFoundError, TypeError, ValueError: as `decode.as_rgb`; ValueError
        if `images` is empty.
    """
    if isinstance(images, str) or len(images) == 0:
        raise ValueError(f"got {images!r}; expected a list of at least one image")
    how = config if isinstance(config, Preprocess) else Preprocess.of(config)
    return normalize(np.stack([eval_image(image, how) for image in images]), how.mean, how.std)


def eval_image(image: decode.ImageLike, config: Preprocess) -> np.ndarray:
    """Resizes and crops one image to uint8 [height, width, channels], as timm for evaluation.

    Source: `transforms_imagenet_eval` in timm/data/transforms_factory.py; the resize is Pillow's.
    """
    rgb = decode.as_rgb(image)
    whole = rgb if config.channels == 3 else rgb.convert("L")
    resized = whole.resize(_resized(whole.size, config), _FILTERS[config.interpolation])
    pixels = np.asarray(resized).reshape(resized.height, resized.width, config.channels)
    border = config.crop_mode == "border"
    fill = [round(255 * value) if border else 0 for value in config.mean]
    return _center(pixels, config.size, fill)


def _facts(config: Preprocess) -> dict[str, str]:
    """Returns what a network may be sensitive to, in words."""
    height, width = config.size
    return {
        "size": f"{height} x {width} pixels",
        "mean": f"the mean {_listed(config.mean)}",
        "std": f"the standard deviation {_listed(config.std)}",
        "interpolation": f"{config.interpolation} interpolation",
        "crop_pct": f"a crop of {config.crop_pct:g} of the side",
        "crop_mode": f"the crop mode {config.crop_mode!r}",
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


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


def _center(image: np.ndarray, size: tuple[int, int], fill: Sequence[int]) -> np.ndarray:
    """Cuts the middle out, with torchvision's rounding; what is too small is filled up first."""
    missing = [max(want - have, 0) for want, have in zip(size, image.shape, strict=False)]
    if any(missing):
        (top, bottom), (left, right) = ((m // 2, (m + 1) // 2) for m in missing)
        height, width, channels = image.shape
        padded = np.empty((height + top + bottom, width + left + right, channels), np.uint8)
        padded[:] = fill
        padded[top : top + height, left : left + width] = image
        image = padded
    top, left = (round((have - want) / 2) for want, have in zip(size, image.shape, strict=False))
    return image[top : top + size[0], left : left + size[1]]

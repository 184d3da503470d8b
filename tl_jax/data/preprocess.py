"""Evaluation preprocessing, equal to timm's own transform for the model."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax import arguments, files
from tl_jax.data.source import INPUT_KEYS
from tl_jax.weights.index import PretrainedConfig

if TYPE_CHECKING:
    from PIL import Image

    from tl_jax.data.images.decode import ImageLike

# Pillow is imported by the functions that resize: a machine that only runs steps may not have it.

NetworkInput = Any
"""An array of images, or a dict of arrays where a batch holds more; see `network_input`."""

# The names that timm and Pillow use; the weights of the index use the first two.
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
# Above this many times the pixels of the crop the resized image is never made as a whole.
_MAX_RESIZED = 32
_FILTER_REACH = 4  # Pixels of the smaller side of the two; Lanczos, the widest filter, takes 3.
_MAX_CHANNELS = 8


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
      value_range: the values of black and white in images of more than 8 bits or of floats; None
        for what the files say. Images of 8 bits are 0 to 255 always.

    Raises:
      ValueError: on construction, if a field has another value.
    """

    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    value_range: tuple[float, float] | None = None

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
        if self.value_range is not None:
            from tl_jax.data.images.values import check_range

            check_range(self.value_range)

    @classmethod
    def of(
        cls, config: PretrainedConfig, *, input_size: int | tuple[int, int] | None = None
    ) -> "Preprocess":
        """Returns the preprocessing that pretrained weights were trained for.

        Args:
          config: entry of the weight index.
          input_size: side, or height and width, to use in place of the weights' own.
        """
        if not isinstance(config, PretrainedConfig):
            advice = (
                f"pretrained_config({config!r})"
                if isinstance(config, str)
                else (
                    "pretrained_config(name) returns it for a name, Preprocess(...) makes another"
                )
            )
            raise TypeError(
                f"expected the configuration of weights, but got {arguments.kind(config)}: {advice}"
            )
        if config.input_size[0] not in (1, 3):
            raise ValueError(
                f"the weights {config.name} are for images of {config.input_size[0]} channels, and "
                "images are read as RGB or gray; apply the network to arrays of your own: "
                "model.apply(variables, images)"
            )
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


def evaluation_input(
    batch: Mapping[str, jax.Array], mean: Sequence[float], std: Sequence[float]
) -> NetworkInput:
    """Turns a batch of evaluation into the network's input: images normalised, the rest as it is.

    Args:
      batch: `image` uint8 [B, H, W, C], or with views [B, V, H, W, C], prepared by the evaluation
        transform; and the other keys of `Inputs`, if there are any.
      mean, std: of the channels, on the scale where white is 1.

    Examples:
      >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "label": jnp.zeros(2, jnp.int32)}
      >>> evaluation_input(batch, (0.5,) * 3, (0.5,) * 3).shape
      (2, 8, 8, 3)
    """
    return network_input(normalize(batch["image"], mean, std), batch)


def network_input(images: jax.Array, batch: Mapping[str, jax.Array]) -> NetworkInput:
    """Joins the images of a batch with what it holds beside them.

    Args:
      images: float [B, H, W, C], or with views [B, V, H, W, C], normalised.
      batch: what was read. Only `view_mask` and the keys of `Inputs` are used.

    Returns:
      The images, where there is nothing else; otherwise a dict of them as `image`, of `view_mask`
      bool [B, V] if there are views, and of `numeric`, `categorical`, `tokens` and `vector` as far
      as the batch has them. The pixels of a missing view are 0, the mean colour.
    """
    others = {key: batch[key] for key in INPUT_KEYS if key in batch}
    if images.ndim == 5:
        mask = batch["view_mask"]
        images = jnp.where(mask[:, :, None, None, None], images, 0)
        return {"image": images, "view_mask": mask, **others}
    return {"image": images, **others} if others else images


def preprocess(
    images: "ImageLike | Iterable[ImageLike]",
    config: Preprocess | PretrainedConfig,
    *,
    value_range: tuple[float, float] | None = None,
) -> jax.Array:
    """Prepares images for a network: resized, cropped and normalised.

    Args:
      images: a list of images, or a single one, in the forms of `as_images`, of any sizes.
      config: a `Preprocess`, or an entry of the weight index.
      value_range: the values of black and white in images of more than 8 bits and in arrays that
        are not uint8, such as (0, 1); the default is that of `config`.

    Returns:
      float32 [number of images, height, width, channels]; one for a single image.

    Raises:
      CorruptImageError, FileNotFoundError, TypeError, ValueError: as `decode.as_rgb` and
        `as_images`.

    Examples:
      >>> photo = np.zeros((30, 40, 3), np.uint8)
      >>> preprocess([photo, photo], Preprocess(size=(16, 16))).shape
      (2, 16, 16, 3)
      >>> preprocess(photo / 255, Preprocess(size=(16, 16)), value_range=(0, 1)).shape
      (1, 16, 16, 3)
    """
    if not isinstance(config, Preprocess):
        config = Preprocess.of(config)
    if value_range is not None:
        config = dataclasses.replace(config, value_range=value_range)
    prepared = [eval_image(image, config) for image in as_images(images)]
    return normalize(np.stack(prepared), config.mean, config.std)


def as_images(images: "ImageLike | Iterable[ImageLike]") -> "list[ImageLike]":
    """Returns a list of images, of a single one too.

    Args:
      images: a path, the bytes of a file, a Pillow image; an array of one image, [H, W] or
        [H, W, 1, 3 or 4], or of several, [N, H, W] or [N, H, W, 1, 3 or 4]; or a list of these,
        each of one image. Arrays are NumPy's, or others that NumPy can read.

    Raises:
      ValueError: if there is no image, or an array has another shape.
      TypeError: if it is none of these.
    """
    from PIL import Image

    if isinstance(images, str | Path):
        return [files.user_path(images)]
    if isinstance(images, bytes | Image.Image):
        return [images]
    if hasattr(images, "__array__"):
        return _split_batch(np.asarray(images))
    if not isinstance(images, Iterable):
        raise TypeError(
            f"got images of type {type(images).__name__}; expected paths, Pillow images or arrays"
        )
    listed: list[ImageLike] = [
        files.user_path(each) if isinstance(each, str | Path) else each for each in images
    ]
    if not listed:
        raise ValueError("got no image; expected at least one")
    return listed


def _split_batch(array: np.ndarray) -> "list[ImageLike]":
    """Returns the images of an array of one image or of several."""
    shape, channels = array.shape, (1, 3, 4)
    is_image = array.ndim == 2 or (array.ndim == 3 and shape[-1] in channels)
    channels_first = array.ndim in (3, 4) and shape[-1] not in channels and shape[-3] in channels
    # Gray images of a few columns are more likely one image of an odd number of channels.
    is_gray_batch = array.ndim == 3 and shape[-1] > _MAX_CHANNELS
    is_batch = is_gray_batch or (array.ndim == 4 and shape[-1] in channels)
    if 0 in shape or channels_first or not (is_image or is_batch):
        order = "1, 2, 0" if array.ndim == 3 else "0, 2, 3, 1"
        remedies = []
        if channels_first:
            remedies.append(f"move the channels to the end, images.transpose({order})")
        if array.ndim == 3 and array.size:
            remedies.append("write several gray images as images[..., None]")
        raise ValueError(
            f"got an array of shape {shape}; expected one image, [H, W] or [H, W, 1, 3 or 4], or "
            f"several, [N, H, W] or [N, H, W, 1, 3 or 4]{': ' * bool(remedies)}"
            f"{', or '.join(remedies)}"
        )
    return [array] if is_image else list(array)


def eval_image(image: "ImageLike", config: Preprocess) -> np.ndarray:
    """Resizes and crops one image to uint8 [height, width, channels], as timm does.

    Source: `transforms_imagenet_eval` in timm/data/transforms_factory.py; the resize is Pillow's.
    An image so long and narrow that resizing it whole would take much memory is only resized where
    it is cropped; values may then differ by one level of 255.
    """
    from tl_jax.data.images.decode import as_rgb

    rgb = as_rgb(image, config.value_range)
    if config.channels == 1:
        rgb = rgb.convert("L")
    resized = _resize(rgb, config)
    pixels = np.asarray(resized).reshape(resized.height, resized.width, config.channels)
    fill = [round(255 * value) if config.crop_mode == "border" else 0 for value in config.mean]
    return _center_crop(pixels, config.size, fill)


def _resize(image: "Image.Image", config: Preprocess) -> "Image.Image":
    """Returns the resized image, or at least its centre of the size of the crop."""
    from PIL import Image

    resample = Image.Resampling[config.interpolation.upper()]
    width, height = _resized_size(*image.size, config)
    rows, columns = config.size
    if width * height <= _MAX_RESIZED * rows * columns:
        return image.resize((width, height), resample)
    left, right = _kept(width, columns, image.width)
    top, bottom = _kept(height, rows, image.height)
    # Pillow resizes the rows first, and for a box it may not: so each direction is one call, of no
    # more rows than the filter reaches.
    reach = _FILTER_REACH * max(image.height / height, 1)
    first, last = max(math.floor(top - reach), 0), min(math.ceil(bottom + reach), image.height)
    strip = image.crop((0, first, image.width, last))
    across = (left, 0, right, strip.height)
    narrow = strip.resize((min(width, columns), strip.height), resample, across)
    down = (0, top - first, narrow.width, bottom - first)
    return narrow.resize((narrow.width, min(height, rows)), resample, down)


def _kept(side: int, crop: int, source_side: int) -> tuple[float, float]:
    """Returns where the crop of a resized side begins and ends in the source, in its pixels."""
    start = max(round((side - crop) / 2), 0)
    end = start + min(side, crop)
    scale = source_side / side
    return start * scale, min(end * scale, source_side)


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
    return max(round(width / ratio), 1), max(round(height / ratio), 1)


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

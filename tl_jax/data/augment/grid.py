"""Draws a grid of images, each beside augmented versions of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tl_jax import files

_GAP = 4
_WHITE = 255


def draw_grid(
    images: Sequence[np.ndarray],
    augmented: np.ndarray,
    path: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Draws a row for each image: the original first, then its augmented versions.

    Args:
      images: the originals, uint8 [height, width, 3], of any sizes; each is fitted into a cell.
      augmented: [images, versions, height, width, 3 or 1], as the network gets them; the
        normalisation is taken back, and values outside [0, 255] are clipped.
      path: PNG file to write; its folder is created.
      mean, std: of the normalisation.

    Raises:
      ValueError: if there are no images, or a different number of rows of augmented ones.
    """
    from PIL import Image

    if len(images) == 0 or augmented.ndim != 5 or len(images) != len(augmented):
        raise ValueError(
            f"got {len(images)} images and augmented ones of shape {augmented.shape}; expected one "
            "image or more, and augmented ones [images, versions, height, width, channels]"
        )
    pixels = denormalize(augmented, mean, std)
    rows, columns, height, width, _ = pixels.shape
    shape = (rows, height + _GAP, columns + 1, width + _GAP, 3)
    sheet = np.full(shape, _WHITE, np.uint8)
    for row, original in enumerate(images):
        sheet[row, :height, 0, :width] = _fit(original, (height, width))
    sheet[:, :height, 1:, :width] = pixels.transpose(0, 2, 1, 3, 4)
    flat = sheet.reshape(rows * (height + _GAP), (columns + 1) * (width + _GAP), 3)
    with files.replacing(files.user_path(path)) as part:
        Image.fromarray(flat[:-_GAP, :-_GAP]).save(part, format="PNG")


def denormalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Returns normalised images [..., channels] as uint8 pixels, rounded and clipped."""
    values = np.asarray(images, np.float32) * np.asarray(std, np.float32) + np.asarray(mean)
    return np.clip(np.round(255 * values), 0, 255).astype(np.uint8)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image to fit into a cell, with white around it."""
    from PIL import Image

    height, width = size
    factor = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(1, round(side * factor)) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
    cell = np.full((height, width, 3), _WHITE, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    cell[top : top + rows, left : left + columns] = np.asarray(resized)
    return cell

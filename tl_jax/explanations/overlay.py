"""Pictures of explanations: a map over its image, and a table of all images and methods."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_jax import files
from tl_jax.explanations.explain import Explanation
from tl_jax.explanations.methods import METHODS
from tl_jax.run.plots import names_as_they_are, shortened

_DPI = 120
_ROWS = 20  # Of a picture; more images make more pictures.
_SIDE = 2.1  # Of a tile, in inches.
_LONGEST_NAME = 30
_GRAY = np.array([0.299, 0.587, 0.114])
# A few pixels with far larger values than all others would leave the rest invisible.
_LARGEST = 0.97
_OPACITY = 0.85


def scaled(values: np.ndarray, *, is_signed: bool) -> np.ndarray:
    """Returns a map on the scale of a picture: 0 to 1, or -1 to 1; its largest three percent are 1.

    Args:
      values: float [H, W].
      is_signed: whether values below 0 are kept.

    Examples:
      >>> scaled(np.array([[0.0, -1.0], [2.0, 4.0]]), is_signed=True).round(1).tolist()
      [[0.0, -0.3], [0.5, 1.0]]
    """
    values = np.nan_to_num(values if is_signed else np.maximum(values, 0))
    largest = np.quantile(np.abs(values), _LARGEST) or np.abs(values).max() or 1.0
    return np.clip(values / largest, -1, 1)


def blended(image: np.ndarray, values: np.ndarray, *, is_signed: bool = False) -> np.ndarray:
    """Returns an image in gray with a map over it: the more it says, the more colour.

    Args:
      image: uint8 [H, W, C], of 3 channels or 1.
      values: float [H, W], of `Explanation.maps`.
      is_signed: whether values below 0 speak against the target; they are drawn blue, those above
        0 red. Otherwise colours go from violet to yellow.

    Returns:
      uint8 [H, W, 3].

    Examples:
      >>> blended(np.zeros((2, 2, 3), np.uint8), np.array([[0.0, 0.0], [0.0, 1.0]])).shape
      (2, 2, 3)
    """
    share = scaled(values, is_signed=is_signed)
    name = "coolwarm" if is_signed else "inferno"
    colours = matplotlib.colormaps[name]((share + 1) / 2 if is_signed else 0.15 + 0.8 * share)
    gray = image @ _GRAY if image.shape[-1] == 3 else image[..., 0]
    opacity = _OPACITY * np.abs(share)[..., None]
    mixed = (1 - opacity) * gray[..., None] + opacity * 255 * colours[..., :3]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def tiles(explanation: Explanation) -> list[dict[str, np.ndarray]]:
    """Returns the pictures of an explanation, uint8 [H, W, 3]: of each view, by method.

    The first of each is the image itself, under "".
    """
    images, maps = explanation.image, explanation.maps
    if images.ndim == 3:
        images, maps = images[None], {name: values[None] for name, values in maps.items()}
    return [
        {
            "": np.broadcast_to(image, (*image.shape[:2], 3)),
            **{
                name: blended(image, values[view], is_signed=_is_signed(name))
                for name, values in maps.items()
            },
        }
        for view, image in enumerate(images)
    ]


@names_as_they_are()
def draw(explanations: Sequence[Explanation], path: Path) -> list[Path]:
    """Draws explanations as PNG: in each row an image, or a view of an object, and its maps.

    Args:
      explanations: of the same methods.
      path: file to write; of more than 20 rows the others are `NAME-2.png` and so on.

    Returns:
      The files that were written.
    """
    rows = [
        (explanation if view == 0 else None, explanation.paths[view : view + 1], of_view)
        for explanation in explanations
        for view, of_view in enumerate(tiles(explanation))
    ]
    written = []
    for page in range(math.ceil(len(rows) / _ROWS)):
        part = rows[page * _ROWS : (page + 1) * _ROWS]
        name = path if page == 0 else path.with_name(f"{path.stem}-{page + 1}{path.suffix}")
        columns = list(part[0][2])
        height, width = part[0][2][""].shape[:2]
        size = _SIDE * len(columns), (_SIDE * height / width + 0.25) * len(part) + 0.3
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(part), len(columns), squeeze=False)
        for row, (explanation, paths, of_view) in zip(axes, part, strict=True):
            _draw_row(row, explanation, paths, of_view)
        for above, method in zip(axes[0, 1:], columns[1:], strict=True):
            above.set_title(_title(method), fontsize=8)
        with files.replacing(name) as temporary:
            figure.savefig(temporary, dpi=_DPI, format="png")
        written.append(name)
    return written


def _draw_row(
    row: Sequence[Axes],
    explanation: Explanation | None,
    paths: Sequence[str],
    of_view: dict[str, np.ndarray],
) -> None:
    """Draws the image and its maps; says above the image what is explained, below it its file."""
    for axes, tile in zip(row, of_view.values(), strict=True):
        axes.imshow(tile)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if explanation is not None:
        row[0].set_title(shortened(explanation.text, _LONGEST_NAME), fontsize=8)
    if paths and paths[0]:
        row[0].set_xlabel(shortened(Path(paths[0]).name, _LONGEST_NAME), fontsize=6)


def _is_signed(method: str) -> bool:
    return method in METHODS and METHODS[method].is_signed


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method.replace("_", " ")

"""The examples with the largest losses of a run, each with what speaks for its answer."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tl_jax.analysis.errors import described, top_losses
from tl_jax.data.subset import Selection
from tl_jax.explanations import overlay
from tl_jax.explanations.explain import Explainer, Explanation
from tl_jax.reporting.again import Seen
from tl_jax.reporting.read import RunFiles

_METHOD = "grad_cam"
_SMALL = 64  # Below it smoothing would hide the pixels.
_LARGEST = 224  # Pixels of a side; larger pictures would make a heavy page.


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
      source: the PNG as a data URI.
      says: the alternative text.
      is_small: whether its pixels are to be seen when it is enlarged.
    """

    source: str
    says: str
    is_small: bool


@dataclasses.dataclass(frozen=True)
class Tile:
    """An example of the gallery.

    Attributes:
      said: as `tl_jax.analysis.errors.described` tells it.
      pictures: of each view the image, and the map over it.
    """

    said: Mapping[str, Any]
    pictures: tuple[Picture, ...]

    @property
    def is_right(self) -> bool:
        """Whether what was predicted is the label, as they are written."""
        return bool(self.said["label"] == self.said["predicted"])


def galleries(run: RunFiles, seen: Seen, most: int) -> dict[str, list[Tile]]:
    """Returns the largest losses of each task, by its name, the largest first.

    Args:
      run: the run.
      seen: what it says of its main split.
      most: how many examples of each task.

    Raises:
      ValueError: if the network cannot be explained.
    """
    explainer = Explainer(run.path)
    names, found = seen.examples.identities(), {}
    for task, rows in seen.tasks.items():
        chosen = top_losses(rows, most)
        part = Selection(seen.examples, run.shown, chosen)
        explained = explainer(source=part, method=_METHOD, task=task) if chosen else []
        by_index = dict(zip(part.indices, explained, strict=True))
        found[task] = [
            Tile(
                described(rows, names, index),
                _pictures(by_index[index], described(rows, names, index)),
            )
            for index in chosen
        ]
    return found


def _pictures(explanation: Explanation, said: Mapping[str, Any]) -> tuple[Picture, ...]:
    """Returns of each view the image as the network saw it, and the map over it."""
    views = overlay.tiles(explanation)
    pictures = []
    for number, of_view in enumerate(views, start=1):
        view = f", view {number}" if len(views) > 1 else ""
        example = f"{said['name']}{view}"
        why = f"where in {example} is what speaks for {said['predicted']} (Grad-CAM)"
        alternatives = {"": f"{example}, labelled {said['label']}", _METHOD: why}
        pictures += [
            Picture(data_uri(of_view[name]), says, max(of_view[name].shape) < _SMALL)
            for name, says in alternatives.items()
        ]
    return tuple(pictures)


def data_uri(pixels: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3], as a PNG within an address.

    >>> data_uri(np.zeros((1, 1, 3), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_LARGEST, _LARGEST))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def as_json(tiles: Mapping[str, Sequence[Tile]]) -> dict[str, list[dict[str, Any]]]:
    """Returns what is said of the examples, without the pictures, by task."""
    return {task: [dict(tile.said) for tile in of_task] for task, of_task in tiles.items()}

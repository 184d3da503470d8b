"""Pictures of an analysis, as PNG: galleries of images, maps of features, curves of robustness."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tl_jax.run.plots import names_as_they_are, shortened

_DPI = 120
_COLUMNS = 6
_LONGEST_LINE, _LONGEST_TITLE = 22, 90
_NAMED_CLASSES = 20  # More would not be told apart by their colours.
_GOOD, _BAD = "#1a7f37", "#b42318"


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image of a gallery.

    Attributes:
      image: uint8 RGB [H, W, 3], of any size.
      lines: short lines of text above it.
      is_right: whether the text is green or red; None for black.
    """

    image: np.ndarray
    lines: Sequence[str]
    is_right: bool | None = None


def gallery(
    tiles: Sequence[Tile], path: Path, *, title: str, columns: int = _COLUMNS, footer: str = ""
) -> None:
    """Draws images in rows, each with its text; small ones are enlarged without smoothing.

    Args:
      tiles: from left to right and from top to bottom, one at least.
      path: PNG file to write.
      title: of the figure.
      columns: images in a row.
      footer: a line below the images.
    """
    rows = math.ceil(len(tiles) / columns)
    lines = max(len(tile.lines) for tile in tiles)
    height = rows * (1.55 + 0.15 * lines) + 0.5 + 0.2 * bool(footer)
    with names_as_they_are():
        figure = Figure(figsize=(1.65 * columns, height), layout="constrained")
        figure.suptitle(shortened(title, _LONGEST_TITLE), fontsize=10)
        if footer:
            figure.supxlabel(footer, fontsize=7, color="#555555")
        for axes, tile in zip(
            figure.subplots(rows, columns, squeeze=False).ravel(),
            [*tiles, *[None] * (rows * columns - len(tiles))],
            strict=True,
        ):
            axes.set_axis_off()
            if tile is not None:
                _draw(axes, tile)
        figure.savefig(path, dpi=_DPI)


def _draw(axes: matplotlib.axes.Axes, tile: Tile) -> None:
    is_small = max(tile.image.shape[:2]) < 100
    axes.imshow(tile.image, interpolation="nearest" if is_small else "antialiased")
    colour = {True: _GOOD, False: _BAD, None: "black"}[tile.is_right]
    text = "\n".join(shortened(line, _LONGEST_LINE) for line in tile.lines)
    axes.set_title(text, fontsize=7, color=colour, pad=2)


def feature_map(
    points: np.ndarray,
    colours: np.ndarray,
    names: Sequence[str],
    is_wrong: np.ndarray,
    path: Path,
    *,
    title: str,
) -> None:
    """Draws examples as points in a plane, coloured by class; wrong predictions are crosses.

    Args:
      points: [N, 2].
      colours: class of each, int [N], -1 for none; or numbers, float [N], where there are no names.
      names: of the classes; none for numbers.
      is_wrong: bool [N].
      path: PNG file to write.
      title: of the figure.
    """
    with names_as_they_are():
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.subplots()
        axes.set(title=shortened(title, _LONGEST_TITLE), xticks=[], yticks=[])
        if names and len(names) <= _NAMED_CLASSES:
            palette = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
            for index, name in enumerate(names):
                chosen = colours == index
                colour, label = palette(index), shortened(name, _LONGEST_LINE)
                x, y = points[chosen & ~is_wrong].T
                axes.scatter(x, y, s=9, alpha=0.6, label=label, color=colour, linewidths=1)
                x, y = points[chosen & is_wrong].T
                axes.scatter(x, y, s=28, marker="x", color=colour, linewidths=1)
        else:
            x, y = points.T
            drawn = axes.scatter(x, y, s=9, c=colours, cmap="viridis")
            x, y = points[is_wrong].T
            axes.scatter(x, y, s=28, marker="x", color=_BAD, linewidths=1)
            figure.colorbar(drawn, label="number" if not names else "index of the class")
        if is_wrong.any():
            axes.scatter([], [], s=28, marker="x", color="black", label="predicted wrongly")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        figure.savefig(path, dpi=_DPI)


def severity_curves(
    curves: Mapping[str, Sequence[float]],
    clean: float,
    path: Path,
    *,
    title: str,
    ylabel: str,
    bounds: Mapping[str, Sequence[Sequence[float]]],
    severities: Sequence[int],
) -> None:
    """Draws a metric against the severity of each corruption, beside that of clean images.

    Args:
      curves: the metric at each severity, by name of the corruption.
      clean: the metric of clean images, severity 0.
      path: PNG file to write.
      title: of the figure.
      ylabel: the metric, in words.
      bounds: its interval at each severity, [low, high].
      severities: what these are.
    """
    columns = 4
    rows = math.ceil(len(curves) / columns)
    with names_as_they_are():
        figure = Figure(figsize=(2.6 * columns, 2.1 * rows + 0.6), layout="constrained")
        figure.suptitle(shortened(title, _LONGEST_TITLE), fontsize=10)
        figure.supxlabel("severity (0: clean)", fontsize=8)
        figure.supylabel(ylabel, fontsize=8)
        subplots = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (name, values) in zip(subplots, curves.items(), strict=False):
            axes.plot([0, *severities], [clean, *values], marker="o", ms=3, color="tab:blue")
            low, high = np.array(bounds[name], np.float64).T
            axes.fill_between(severities, low, high, color="tab:blue", alpha=0.2, linewidth=0)
            axes.axhline(clean, color="gray", linestyle="--", linewidth=0.8)
            axes.set_title(name.replace("_", " "), fontsize=8)
            axes.set_xticks([0, *severities])
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        for axes in subplots[len(curves) :]:
            axes.set_axis_off()
        figure.savefig(path, dpi=_DPI)


def file_suffix(task: str, tasks: Sequence[str]) -> str:
    """Returns what tells the files of a task from those of the others; "" if it is alone.

    >>> file_suffix("cell type", ["cell type", "age"]), file_suffix("age", ["age"])
    ('-cell_type', '')
    """
    return "" if len(tasks) == 1 else "-" + (re.sub(r"[^\w.-]+", "_", task) or "task")

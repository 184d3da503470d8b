"""A ranking as a picture: each score against the FLOPs, with the candidates that none beats."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tl_jax.run.plots import names_as_they_are, shortened
from tl_jax.selection.table import heading

_DPI = 120
_COLUMNS = 3
_LONGEST_NAME = 44


def not_beaten(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns the places of the points that no other beats: none is cheaper and scores as much.

    >>> not_beaten([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8)])
    [0, 2]
    """
    kept, best = list[int](), -math.inf
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[place][1] > best:
            kept.append(place)
            best = points[place][1]
    return kept


@names_as_they_are()
def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws a ranking.

    Args:
      result: of `tl_jax.rank`.
      path: PNG file to write.
    """
    rows = [row for row in result["rows"] if row["error"] is None]
    names = [name for name in result["scores"] if result["order"][name]]
    columns = min(_COLUMNS, len(names)) or 1
    lines = math.ceil(len(names) / columns) or 1
    legend = 0.19 * len(rows) + 0.3
    figure = Figure(figsize=(max(4.2 * columns, 6), 3.5 * lines + legend), layout="constrained")
    where = f"{result['source']}, {result['task']}: {result['count']} images of {result['split']}"
    figure.suptitle(shortened(where, 80))
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.5 * lines, legend))
    panels, listing = parts
    subplots = panels.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(subplots, names, strict=False):
        _panel(axes, rows, name)
    for axes in subplots[len(names) :]:
        axes.set_axis_off()
    for place, row in enumerate(rows):
        text = f"{place + 1:>2}  {shortened(row['model'], _LONGEST_NAME)}"
        height = 1 - (place + 0.7) / (len(rows) + 0.6)
        listing.text(0.06, height, text, fontsize=9, family="monospace", va="center")
    figure.savefig(path, dpi=_DPI)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draws one score: numbers of the candidates, and a line through those that none beats."""
    shown = [place for place, row in enumerate(rows) if row["scores"][name]["value"] is not None]
    points = [(rows[p]["flops"] / 1e9, rows[p]["scores"][name]["value"]) for p in shown]
    line = [points[place] for place in not_beaten(points)]
    if line:
        axes.step(*zip(*line, strict=True), where="post", color="tab:red", alpha=0.5, linewidth=1)
    costs, values = zip(*points, strict=True)
    axes.scatter(costs, values, s=14, color="tab:blue")
    for place, point in zip(shown, points, strict=True):
        offset = (3, 3) if place % 2 else (-3, 3)
        axes.annotate(
            str(place + 1), point, xytext=offset, textcoords="offset points", fontsize=8,
            ha="left" if place % 2 else "right",
        )  # fmt: skip
    axes.set(title=heading(name), xlabel="GFLOP of an image", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.12)
    axes.grid(alpha=0.3)

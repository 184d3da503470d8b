"""The charts of a page as geometry: what is drawn where, for the SVG of the template."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from tl_jax.objectives.metric_names import in_words
from tl_jax.reporting.read import RunFiles
from tl_jax.reporting.results import headline, task_names

WIDTH, HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 12, 42
COLOURS = 8  # Of the style sheet.
_MARKED = 40  # Longer curves have no markers.
_MOST_CELLS = 4000  # Rectangles of a confusion matrix, beyond which a page would be slow.


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: values from `low` to `high` lie between the pixels `first` and `last`."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """Returns the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 2)

    def ticks(self, *, is_whole: bool = False) -> list[tuple[float, str]]:
        """Returns round values within the axis: their pixels and labels."""
        locator = MaxNLocator(nbins=5, integer=is_whole, steps=[1, 2, 2.5, 5, 10])
        values = locator.tick_values(self.low, self.high)
        return [(self.at(v), f"{v:.6g}") for v in values if self.low <= v <= self.high]


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
      name: for the legend.
      colour: index of its colour.
      is_dashed: whether it is of training.
      points: pixels (x, y).
      has_markers: whether each point has one.
    """

    name: str
    colour: int
    is_dashed: bool
    points: tuple[tuple[float, float], ...]
    has_markers: bool

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclasses.dataclass(frozen=True)
class Curves:
    """A metric over the epochs.

    Attributes:
      title: the metric, in words.
      description: what a person who does not see it should know.
      x, y: the axes.
      lines: the curves.
      phase_ends: pixels of the ends of phases.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    phase_ends: tuple[float, ...]


def learning_curves(runs: Sequence[RunFiles], phase_ends: Sequence[int] = ()) -> list[Curves]:
    """Returns the curves of the loss and of the first metric of each task, where there are any.

    Args:
      runs: of one each split has a colour, of several each run; those of training are dashed.
      phase_ends: epochs at which phases end.
    """
    names = ["loss"]
    for task in task_names(runs):
        metric = next((found for run in runs if (found := headline(run, task))), None)
        if metric:
            several = any(len(run.tasks) > 1 for run in runs)
            names.append(f"{task}.{metric}" if several else metric)
    charts = [_curves(runs, name, phase_ends) for name in names]
    return [chart for chart in charts if chart is not None]


def _curves(runs: Sequence[RunFiles], metric: str, phase_ends: Sequence[int]) -> Curves | None:
    series = [
        (index, split, points)
        for index, run in enumerate(runs)
        for split, points in _series(run, metric).items()
    ]
    if not series:
        return None
    every = np.array([point for _, _, points in series for point in points])
    x = Axis(0, max(1.0, every[:, 0].max()), _LEFT, WIDTH - _RIGHT)
    y = Axis(*_bounds(every[:, 1]), HEIGHT - _BOTTOM, _TOP)
    lines, told = [], []
    of_one = len(runs) == 1
    for place, (index, split, points) in enumerate(series):
        name = split if of_one else f"{runs[index].name}, {split}"
        pixels = tuple((x.at(epoch), y.at(value)) for epoch, value in points)
        colour = (place if of_one else index) % COLOURS
        is_training = split == runs[index].config.data.train_split
        lines.append(Line(name, colour, is_training, pixels, len(points) <= _MARKED))
        (first, start), (last, end) = points[0], points[-1]
        told.append(f"{name}: {start:.3g} at epoch {first:.3g}, {end:.3g} at epoch {last:.3g}")
    task, _, own = metric.rpartition(".")
    title = f"{task}: {in_words(own)}" if task else in_words(own)
    ends = tuple(x.at(end) for end in phase_ends)
    return Curves(title, "; ".join(told), x, y, tuple(lines), ends)


def _series(run: RunFiles, metric: str) -> dict[str, list[tuple[float, float]]]:
    """Returns the points (epoch, value) of a metric by split, as far as they are finite."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in run.records:
        value = record.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            found.setdefault(record["split"], []).append((record["epoch"], value))
    return found


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """Returns the ends of an axis: a margin beyond the values, and 0 where it is near."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return (0.0 if 0 <= low < 3 * margin else low - margin), high + margin


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bin of a reliability diagram: its pixels, and what it says."""

    x: float
    width: float
    y: float
    height: float
    gap_y: float
    gap_height: float
    count_y: float
    count_height: float
    says: str


@dataclasses.dataclass(frozen=True)
class Diagram:
    """A reliability diagram, with the number of examples of each bin below it."""

    title: str
    description: str
    x: Axis
    y: Axis
    base: float
    bars: tuple[Bar, ...]


def reliability(title: str, values: Mapping[str, Any]) -> Diagram:
    """Returns the diagram of confidence and accuracy.

    Args:
      title: of the diagram.
      values: of `Reliability.as_json`.
    """
    x, y = Axis(0, 1, _LEFT, WIDTH - _RIGHT), Axis(0, 1, HEIGHT - _BOTTOM - 56, _TOP)
    base, most = HEIGHT - _BOTTOM, max(values["counts"]) or 1
    bars, told = [], []
    for index, count in enumerate(values["counts"]):
        if not count:
            continue
        low, high = values["edges"][index : index + 2]
        accuracy, confidence = values["accuracy"][index], values["confidence"][index]
        top, bottom = y.at(max(accuracy, confidence)), y.at(min(accuracy, confidence))
        says = f"confidence {confidence:.2f}, accuracy {accuracy:.2f}, {count:,} examples"
        told.append(says)
        height = max(1.0, round(40 * count / most, 2))
        bars.append(
            Bar(
                x.at(low), round(x.at(high) - x.at(low), 2), y.at(accuracy),
                round(y.first - y.at(accuracy), 2), top, round(bottom - top, 2),
                base - height, height, says,
            )
        )  # fmt: skip
    return Diagram(title, "; ".join(told), x, y, base, tuple(bars))


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
      class_names: of the rows and columns.
      counts: [C][C], true by predicted class.
      shares: of the true class, likewise.
      marks: row, column, share and text of each cell that is not 0, where there are too many
        classes for a table; None if there are also too many cells to be drawn.
    """

    class_names: tuple[str, ...]
    counts: list[list[int]]
    shares: list[list[float]]
    marks: list[tuple[int, int, float, str]] | None


def confusion(counts: np.ndarray, class_names: Sequence[str]) -> Matrix:
    """Returns a confusion matrix, [C, C], true by predicted class, for the page."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    found = np.argwhere(counts)
    marks = None
    if len(found) <= _MOST_CELLS:
        marks = [
            (
                int(row),
                int(column),
                round(float(shares[row, column]), 3),
                f"{class_names[row]} as {class_names[column]}: {counts[row, column]:,}",
            )
            for row, column in found
        ]
    return Matrix(tuple(class_names), counts.tolist(), shares.round(3).tolist(), marks)


@dataclasses.dataclass(frozen=True)
class Forest:
    """A metric of several runs with its intervals, one below the other.

    Attributes:
      title: task, metric and split.
      description: the numbers.
      x: the axis of the metric.
      height: of the drawing.
      rows: name, index of its colour, pixel of the line, of the value, and of the interval (equal
        to it without one).
    """

    title: str
    description: str
    x: Axis
    height: int
    rows: tuple[tuple[str, int, float, float, float, float], ...]


def forest(runs: Sequence[RunFiles], task: str) -> Forest | None:
    """Returns the first metric of a task of each run that has it; None of fewer than two runs."""
    metric = next((found for run in runs if (found := headline(run, task))), "")
    rows, told = [], []
    for colour, run in enumerate(runs):
        value = run.metrics(run.shown, task).get(metric)
        if value is not None:
            low, high = run.interval(run.shown, task, metric) or (value, value)
            rows.append((run.name, colour % COLOURS, value, low, high))
            told.append(f"{run.name}: {value:.3f}, {low:.3f} to {high:.3f}")
    if len(rows) < 2:
        return None
    ends = [each for _, _, *values in rows for each in values]
    margin = 0.08 * (max(ends) - min(ends)) or 0.05
    x = Axis(min(ends) - margin, max(ends) + margin, _RIGHT + 4, WIDTH - _RIGHT)
    drawn = tuple(
        (name, colour, 22.0 + 34 * place, x.at(value), x.at(low), x.at(high))
        for place, (name, colour, value, low, high) in enumerate(rows)
    )
    title = f"{in_words(metric)} of {task}, with 95% intervals"
    return Forest(title, "; ".join(told), x, 34 * len(rows) + 32, drawn)

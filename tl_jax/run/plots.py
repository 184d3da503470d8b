"""Pictures of a run, as PNG: learning curves, confusion matrix, reliability, learning rates."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from tl_jax.training.lr_finder import LrCurve

_DPI = 120
_MAX_CELLS_WITH_NUMBERS = 20
_LONGEST_NAME = 24
_LONGEST_TITLE = 70


@contextlib.contextmanager
def names_as_they_are() -> Iterator[None]:
    """Draws names of classes and splits, whatever they hold.

    Dollar signs would be read as formulas. A script that the font lacks is drawn as boxes, of which
    matplotlib would warn for each letter.
    """
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        warnings.filterwarnings("ignore", message=".* not applied because axes sizes collapsed")
        yield


@names_as_they_are()
def learning_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    phase_ends: Sequence[int] = (),
    metrics: Sequence[str] = ("loss", "accuracy"),
) -> None:
    """Draws metrics over the epochs, each beside the others.

    Args:
      records: of `tl_jax.run.journal.read`.
      path: PNG file to write.
      title: of the figure.
      phase_ends: epochs at which phases end; drawn as vertical lines.
      metrics: names in the records.
    """
    figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained")
    figure.suptitle(shortened(title, _LONGEST_TITLE))
    subplots = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(subplots, metrics, strict=True):
        measured = [record for record in records if record.get(metric) is not None]
        for split in dict.fromkeys(record["split"] for record in measured):
            points = [(r["epoch"], r[metric]) for r in measured if r["split"] == split]
            marker = "o" if len(points) <= 50 else ""
            label = shortened(split, _LONGEST_NAME)
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, ms=3)
        for epoch in phase_ends:
            axes.axvline(epoch, color="gray", linestyle=":", linewidth=1)
        axes.set(xlabel="epoch", ylabel=shortened(metric, _LONGEST_TITLE))
        epochs = [record["epoch"] for record in measured]
        if epochs:
            axes.set_xlim(min(0, *epochs), 1.02 * max(1, *epochs))
            axes.legend()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=_DPI)


@names_as_they_are()
def confusion_matrix(
    confusion: np.ndarray, class_names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draws a confusion matrix: colour by share of the true class, numbers are counts.

    Args:
      confusion: counts [C, C], true by predicted class.
      class_names: of the C classes.
      path: PNG file to write.
      title: of the figure.
    """
    num_classes = len(class_names)
    side = min(3.5 + 0.35 * num_classes, 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(title=shortened(title, _LONGEST_TITLE), xlabel="predicted", ylabel="true")
    ticks = range(0, num_classes, max(1, num_classes // 40))
    names = [shortened(class_names[i], _LONGEST_NAME) for i in ticks]
    if len(ticks) < num_classes:
        names = [f"{i}: {name}" for i, name in zip(ticks, names, strict=True)]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    if num_classes <= _MAX_CELLS_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(confusion):
            color = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, str(int(count)), ha="center", va="center", color=color)
    figure.savefig(path, dpi=_DPI)


@names_as_they_are()
def reliability_diagram(
    diagrams: Mapping[str, Mapping[str, Any]], path: Path, *, title: str
) -> None:
    """Draws how far confidence is accuracy, and below it how many examples each bin has.

    Bars are the accuracy of a bin, red what its mean confidence is above or below it.

    Args:
      diagrams: for each panel its title, and the values of `Reliability.as_json`.
      path: PNG file to write.
      title: of the figure.
    """
    figure = Figure(figsize=(4.5 * len(diagrams) + 0.5, 6), layout="constrained")
    figure.suptitle(shortened(title, _LONGEST_TITLE))
    subplots = figure.subplots(
        2, len(diagrams), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)
    )
    for column, (name, values) in enumerate(diagrams.items()):
        above, below = subplots[:, column]
        edges, counts = np.asarray(values["edges"]), np.asarray(values["counts"])
        centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
        accuracy, confidence = (
            np.array(values[key], np.float64) for key in ("accuracy", "confidence")
        )
        bars = {"width": width, "edgecolor": "white", "linewidth": 0.5}
        above.bar(centres, np.nan_to_num(accuracy), color="tab:blue", label="accuracy", **bars)
        gap = np.nan_to_num(confidence - accuracy)
        above.bar(
            centres, gap, bottom=np.nan_to_num(accuracy), color="tab:red", alpha=0.4,
            label="confidence - accuracy", **bars,
        )  # fmt: skip
        above.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1)
        error = (counts * np.abs(gap)).sum() / max(counts.sum(), 1)
        above.set(title=f"{name}, calibration error {error:.3f}", xlim=(0, 1), ylim=(0, 1))
        below.bar(centres, counts, color="tab:gray", **bars)
        for centre, count in zip(centres, counts.tolist(), strict=True):
            if count:
                below.text(
                    centre, count, f"{count:,}", ha="center", va="bottom", fontsize=6, rotation=90
                )
        below.set(xlabel="confidence")
        below.margins(y=0.35)
    subplots[0, 0].set_ylabel("accuracy")
    subplots[0, 0].legend(loc="upper left", fontsize=8)
    subplots[1, 0].set_ylabel("examples")
    figure.savefig(path, dpi=_DPI)


@names_as_they_are()
def learning_rate_curve(curve: LrCurve, path: Path, *, title: str) -> None:
    """Draws the loss over the learning rate, and marks the rates that the curve suggests.

    Args:
      curve: of `tl_jax.training.lr_finder.find_learning_rate`.
      path: PNG file to write.
      title: of the figure.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="tab:gray", alpha=0.4, label="loss of a batch")
    axes.plot(curve.rates, curve.smoothed, color="tab:blue", label="smoothed")
    suggested = {"steepest": curve.steepest, "minimum / 10": curve.minimum_over_ten}
    for (name, rate), color in zip(suggested.items(), ("tab:red", "tab:green"), strict=True):
        if rate is not None:
            label = f"{name}: {rate:.1e}"
            axes.axvline(rate, color=color, linestyle="--", linewidth=1, label=label)
    shown = shortened(title, _LONGEST_TITLE)
    axes.set(title=shown, xlabel="learning rate", ylabel="loss", xscale="log")
    # All losses are shown, except those at the end that are far above the others.
    settled = curve.losses[: max(1, len(curve.losses) // 2)].max()
    low, high = float(curve.losses.min()), float(max(settled, curve.smoothed.max()))
    margin = 0.05 * (high - low) or 0.5  # a curve of a single point has no height
    axes.set_ylim(low - margin, high + margin)
    # The default labels of a logarithmic axis are formulas.
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def shortened(name: str, longest: int) -> str:
    """Returns a name of which long ones lose their middle; a line break would widen the picture."""
    name = " ".join(name.split())
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"

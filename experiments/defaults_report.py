"""The tables of the study of defaults: tl_jax beside timm, cell by cell, and what is missing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.defaults_data import SETS, Cell
from experiments.strategies_report import interval, with_tables
from tl_jax import files, messages

MARKERS = ("<!-- defaults: begin -->", "<!-- defaults: end -->")
OURS, TIMM = "tl_jax", "timm"
ABOVE, SAME, BELOW = "above", "same", "below"
_HEADER = (
    "| set | per class | epochs | tl_jax | 95% interval | timm | 95% interval | timm's rate "
    "| difference | |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)

Rows = Sequence[Mapping[str, Any]]


def tables(
    rows: Rows,
    cells: Sequence[Cell],
    epochs: Mapping[tuple[str, int], int],
    rates: Mapping[tuple[str, int], float],
    *,
    seeds: int,
) -> str:
    """Returns the tables as Markdown, one for each network and batch size that has rows.

    Args:
      rows: of finished runs, with "set" (a cell's name), "method", "seed" and "test".
      cells: in the order of the tables.
      epochs: of each subset.
      rates: timm's rate of each subset.
      seeds: how many rows a method should have in a cell.
    """
    lines, verdicts, incomplete = [], [], []
    groups = list(dict.fromkeys((cell.network, cell.batch_size) for cell in cells))
    for network, batch_size in groups:
        body = []
        for cell in cells:
            if (cell.network, cell.batch_size) != (network, batch_size):
                continue
            ours, timm = (accuracies(rows, cell.name, method) for method in (OURS, TIMM))
            if min(len(ours), len(timm)) < seeds:
                incomplete.append(f"{cell.name} ({len(ours)} and {len(timm)} of {seeds})")
            if ours and timm:
                verdict = compare(ours, timm)
                verdicts += [verdict] if min(len(ours), len(timm)) > 1 else []
                start = (SETS[cell.set].title, f"{cell.size:,}", f"{epochs[cell.subset]}")
                body.append(_line(start, ours, timm, rates[cell.subset], verdict))
        if body:
            title = f"### EfficientNet-{network.capitalize()}, batches of {batch_size}"
            lines += [title, "", _HEADER, *body, ""]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in (ABOVE, SAME, BELOW))
    lines.append(f"tl_jax against timm, by the 95% interval of the difference: {counts}.")
    if incomplete:
        listed = messages.some(incomplete, quoted=False)
        lines += ["", f"Not complete, rows of tl_jax and of timm: {listed}."]
    return "\n".join(lines) + "\n"


def accuracies(rows: Rows, cell: str, method: str) -> list[float]:
    """Returns the test accuracies of a method in a cell, one for each seed."""
    return [r["test"]["accuracy"] for r in rows if (r["set"], r["method"]) == (cell, method)]


def compare(ours: Sequence[float], timm: Sequence[float]) -> str:
    """Returns "above" or "below" if the interval of the difference leaves out 0, or else "same".

    Examples:
      >>> compare([0.80, 0.81, 0.82], [0.70, 0.71, 0.72])
      'above'
    """
    difference = float(np.mean(ours) - np.mean(timm))
    half = half_width(ours, timm)
    if half is None or abs(difference) <= half:
        return SAME
    return ABOVE if difference > 0 else BELOW


def half_width(ours: Sequence[float], timm: Sequence[float]) -> float | None:
    """Returns half the width of Welch's 95% interval of the difference of two means."""
    if min(len(ours), len(timm)) < 2:
        return None
    parts = [np.var(values, ddof=1) / len(values) for values in (ours, timm)]
    if sum(parts) == 0:
        return 0.0
    weights = [p**2 / (len(v) - 1) for p, v in zip(parts, (ours, timm), strict=True)]
    degrees = sum(parts) ** 2 / sum(weights)
    return float(stats.t.ppf(0.975, degrees) * math.sqrt(sum(parts)))


def _line(
    start: Sequence[str], ours: Sequence[float], timm: Sequence[float], rate: float, verdict: str
) -> str:
    half = half_width(ours, timm)
    difference = f"{np.mean(ours) - np.mean(timm):+.3f}"
    values = (
        *start,
        f"**{np.mean(ours):.3f}**" if verdict == ABOVE else f"{np.mean(ours):.3f}",
        _range(interval(ours)),
        f"**{np.mean(timm):.3f}**" if verdict == BELOW else f"{np.mean(timm):.3f}",
        _range(interval(timm)),
        f"{rate:g}",
        difference if half is None else f"{difference} ± {half:.3f}",
        verdict,
    )
    return f"| {' | '.join(values)} |"


def _range(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def write(text: str, folder: Path, page: Path | None) -> None:
    """Writes the tables to `defaults.md` in a folder, and between the markers of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "defaults.md", text)
    if page is not None:
        files.write_text(page, with_tables(page.read_text(), text, MARKERS))

"""A ranking as text: a line for each candidate, with its scores and what it costs."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_REASON = 200
_HEADINGS = {
    "knn": "k-NN",
    "linear_probe": "probe",
    "logme": "LogME",
    "h_score": "H-score",
    "leep": "LEEP",
    "nleep": "NLEEP",
}


def heading(score: str) -> str:
    """Returns the name of a score in tables and pictures."""
    return _HEADINGS[score]


def table(result: Mapping[str, Any], *, sort_by: str | None = None) -> str:
    """Returns a ranking as a table, with the best value of each score marked.

    Args:
      result: of `tl_jax.rank`.
      sort_by: the score by which the lines are sorted; None for the linear probe, or the first.
    """
    names = list(result["scores"])
    by = sort_by or ("linear_probe" if "linear_probe" in names else names[0])
    best = result["order"][by]
    rows = [row for row in result["rows"] if row["error"] is None]
    rows.sort(key=lambda row: best.index(row["model"]) if row["model"] in best else len(best))
    head = ["model", "px", "dim", *map(heading, names), "GFLOP", "Mparam", "images/s", "MB"]
    lines = [head, *(_cells(row, names, result["order"]) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    count = f"{result['count']} images of {result['split']}"
    text = [f"{result['source']}, {result['task']}: {count}, {result['held_out_count']} of "
            f"{result['held_out_split']} held out; best of each score marked *"]  # fmt: skip
    text += ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
    text += [
        f"{row['model']}: {textwrap.shorten(row['error'], _LONGEST_REASON, placeholder=' ...')}"
        for row in result["rows"]
        if row["error"]
    ]
    return "\n".join([*text, *_undefined(rows, names)])


def _cells(row: Mapping[str, Any], names: Sequence[str], order: Mapping[str, Any]) -> list[str]:
    cells = [row["model"], str(row["image_size"]), str(row["width"])]
    for name in names:
        value = row["scores"][name]["value"]
        mark = "*" if row["model"] in order[name][:1] else " "
        cells.append("- " if value is None else f"{value:.4f}{mark}")
    cells += [f"{row['flops'] / 1e9:.2f}", f"{row['parameters'] / 1e6:.2f}"]
    speed, memory = row["images_per_second"], row["memory_bytes"]
    cells.append("-" if speed is None else f"{speed:.1f}")
    return [*cells, "-" if memory is None else f"{memory / 1e6:.0f}"]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = line
    aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
    return [first.ljust(widths[0]), *aligned]


def _undefined(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Returns a line for each reason why a score is undefined, with the candidates."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name in names:
            if (reason := row["scores"][name]["undefined"]) is not None:
                reasons.setdefault((name, reason), []).append(row["model"])
    return [
        f"{heading(name)} is undefined for {'all' if len(of) == len(rows) else ', '.join(of)}: "
        f"{reason}"
        for (name, reason), of in reasons.items()
    ]

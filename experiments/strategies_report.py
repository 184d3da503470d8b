"""Tables and plot of the comparison of strategies."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_CLASSIFIERS = {"full": "replace", "load": "load", "fuse": "fuse"}
_SETS = {"elpv": "Solar cells (ELPV)", "stamps": "Stamps (Tux Paint)"}


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95% t-interval of a mean; None for a single value."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def summarize(
    rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns, by set and method, the means over seeds, in the order of `titles`."""
    sets = dict.fromkeys(row["set"] for row in rows)
    return {
        name: {
            method: {"title": title, **_cell(cell_rows)}
            for method, title in titles.items()
            if (cell_rows := [r for r in rows if (r["set"], r["method"]) == (name, method)])
        }
        for name in sets
    }


def _cell(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracies = [row["test"]["accuracy"] for row in rows]
    zero_shots = [row["zero_shot"]["accuracy"] for row in rows if row["zero_shot"]]
    return {
        "rate": rows[0]["rate"],
        "seeds": len(rows),
        "test_images": rows[0]["test"]["count"],
        "accuracy": float(np.mean(accuracies)),
        "interval": interval(accuracies),
        "accuracies": accuracies,
        "balanced_accuracy": _mean([row["test"]["balanced_accuracy"] for row in rows]),
        "trained_parameters": rows[0]["trained_parameters"],
        "seconds": _mean([row["seconds"] for row in rows]),
        "seconds_in_all": _mean([row["seconds_in_all"] for row in rows]),
        "step_mib": _mean([row["step_mib"] for row in rows]),
        "peak_mib": _mean([row["peak_mib"] for row in rows]),
        "zero_shot": _mean(zero_shots),
        "platform": rows[0]["platform"],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def write(summary: dict[str, Any], folder: Path, page: Path | None) -> None:
    """Writes the summary as JSON, Markdown and PNG.

    Args:
      summary: protocol, methods by set (`summarize`), search, failures and combinations left out.
      folder: folder of the three files.
      page: a Markdown file in which the part between the markers is replaced by the tables; None
        for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strategies.json").write_text(json.dumps(summary, indent=2) + "\n")
    text = markdown(summary)
    (folder / "strategies.md").write_text(text)
    draw(summary["methods"], folder / "strategies.png")
    if page is not None:
        page.write_text(with_tables(page.read_text(), text))


def with_tables(page: str, tables: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """Returns a page with the part between its markers replaced.

    Raises:
      ValueError: if the two markers are not there, in this order.
    """
    before, begin, rest = page.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(
            f"the page has no part between {markers[0]!r} and {markers[1]!r}; add both lines"
        )
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"


def markdown(summary: Mapping[str, Any]) -> str:
    """Returns for each set a table of the methods, and one of the strategies for the classifier."""
    lines = [_protocol(summary["protocol"]), ""]
    for name, methods in summary["methods"].items():
        images = next(iter(methods.values()))["test_images"]
        lines += [f"### {_SETS[name]}: {images} test images", "", *_table(methods), ""]
        chosen = {m: cell for m, cell in methods.items() if m in _CLASSIFIERS}
        if len(chosen) > 1:
            lines += ["The classifier, with all layers trained:", "", *_classifiers(chosen), ""]
    for cell, reason in summary["left_out"].items():
        lines.append(f"Left out: `{cell}`: {reason}.")
    for name, reason in summary["failures"].items():
        lines.append(f"Failed: `{name}`: {reason}")
    return "\n".join(lines).strip() + "\n"


def _protocol(protocol: Mapping[str, Any]) -> str:
    where = "on one core" if protocol["jobs"] > 1 else "on all cores"
    return (
        f"`{protocol['model']}` at {protocol['image_size']} pixels, {protocol['epochs']} epochs of "
        f"batches of {protocol['batch_size']}, {protocol['seeds']} seeds. Accuracy on the test "
        "split at the best epoch by validation: mean, and 95% t-interval of the mean over seeds, "
        "which tells nothing of the choice of test images. Seconds: of training, without "
        f"compiling and evaluating ({where}); in brackets those of the whole run. Step: memory "
        "that XLA plans for a training step. Peak: the most that the run's process (on an "
        "accelerator: the device) held, compiling included."
    )


def _table(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| method | accuracy | 95% interval | balanced | trained | rate | seconds | step MiB | "
        "peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in methods.values():
        values = (
            cell["title"],
            f"{cell['accuracy']:.3f}",
            _range(cell["interval"]),
            f"{cell['balanced_accuracy']:.3f}",
            f"{cell['trained_parameters']:,}",
            f"{cell['rate']:g}",
            f"{_number(cell['seconds'])} ({_number(cell['seconds_in_all'])})",
            _number(cell["step_mib"]),
            _number(cell["peak_mib"]),
        )
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _classifiers(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| classifier | accuracy | 95% interval | before training |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, cell in methods.items():
        before = "" if cell["zero_shot"] is None else f"{cell['zero_shot']:.3f} (validation)"
        values = (_CLASSIFIERS[name], f"{cell['accuracy']:.3f}", _range(cell["interval"]), before)
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def draw(methods: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Draws accuracy with its interval by method, a panel for each set."""
    from matplotlib.figure import Figure

    height = 1.2 + 0.34 * max((len(cells) for cells in methods.values()), default=1)
    figure = Figure(figsize=(6.2 * max(len(methods), 1), height), layout="constrained")
    panels = figure.subplots(1, max(len(methods), 1), squeeze=False)[0]
    for panel, (name, cells) in zip(panels, methods.items(), strict=False):
        ordered = sorted(cells.values(), key=lambda cell: cell["accuracy"])
        for place, cell in enumerate(ordered):
            low, high = cell["interval"] or (cell["accuracy"], cell["accuracy"])
            panel.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
            panel.plot(cell["accuracy"], place, "o", color="tab:blue", markersize=5)
            seeds = cell["accuracies"]
            panel.plot(seeds, [place] * len(seeds), "|", color="black", markersize=7)
        panel.set_yticks(range(len(ordered)), [cell["title"] for cell in ordered])
        panel.set_title(_SETS[name])
        panel.set_xlabel("test accuracy: seeds, mean, 95% interval")
        low, high = panel.get_xlim()
        panel.set_xlim(max(low, 0.0), min(high, 1.0))  # An interval of few seeds may go beyond.
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)

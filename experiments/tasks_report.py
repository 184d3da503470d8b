"""Tables and picture of the comparison of tasks: means over seeds, and paired differences."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.strategies_report import interval, with_tables
from experiments.tasks_methods import IMBALANCE, Comparison, Method
from tl_jax import files, messages
from tl_jax.objectives import metric_names

MARKERS = ("<!-- tasks: begin -->", "<!-- tasks: end -->")
IMBALANCE_MARKERS = ("<!-- imbalance: begin -->", "<!-- imbalance: end -->")
BETTER, SAME, WORSE = "better", "same", "worse"
_COLOURS = {BETTER: "tab:green", SAME: "tab:gray", WORSE: "tab:red", "": "tab:gray"}

Rows = Sequence[Mapping[str, Any]]


def summarize(comparisons: Sequence[Comparison], rows: Rows) -> dict[str, Any]:
    """Returns the result of all comparisons that have rows.

    Args:
      comparisons: in the order of the tables.
      rows: of finished runs, with "set" (a comparison), "method", "seed" and "test".
    """
    found, missing = [], []
    for comparison in comparisons:
        of_method = {
            method.name: {
                row["seed"]: row["test"]
                for row in rows
                if (row["set"], row["method"]) == (comparison.name, method.name)
            }
            for method in comparison.methods
        }
        missing += [
            f"{comparison.name}/{name} ({len(tests)} of {comparison.seeds})"
            for name, tests in of_method.items()
            if len(tests) < comparison.seeds
        ]
        if any(of_method.values()):
            found.append(_comparison(comparison, of_method))
    return {"comparisons": found, "missing": missing}


def _comparison(
    comparison: Comparison, of_method: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> dict[str, Any]:
    counterpart = of_method[comparison.methods[0].name]
    tests = [test for by_seed in of_method.values() for test in by_seed.values()]
    return {
        "name": comparison.name,
        "title": comparison.title,
        "metrics": comparison.metrics,
        "test_examples": tests[0]["count"],
        "seeds": comparison.seeds,
        "methods": [
            _method(method, of_method[method.name], counterpart, list(comparison.metrics))
            for method in comparison.methods
            if of_method[method.name]
        ],
    }


def _method(
    method: Method,
    tests: Mapping[int, Mapping[str, Any]],
    counterpart: Mapping[int, Mapping[str, Any]],
    metrics: Sequence[str],
) -> dict[str, Any]:
    values = {
        metric: [test[metric] for test in tests.values()]
        for metric in metrics
        if all(test.get(metric) is not None for test in tests.values())
    }
    differences = {
        metric: [
            test[metric] - counterpart[seed][metric]
            for seed, test in tests.items()
            if seed in counterpart and counterpart[seed].get(metric) is not None
        ]
        for metric in values
        if tests is not counterpart
    }
    return {
        "name": method.name,
        "title": method.title,
        "values": values,
        "differences": {metric: each for metric, each in differences.items() if each},
    }


def verdict(differences: Sequence[float], metric: str) -> str:
    """Returns "better" or "worse" if the 95% interval of paired differences leaves out 0.

    Args:
      differences: from the counterpart, one for each seed.
      metric: which may be one that is better when it is lower.

    Examples:
      >>> verdict([0.10, 0.11, 0.12], "accuracy"), verdict([0.10, 0.11, 0.12], "log_loss")
      ('better', 'worse')
      >>> verdict([-0.1, 0.1], "accuracy")
      'same'
    """
    bounds = interval(differences)
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return SAME
    is_lower_better = metric_names.metric(metric).lower_is_better
    return BETTER if (bounds[0] > 0) != is_lower_better else WORSE


def markdown(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table for each comparison of a summary."""
    lines = list[str]()
    for comparison in comparisons:
        lines += [f"### {comparison['title']}", "", *_table(comparison), ""]
    return "\n".join(lines)


def legend(summary: Mapping[str, Any]) -> str:
    """Returns what the tables show, how many recipes are better, and what is missing."""
    verdicts = [
        verdict(recipe["differences"][main], main)
        for comparison in summary["comparisons"]
        for recipe in comparison["methods"][1:2]
        if comparison["name"] != IMBALANCE
        and (main := next(iter(comparison["metrics"]))) in recipe["differences"]
    ]
    lines = [
        "Mean ± half the 95% interval over seeds. The last column is the first metric minus that "
        "of the first row, seed by seed; it is bold where its interval leaves out 0. "
        f"Of the recipes (second rows) {verdicts.count(BETTER)} are better than their "
        f"counterparts (first rows), {verdicts.count(SAME)} the same and {verdicts.count(WORSE)} "
        "worse."
    ]
    if missing := summary["missing"]:
        lines += ["", f"Not complete: {messages.some(missing, quoted=False)}."]
    for run, reason in summary.get("failures", {}).items():
        lines += ["", f"Failed: `{run}`: {reason}"]
    return "\n".join(lines) + "\n"


def _table(comparison: Mapping[str, Any]) -> list[str]:
    metrics = comparison["metrics"]
    first = f"{comparison['test_examples']:,} test examples, {comparison['seeds']} seeds"
    headings = [first, *metrics.values(), "difference"]
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    main = next(iter(metrics))
    for method in comparison["methods"]:
        cells = [method["title"]]
        cells += [_with_half_width(method["values"].get(metric), "") for metric in metrics]
        differences = method["differences"].get(main)
        text = _with_half_width(differences, "+")
        is_clear = differences and verdict(differences, main) != SAME
        cells.append(f"**{text}**" if is_clear else text)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_half_width(values: Sequence[float] | None, sign: str) -> str:
    if not values:
        return ""
    bounds = interval(values)
    mean = f"{np.mean(values):{sign}.3f}"
    return mean if bounds is None else f"{mean} ± {(bounds[1] - bounds[0]) / 2:.3f}"


def draw(comparisons: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the differences from the counterparts with their intervals, a panel for each set."""
    from matplotlib.figure import Figure

    heights = [len(each["methods"]) for each in comparisons]
    figure = Figure(
        figsize=(8, 1 + 0.95 * len(heights) + 0.25 * sum(heights)), layout="constrained"
    )
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, comparison in zip(panels, comparisons, strict=True):
        main, heading = next(iter(comparison["metrics"].items()))
        others = [each for each in comparison["methods"] if main in each["differences"]]
        for place, method in enumerate(others):
            values = method["differences"][main]
            low, high = interval(values) or (values[0], values[0])
            colour = _COLOURS[verdict(values, main)]
            panel.plot([low, high], [place, place], color=colour, linewidth=2)
            panel.plot(values, [place] * len(values), "|", color="black", markersize=7)
            panel.plot(np.mean(values), place, "o", color=colour, markersize=6)
        panel.axvline(0, color="black", linewidth=1)
        panel.set_yticks(range(len(others)), [method["title"] for method in others])
        panel.set_ylim(max(len(others), 1) - 0.5, -0.5)
        against = comparison["methods"][0]["title"]
        panel.set_title(f"{comparison['title']}\n{heading}, against {against}", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("difference from the counterpart: seeds, mean, 95% interval")
    figure.savefig(path, dpi=120)


def write(summary: Mapping[str, Any], folder: Path, page: Path | None) -> None:
    """Writes the summary as JSON, Markdown and PNG, and the tables between the markers of a page.

    Args:
      summary: of `summarize`.
      folder: of the three files.
      page: a Markdown file with a part for imbalance and one for all else; None for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "tasks.json", json.dumps(summary, indent=2) + "\n")
    comparisons = summary["comparisons"]
    files.write_text(folder / "tasks.md", f"{markdown(comparisons)}\n{legend(summary)}")
    if comparisons:
        draw(comparisons, folder / "tasks.png")
    if page is not None:
        imbalance = [each for each in comparisons if each["name"] == IMBALANCE]
        others = [each for each in comparisons if each["name"] != IMBALANCE]
        text = with_tables(page.read_text(), f"{markdown(others)}\n{legend(summary)}", MARKERS)
        text = with_tables(text, markdown(imbalance), IMBALANCE_MARKERS)
        files.write_text(page, text)

"""Tables and picture of how far the ranking of backbones agrees with their fine-tuned accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ranking_agreement import DRAWS, Measured, agreement, draw
from tl_jax import files
from tl_jax.selection import table
from tl_jax.selection.measures import NAMES

BASELINES = {"parameters": "parameters", "flops": "FLOPs", "imagenet": "ImageNet order"}
GROUPS = {"all": "all candidates", "imagenet": "ImageNet weights only"}
_SETS = {
    "digits": "digits",
    "elpv": "solar cells (ELPV)",
    "fashion_mnist": "Fashion-MNIST",
    "stamps": "stamps (Tux Paint)",
}
_DRAWN = ("linear_probe", "logme")
_KINDS = {"ImageNet": "tab:blue", "trained here": "tab:orange", "random": "tab:gray"}


def summarize(
    sets: Mapping[str, Measured], candidates: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what was measured, and the agreement of each score, as JSON values.

    Args:
      sets: by name, of the same candidates.
      candidates: their facts, in this order.

    Returns:
      "candidates"; "sets", for each its "accuracies", "correct" (a digit for each test example) and
      "scores"; and "agreement", for each group of `GROUPS` the `agreement` by score.
    """
    groups = {
        "all": np.ones(len(candidates), bool),
        "imagenet": np.array([each["imagenet"] > 0 for each in candidates]),
    }
    found: dict[str, Any] = {}
    for name, chosen in groups.items():
        parts = [each.part(chosen) for each in sets.values()]
        drawn = draw(parts)
        found[name] = {"count": int(chosen.sum()), "scores": {}}
        for score in (*NAMES, *BASELINES):
            of_score = agreement(parts, score, drawn)
            of_score["sets"] = dict(zip(sets, of_score["sets"], strict=True))
            found[name]["scores"][score] = of_score
    return {
        "candidates": list(candidates),
        "sets": {name: _as_json(each) for name, each in sets.items()},
        "draws": DRAWS,
        "agreement": found,
    }


def _as_json(measured: Measured) -> dict[str, Any]:
    return {
        "accuracies": measured.accuracies.tolist(),
        "correct": ["".join("01"[right] for right in row) for row in measured.correct.astype(int)],
        "scores": {
            name: [float(v) if np.isfinite(v) else None for v in values]
            for name, values in measured.scores.items()
        },
    }


def write(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes the summary as JSON, Markdown and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "ranking.json", files.json_text(summary, indent=1) + "\n")
    files.write_text(folder / "ranking.md", markdown(summary))
    _draw(summary, folder / "ranking.png")


def heading(score: str) -> str:
    """Returns the name of a score, or of an order without one, in tables."""
    return BASELINES[score] if score in BASELINES else table.heading(score)


def markdown(summary: Mapping[str, Any]) -> str:
    """Returns the protocol, the accuracies, and the agreement: in the mean and by set."""
    lines = [_protocol(summary), "", "## Accuracy after fine-tuning", "", *_accuracies(summary)]
    for group, title in GROUPS.items():
        found = summary["agreement"][group]
        lines += ["", f"## Agreement: {title} ({found['count']})", "", *_means(found["scores"])]
    for name in summary["sets"]:
        of_set = {k: v["sets"][name] for k, v in summary["agreement"]["all"]["scores"].items()}
        lines += ["", f"## {_SETS[name]}: all candidates", "", *_of_set(of_set)]
    lines += [f"\nLeft out, for it failed on a set: `{name}`" for name in summary["left_out"]]
    lines += [f"\nFailed: `{run}`: {why}" for run, why in summary["failures"].items()]
    return "\n".join(lines) + "\n"


def _protocol(summary: Mapping[str, Any]) -> str:
    protocol = summary["protocol"]
    counts = "; ".join(
        f"{_SETS[name]} {facts['count']} / {facts['held_out_count']} / "
        f"{len(summary['sets'][name]['correct'][0])} images of {facts['classes']} classes"
        for name, facts in protocol["sets"].items()
    )
    rates = " or ".join(f"{rate:g}" for rate in protocol["rates"])
    return (
        f"Training / validation / test: {counts}. Each candidate was fine-tuned whole for "
        f"{protocol['epochs']} epochs (AdamW, rate {rates}, chosen for each candidate by the "
        f"validation images of {_SETS[next(iter(protocol['sets']))]}, batches of "
        f"{protocol['batch_size']}, one seed): {protocol['trainings']} trainings, "
        f"{protocol['seconds'] / 60:.0f} minutes. Scores are those of `tl_jax.rank` on the same "
        "training and validation images. Correlations are of a score and the test accuracy over "
        f"the candidates. In brackets: 95% intervals of {summary['draws']} bootstrap draws of the "
        "candidates and of the test examples (the regret's: of the test examples alone). Regret is "
        "the best accuracy minus that of the candidate that the score puts first; of several that "
        "are first, their mean."
    )


def _accuracies(summary: Mapping[str, Any]) -> list[str]:
    sets = summary["sets"]
    lines = [f"| candidate | rate | {' | '.join(_SETS[name] for name in sets)} |"]
    lines += [f"| --- | ---: |{' ---: |' * len(sets)}"]
    for place, candidate in enumerate(summary["candidates"]):
        cells = [f"{summary['rates'][place]:g}"]
        cells += [f"{of_set['accuracies'][place]:.3f}" for of_set in sets.values()]
        lines.append(f"| {candidate['name']} | {' | '.join(cells)} |")
    return lines


def _means(scores: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(scores.values()))["sets"])
    columns = ["mean rho", "mean tau-b", "mean regret", *(f"rho, {_SETS[name]}" for name in names)]
    lines = [f"| score | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for score, found in scores.items():
        cells = ["-"] * 3 if found["mean"] is None else _cells(found["mean"])
        cells += [
            "-" if one is None else f"{one['spearman']:.2f}" for one in found["sets"].values()
        ]
        lines.append(f"| {heading(score)} | {' | '.join(cells)} |")
    return lines


def _of_set(scores: Mapping[str, Any]) -> list[str]:
    lines = ["| score | candidates | rho | tau-b | regret |", "| --- | ---: | ---: | ---: | ---: |"]
    for score, found in scores.items():
        cells = ["0", *["-"] * 3] if found is None else [str(found["count"]), *_cells(found)]
        lines.append(f"| {heading(score)} | {' | '.join(cells)} |")
    return lines


def _cells(found: Mapping[str, Any]) -> list[str]:
    keys = ("spearman_interval", "kendall_interval", "regret_by_examples")
    values = [(found[key.partition("_")[0]], found[key]) for key in keys]
    formats = (".2f", ".2f", ".3f")
    return [
        f"{value:{form}}" + (f" ({bounds[0]:{form}} to {bounds[1]:{form}})" if bounds else "")
        for (value, bounds), form in zip(values, formats, strict=True)
    ]


def _draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draws the mean correlations with their intervals, and two scores against the accuracy."""
    from matplotlib.figure import Figure

    sets = summary["sets"]
    figure = Figure(figsize=(max(3 * len(sets), 9), 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    panels = above.subplots(1, len(GROUPS), sharey=True)
    for panel, (group, title) in zip(panels, GROUPS.items(), strict=True):
        found = summary["agreement"][group]
        _draw_means(panel, found["scores"])
        panel.set_title(f"{title} ({found['count']})", fontsize=10)
    panels[0].set_yticks(range(len(NAMES) + len(BASELINES)), map(heading, (*NAMES, *BASELINES)))
    panels[0].invert_yaxis()
    grid = below.subplots(len(_DRAWN), len(sets), squeeze=False)
    for row, score in zip(grid, _DRAWN, strict=True):
        for panel, name in zip(row, sets, strict=True):
            _draw_points(panel, summary["candidates"], sets[name], score)
            panel.set_title(_SETS[name], fontsize=9)
        row[0].set_ylabel("test accuracy, fine-tuned", fontsize=8)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=len(_KINDS), fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_means(panel: Any, scores: Mapping[str, Any]) -> None:
    for place, (score, found) in enumerate(scores.items()):
        mean = found["mean"]
        if mean is None:
            continue
        colour = "tab:gray" if score in BASELINES else "tab:blue"
        if mean["spearman_interval"]:
            panel.plot(mean["spearman_interval"], [place, place], color=colour, linewidth=1.5)
        panel.plot(mean["spearman"], place, "o", color=colour, markersize=6)
        of_sets = [each["spearman"] for each in found["sets"].values() if each is not None]
        panel.plot(of_sets, [place] * len(of_sets), "|", color="black", markersize=7)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_xlim(-1.05, 1.05)
    panel.set_xlabel("Spearman's rho: sets, mean, 95% interval", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.3)


def _draw_points(
    panel: Any, candidates: Sequence[Mapping[str, Any]], of_set: Mapping[str, Any], score: str
) -> None:
    for kind, colour in _KINDS.items():
        chosen = [place for place, each in enumerate(candidates) if _kind(each) == kind]
        x = [of_set["scores"][score][place] for place in chosen]
        y = [of_set["accuracies"][place] for place in chosen]
        points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None]
        panel.plot(*zip(*points, strict=True) if points else ([], []), "o", color=colour,
                   markersize=4, label=kind)  # fmt: skip
    panel.set_xlabel(heading(score), fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)


def _kind(candidate: Mapping[str, Any]) -> str:
    if candidate["imagenet"]:
        return "ImageNet"
    return "random" if candidate["weights"].endswith("random") else "trained here"

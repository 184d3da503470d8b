"""Defects of solar cells on the protocol of the set's authors: 75% to train on, 25% to test on.

    python -m experiments.elpv_folds [--folds 0 1 2 3] [--results DIR] [--workdir DIR] [--report]

The recipe is `configs/elpv.py`. Deitsch et al. (Solar Energy 185, 2019, arXiv:1807.02894) divide
the cells once, by label and type of cell. Here they are divided into four such quarters, and each
is tested on by a network that is trained on the other three: every cell is tested on once, and the
luck of a single division is seen. Nothing is chosen by the cells that are tested on: the recipe
was chosen on the split "validation" of `elpv`, and the last checkpoint is taken.

A fold writes one row to `runs/` in the folder of results; the same command continues where it was
stopped. `elpv.json` and `elpv.md` hold the result.
"""

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import elpv as recipe
from experiments.strategies_report import interval
from experiments.strategies_run import Bench, Job, Run
from tl_jax import files
from tl_jax.config import Config
from tl_jax.data.sources import elpv
from tl_jax.objectives.metrics import wilson_interval

RESULTS, WORKDIR = Path("experiments/results/elpv"), Path("runs/elpv_folds")
FOLDS = (0, 1, 2, 3)
_AUTHORS = {"convolutional network of the authors": 0.8842, "their support vector machine": 0.8244}
_COLUMNS = ("image", "label", "probability", "cell_type", "certainty", "split")


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the missing folds and writes the tables."""
    arguments = _parse(argv)
    cells = elpv.read_cells(elpv.package_data())
    bench = Bench(arguments.results / "runs", arguments.workdir, 1, make)
    if not arguments.report:
        for fold in arguments.folds:
            write_manifest(manifest(arguments.workdir, fold), cells, fold)
        bench.rows([run_of(arguments.workdir, fold) for fold in arguments.folds])
    rows = bench.finished_rows([run_of(arguments.workdir, fold) for fold in FOLDS])
    summary = summarize(rows)
    files.write_text(arguments.results / "elpv.json", json.dumps(summary, indent=2) + "\n")
    files.write_text(arguments.results / "elpv.md", markdown(summary))
    print(markdown(summary))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workdir", type=Path, default=WORKDIR)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    return parser.parse_args(argv)


def manifest(workdir: Path, fold: int) -> Path:
    """Returns the table of a fold's images."""
    return workdir / f"fold-{fold}.csv"


def run_of(workdir: Path, fold: int) -> Run:
    """Returns the training of a fold: the recipe, on the fold's table."""
    config = recipe.get_config()
    data = dataclasses.replace(
        config.data,
        source=f"manifest:{manifest(workdir, fold)}",
        labels=("label",),
        train_split="train",
    )
    config = dataclasses.replace(
        config, data=data, train=dataclasses.replace(config.train, seed=fold)
    )
    return Run("elpv", "recipe", config.optim.learning_rate, fold, config)


def folds_of(cells: Sequence[elpv.Cell]) -> dict[str, int]:
    """Returns the fold of each cell by its path: quarters of each label and type of cell."""
    shares = {str(fold): 1 / len(FOLDS) for fold in FOLDS}
    parts = elpv.split_cells(cells, shares, seed=1)
    return {cell.path: int(fold) for fold, part in parts.items() for cell in part}


def write_manifest(path: Path, cells: Sequence[elpv.Cell], fold: int) -> None:
    """Writes the table of a fold: its cells are the split "test", all others "train"."""
    fold_of, folder = folds_of(cells), elpv.package_data()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for cell in cells:
            writer.writerow([
                folder / cell.path,
                "defective" if cell.probability >= 0.5 else "functional",
                cell.probability,
                cell.cell_type,
                cell.certainty,
                "test" if fold_of[cell.path] == fold else "train",
            ])  # fmt: skip


def make(job: Job) -> int:
    """Trains a fold and writes its row; returns 0."""
    start = time.monotonic()
    tests = _tests(job.run.config)
    by_view = train(job.run.config, job.folder, [cell["image"] for cell in tests])
    lines = []
    for cell, *probabilities in zip(tests, *by_view.values(), strict=True):
        level = round(3 * float(cell["probability"]))
        lines.append(
            " ".join([cell["cell_type"], str(level), *(f"{p:.4f}" for p in probabilities)])
        )
    row = {"views": list(by_view), "cells": lines}
    test = {"accuracy": accuracy(cells_of(row), "one view"), "count": len(lines)}
    row |= {"test": test, "seconds": time.monotonic() - start}
    job.row.write_text(json.dumps(row) + "\n")
    return 0


def cells_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the tested cells of a row: type, level (of thirds), probability of a defect by view.

    Examples:
      >>> cells_of({"views": ["one view"], "cells": ["mono 2 0.6250"]})
      [{'cell_type': 'mono', 'level': 2, 'one view': 0.625}]
    """
    cells = []
    for line in row["cells"]:
        cell_type, level, *probabilities = line.split()
        by_view = dict(zip(row["views"], map(float, probabilities), strict=True))
        cells.append({"cell_type": cell_type, "level": int(level), **by_view})
    return cells


def _tests(config: Config) -> list[dict[str, str]]:
    """Returns the rows of the table that a configuration tests on."""
    with Path(config.data.source.removeprefix("manifest:")).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def train(config: Config, folder: Path, images: Sequence[str]) -> dict[str, list[float]]:
    """Trains, and returns the probability that each image is defective, by one view and two."""
    import tl_jax
    from tl_jax.data.views import Views
    from tl_jax.evaluation.predict import Predictor

    tl_jax.fit(config, folder)
    defective = {}
    for name, views in (("one view", Views()), ("and its mirror image", Views(flip=True))):
        predictions = Predictor(folder, views=views)(images, top=2)
        defective[name] = [dict(classes)["defective"] for classes in predictions]
    return defective


def accuracy(cells: Sequence[Mapping[str, Any]], view: str) -> float:
    """Returns the share of cells whose side of a probability of 1/2 is that of the experts."""
    return float(np.mean([(cell[view] >= 0.5) == (cell["level"] >= 2) for cell in cells]))


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns accuracies by fold and over all cells, in all and of parts of them."""
    by_row = [cells_of(row) for row in rows]
    cells = [cell for of_row in by_row for cell in of_row]
    views = rows[0]["views"] if rows else []
    parts = {
        "all cells": cells,
        "monocrystalline": [cell for cell in cells if cell["cell_type"] == "mono"],
        "polycrystalline": [cell for cell in cells if cell["cell_type"] == "poly"],
        "of which the experts were sure": [cell for cell in cells if cell["level"] in (0, 3)],
        "of which they were not": [cell for cell in cells if cell["level"] in (1, 2)],
    }
    by_fold = {view: [accuracy(of_row, view) for of_row in by_row] for view in views}
    return {
        "folds": [row["seed"] for row in rows],
        "cells": len(cells),
        "by_fold": by_fold,
        "interval_over_folds": {view: interval(values) for view, values in by_fold.items()},
        "parts": {
            name: {"cells": len(part)} | {view: _share(part, view) for view in views}
            for name, part in parts.items()
            if part
        },
        "seconds": [row["seconds"] for row in rows],
        "authors": _AUTHORS,
    }


def _share(cells: Sequence[Mapping[str, Any]], view: str) -> dict[str, Any]:
    share = accuracy(cells, view)
    return {"accuracy": share, "interval": wilson_interval(round(share * len(cells)), len(cells))}


def markdown(summary: Mapping[str, Any]) -> str:
    """Returns the tables."""
    views = list(summary["by_fold"])
    lines = [
        f"| accuracy | cells | {' | '.join(views)} |",
        f"| --- | ---: |{' ---: |' * len(views)}",
    ]
    for name, part in summary["parts"].items():
        shares = [
            f"{part[view]['accuracy']:.4f} ({part[view]['interval'][0]:.3f} to "
            f"{part[view]['interval'][1]:.3f})"
            for view in views
        ]
        lines.append(f"| {name} | {part['cells']:,} | {' | '.join(shares)} |")
    for name, value in summary["authors"].items():
        lines.append(f"| {name} | 656 | {value:.4f} |{' |' * (len(views) - 1)}")
    for view, bounds in summary["interval_over_folds"].items():
        values = ", ".join(f"{value:.4f}" for value in summary["by_fold"][view])
        over = (
            ""
            if bounds is None
            else f"; 95% interval of their mean {bounds[0]:.4f} to {bounds[1]:.4f}"
        )
        lines += ["", f"Folds, {view}: {values}{over}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Tests of the folds of `experiments.elpv_folds` and of the tables that it writes."""

import csv
from collections import Counter

from experiments import elpv_folds
from tl_jax.data.sources import elpv


def test_each_cell_is_tested_on_once_in_even_quarters(tmp_path):
    cells = elpv.read_cells(elpv.package_data())
    fold_of = elpv_folds.folds_of(cells)

    assert set(fold_of) == {cell.path for cell in cells}
    strata = Counter((cell.probability, cell.cell_type, fold_of[cell.path]) for cell in cells)
    for probability, cell_type, _ in strata:
        counts = [strata[probability, cell_type, fold] for fold in elpv_folds.FOLDS]
        assert max(counts) - min(counts) <= 2, (probability, cell_type, counts)

    path = tmp_path / "fold.csv"
    elpv_folds.write_manifest(path, cells, fold=2)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tested = {row["image"] for row in rows if row["split"] == "test"}
    assert tested == {
        str(elpv.package_data() / cell.path) for cell in cells if fold_of[cell.path] == 2
    }
    assert len(rows) == len(cells)


def test_a_fold_trains_the_recipe_on_its_own_table_and_chooses_nothing(tmp_path):
    config = elpv_folds.run_of(tmp_path, 3).config

    assert config.data.source == f"manifest:{elpv_folds.manifest(tmp_path, 3)}"
    assert (config.data.train_split, config.data.eval_split) == ("train", None)
    assert config.train.seed == 3


def _row(fold, *cells):
    return {
        "seed": fold,
        "seconds": 1.0,
        "views": ["one view"],
        "cells": list(cells),
    }


def test_summary_counts_every_cell_once_and_by_part():
    rows = [
        _row(0, "mono 3 0.9000", "mono 1 0.6000"),
        _row(1, "poly 0 0.1000", "poly 2 0.5000"),
    ]

    summary = elpv_folds.summarize(rows)

    assert summary["by_fold"] == {"one view": [0.5, 1.0]}
    accuracies = {
        name: (part["cells"], part["one view"]["accuracy"])
        for name, part in summary["parts"].items()
    }
    assert accuracies == {
        "all cells": (4, 0.75),
        "monocrystalline": (2, 0.5),
        "polycrystalline": (2, 1.0),
        "of which the experts were sure": (2, 1.0),
        "of which they were not": (2, 0.5),
    }
    text = elpv_folds.markdown(summary)
    assert "| all cells | 4 | 0.7500 (" in text
    assert "Folds, one view: 0.5000, 1.0000" in text

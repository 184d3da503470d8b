"""The study of defaults: its cells, its rows and their tables, on runs that are made up."""

import json

import numpy as np
import pytest

from experiments import defaults, defaults_data, defaults_report
from tl_jax.config import Config


def row(cell="elpv-20-lite0-32", method="tl_jax", rate=1e-3, seed=0, accuracy=0.8, loss=0.5):
    found = {"accuracy": accuracy, "balanced_accuracy": accuracy, "loss": loss, "count": 50}
    return {
        "set": cell,
        "method": method,
        "rate": rate,
        "seed": seed,
        "validation": found,
        "test": found,
    }


@pytest.fixture
def launched(monkeypatch):
    """Makes runs that only write a row, and collects their names."""
    names = []

    def launch(job):
        names.append(job.run.name)
        job.row.write_text(json.dumps({
            key: row(seed=job.run.seed, accuracy=0.8 + 0.01 * job.run.seed)[key]
            for key in ("validation", "test")
        }))  # fmt: skip
        return 0

    monkeypatch.setattr(defaults, "launch", launch)
    monkeypatch.setattr(defaults_data, "write", lambda *arguments: None)
    monkeypatch.setattr(defaults_report, "write", lambda *arguments: None)
    monkeypatch.setattr(defaults, "cells", lambda: [defaults.Cell("elpv", 20)])
    monkeypatch.setattr(defaults, "EPOCHS", {("elpv", 20): 3})
    return names


def test_the_most_important_cells_come_first():
    cells = defaults.cells()
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 3 * 8
    assert {(cell.network, cell.batch_size) for cell in cells[:8]} == {("lite0", 32)}
    assert {cell.network for cell in cells[:24]} == {"lite0"}


def test_ours_are_the_defaults_and_both_sides_have_the_same_data_and_epochs():
    cell = defaults.Cell("fashion", 100, "lite1", 128)
    ours, timm = defaults.our_run(cell, 2).config, defaults.timm_run(cell, 1e-3, 2).config
    for section in ("augment", "optim", "transfer"):
        assert getattr(ours, section) == getattr(Config(), section)
    assert ours.data == timm.data and ours.data.batch_size == 128
    assert ours.model.name == timm.model.name == "tf_efficientnet_lite1"
    epochs = [each.train.head_epochs + each.train.epochs for each in (ours, timm)]
    assert epochs == [defaults.EPOCHS["fashion", 100]] * 2
    assert ours.train.seed == timm.train.seed == 2
    assert timm.optim.learning_rate == pytest.approx(2e-3)  # 1e-3 * sqrt(128 / 32)
    assert timm.transfer.batch_norm == "update" and timm.train.label_smoothing == 0.1


def test_timms_rate_is_chosen_by_validation_and_loss_breaks_a_tie():
    rows = [
        row(rate=1e-4, accuracy=0.7),
        row(rate=1e-3, accuracy=0.8, loss=0.6),
        row(rate=3e-3, accuracy=0.8, loss=0.5),
        row("fashion-100-lite0-32", rate=1e-3),
    ]
    assert defaults.best_rates(rows) == {("elpv", 20): 3e-3, ("fashion", 100): 1e-3}


def test_runs_are_made_once_and_the_report_makes_none(launched, tmp_path, capsys):
    folders = ["--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work")]
    defaults.main([*folders, "--report"])
    assert launched == [] and "0 and 0 of 3" in capsys.readouterr().out
    defaults.main(folders)
    # Three rates, of which one is also a run of the table; three seeds of ours, three of timm's.
    assert len(launched) == len(set(launched)) == 3 + 3 + 2
    text = capsys.readouterr().out
    assert "| 0.810 | 0.785 to 0.835 | 0.810 |" in text and "0 above, 1 same, 0 below" in text
    defaults.main(folders)
    assert len(launched) == 8


@pytest.mark.parametrize(
    ("ours", "timm", "verdict"),
    [
        ([0.80, 0.81, 0.82], [0.70, 0.71, 0.72], "above"),
        ([0.70, 0.71, 0.72], [0.80, 0.81, 0.82], "below"),
        ([0.70, 0.80, 0.90], [0.71, 0.72, 0.73], "same"),
        ([0.9], [0.1], "same"),  # One run says nothing of the spread.
    ],
)
def test_a_cell_is_decided_by_the_interval_of_the_difference(ours, timm, verdict):
    assert defaults_report.compare(ours, timm) == verdict


def test_the_interval_of_a_difference_is_welchs():
    # Worked by hand: variances 1e-4 and 4e-4 over three, 2.94 degrees of freedom, t = 3.219.
    half = defaults_report.half_width([0.70, 0.71, 0.72], [0.60, 0.62, 0.64])
    assert half == pytest.approx(0.0416, abs=2e-4)


def test_tables_say_what_is_missing():
    cells = [defaults.Cell("elpv", 20), defaults.Cell("elpv", 100)]
    rows = [row(seed=s, accuracy=a) for s, a in enumerate((0.8, 0.81, 0.82))]
    rows += [row(method="timm", seed=s, accuracy=0.7 + 0.001 * s) for s in range(3)]
    rates = dict.fromkeys([cell.subset for cell in cells], 1e-3)
    text = defaults_report.tables(rows, cells, defaults.EPOCHS, rates, seeds=3)
    assert "| Solar cells (ELPV) | 20 | 20 | **0.810** |" in text and "1 above" in text
    assert "elpv-100-lite0-32 (0 and 0 of 3)" in text and "elpv-20-lite0-32" not in text


def test_subsets_are_nested_and_take_all_of_a_smaller_class():
    labels = np.array([0] * 30 + [1] * 5)
    few, more = (defaults_data._few_of_each(labels, limit) for limit in (4, 10))
    assert np.bincount(labels[few]).tolist() == [4, 4]
    assert np.bincount(labels[more]).tolist() == [10, 5]
    assert set(few) < set(more)
    assert len(defaults_data._few_of_each(labels, None)) == 35


def test_the_page_takes_the_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n{}\nold\n{}\nafter\n".format(*defaults_report.MARKERS))
    defaults_report.write("the tables", tmp_path, page)
    assert "the tables" in page.read_text() and "old" not in page.read_text()
    assert (tmp_path / "defaults.md").read_text() == "the tables"
    committed = defaults.DOCS.read_text()
    assert all(marker in committed for marker in defaults_report.MARKERS)


@pytest.mark.full
def test_a_row_of_timms_is_trained_and_tested(tmp_path):
    from experiments import defaults_torch

    rng = np.random.default_rng(0)
    labels = np.arange(8, dtype=np.int32) % 2
    images = (rng.integers(0, 120, (8, 28, 28, 3)) + 100 * labels[:, None, None, None]).astype("u1")
    arrays = {f"{part}_{split}": values for split in ("train", "val", "test")
              for part, values in (("x", images), ("y", labels))}  # fmt: skip
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "elpv-20.npz", class_names=np.array(["dark", "bright"]), **arrays)
    run = defaults.timm_run(defaults.Cell("elpv", 20, batch_size=4), 1e-3, 0, tmp_path)
    measured = defaults_torch.measured_run(run.config, zero_head=False)
    assert len(measured["history"]) == defaults.EPOCHS["elpv", 20]
    assert measured["test"]["count"] == 8 and measured["test"]["accuracy"] > 0.9
    assert measured["history"][-1]["train_loss"] < measured["history"][0]["train_loss"]

"""The loop: what a run leaves behind, exact resume, and clear errors before anything is lost."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from tl_jax import config as configuration
from tl_jax import trees
from tl_jax.config import Config
from tl_jax.run import fit as loop
from tl_jax.run import journal
from tl_jax.run.experiment import prepare
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run
from tl_jax.training import state
from tl_jax.weights.sources import read_weights
from tl_jax.weights.state_dict import from_state_dict


def change(config: Config, section: str, **fields) -> Config:
    return dataclasses.replace(
        config, **{section: dataclasses.replace(vars(config)[section], **fields)}
    )


def leaves(workdir):
    """Returns the arrays of the newest checkpoint, the optimizer's too, by file order."""
    import orbax.checkpoint as ocp

    newest = max((workdir / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    restored = [ocp.StandardCheckpointer().restore(newest / item) for item in ITEMS]
    return jax.tree.leaves(restored)


ITEMS = ("variables", "optimizer")


def without_speed(records):
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]


def test_a_run_leaves_a_whole_record(tiny_config, tmp_path):
    workdir = tmp_path / "run"
    report = fit(tiny_config, workdir)
    assert json.loads((workdir / "report.json").read_text()) == report
    assert configuration.from_json((workdir / "config.json").read_text()) == tiny_config
    assert {split: found["count"] for split, found in report["metrics"].items()} == {
        "val": 10,
        "test": 14,
    }
    records = journal.read(workdir)
    assert [r["epoch"] for r in records if r["split"] == "val"] == [1, 2, 3, 4]
    best = max(r["accuracy"] for r in records if r["split"] == "val")
    assert report["metrics"]["val"]["accuracy"] == best
    head_rates = [r for r in records if r["split"] == "train" and r["epoch"] <= 2]
    assert all("learning_rate_stage2" not in r for r in head_rates)
    info = json.loads((workdir / "run.json").read_text())
    _, record = read_weights("resnet18", tiny_config.model.weights)
    assert info["weights"]["sha256"] == record.sha256
    assert info["class_names"] == ["grüne", "red ones"]
    for picture in ("curves.png", "confusion.png"):
        assert len(np.unique(np.asarray(Image.open(workdir / picture).convert("L")))) > 10
    assert list((workdir / "tensorboard").glob("events*"))


def test_the_backbone_stands_still_while_the_head_is_trained(tiny_config, tmp_path):
    config = change(tiny_config, "train", epochs=0)
    fit(config, tmp_path / "run", stop_after_epoch=9)  # Beyond the last one it changes nothing.
    run = load_run(tmp_path / "run")
    state_dict, _ = read_weights("resnet18", config.model.weights)
    start = from_state_dict(run.model, state_dict, except_head=True)
    for path, leaf in trees.flatten(start).items():
        same = np.array_equal(leaf, trees.flatten(run.variables)[path])
        assert same == (path[1] != "fc"), trees.dotted(path)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_stopped_run_ends_as_if_it_had_not_been(tiny_config, tmp_path, epoch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = fit(tiny_config, whole)
    assert fit(tiny_config, stopped, stop_after_epoch=epoch) is None
    assert not (stopped / "report.json").exists()
    assert fit(tiny_config, stopped) == expected
    assert without_speed(journal.read(stopped)) == without_speed(journal.read(whole))
    for mine, theirs in zip(leaves(stopped), leaves(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_run_killed_within_an_epoch_ends_as_if_it_had_not_been(
    tiny_config, tmp_path, monkeypatch
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = fit(tiny_config, whole)
    write = journal.Journal.write

    def die_in_the_third_epoch(self, split, step, epoch, metrics):
        write(self, split, step, epoch, metrics)
        if epoch > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.Journal, "write", die_in_the_third_epoch)
        fit(tiny_config, killed)
    assert fit(tiny_config, killed) == expected
    assert without_speed(journal.read(killed)) == without_speed(journal.read(whole))


def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path, monkeypatch):
    config = change(tiny_config, "train", head_epochs=1, epochs=0)
    report = fit(config, tmp_path / "run")
    monkeypatch.setattr("tl_jax.run.fit.prepare", None)
    assert fit(config, tmp_path / "run") == report


def test_a_folder_of_another_configuration_is_left_alone(tiny_config, tmp_path):
    workdir = tmp_path / "run"
    fit(change(tiny_config, "train", head_epochs=1, epochs=0), workdir)
    before = sorted(p.name for p in workdir.rglob("*"))
    with pytest.raises(ValueError, match=r"train\.seed: 0 != 5") as error:
        fit(change(tiny_config, "train", head_epochs=1, epochs=0, seed=5), workdir)
    assert "--workdir" in str(error.value)
    assert sorted(p.name for p in workdir.rglob("*")) == before


def test_a_folder_of_other_things_is_left_alone(tiny_config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds no run"):
        fit(tiny_config, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
    config = change(tiny_config, "optim", name="sgd", learning_rate=1e30, clip_norm=None)
    config = change(config, "model", head_dropout=0.0)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        fit(config, tmp_path / "run")


def test_a_class_absent_from_a_split_is_named(tiny_config, photos, tmp_path):
    for file in (photos / "val" / "grüne").iterdir():
        file.unlink()
    (photos / "val" / "grüne").rmdir()
    with pytest.raises(ValueError, match="grüne") as error:
        fit(tiny_config, tmp_path / "run")
    assert "val" in str(error.value)


def test_corrupt_images_are_named_and_can_be_skipped(tiny_config, photos, tmp_path, capsys):
    (photos / "train" / "red ones" / "3.png").write_bytes(b"not a picture")
    config = change(tiny_config, "train", head_epochs=1, epochs=0)
    with pytest.raises(ValueError, match=r"red ones.3\.png") as error:
        fit(config, tmp_path / "one")
    assert "skip" in str(error.value)
    fit(change(config, "data", on_corrupt="skip"), tmp_path / "two")
    skipped = json.loads((tmp_path / "two" / "run.json").read_text())["skipped"]["train"]
    assert len(skipped) == 1 and "3.png" in skipped[0]
    assert "3.png" in capsys.readouterr().err


def test_mixed_precision_keeps_the_state_in_float32(tiny_config, tmp_path):
    config = change(tiny_config, "model", dtype="bfloat16")
    report = fit(change(config, "train", head_epochs=0, epochs=1), tmp_path / "run")
    assert np.isfinite(report["metrics"]["val"]["loss"])
    assert {leaf.dtype for leaf in leaves(tmp_path / "run") if leaf.ndim} == {np.dtype("float32")}


def test_an_mlp_head_stands_on_a_backbone_without_its_top(tiny_config, tmp_path):
    config = change(tiny_config, "model", head="mlp", hidden=(8,))
    fit(change(config, "train", head_epochs=1, epochs=1), tmp_path / "run")
    run = load_run(tmp_path / "run")
    names = {name.split(".")[0] for name in trees.names(run.variables["params"])}
    assert names == {"backbone", "head"}
    assert run.variables["params"]["head"]["fc1"]["kernel"].shape == (16, 8)


# ---- what the pieces of the loop do


@pytest.mark.parametrize(("metric", "lower"), [("accuracy", False), ("loss", True)])
def test_the_checkpoints_are_kept_as_configured(tiny_config, tmp_path, monkeypatch, metric, lower):
    class OpenedError(Exception):
        """How the checkpoints were opened."""

    def opened(*args, **options):
        raise OpenedError(args, options)

    monkeypatch.setattr(loop, "Checkpoints", opened)
    with pytest.raises(OpenedError) as found:
        fit(change(tiny_config, "train", keep=3, best_metric=metric), tmp_path / "run")
    assert found.value.args == (
        (tmp_path / "run" / "checkpoints",),
        {"keep": 3, "best_metric": metric, "lower_is_better": lower},
    )


class Record:
    """A journal that is kept in memory."""

    def __init__(self):
        self.found = []

    def write(self, split, step, epoch, metrics):
        self.found.append({"split": split, "step": step, "epoch": epoch, **metrics})


def test_losses_and_rates_are_recorded_every_so_many_steps(tiny_config):
    config = change(change(tiny_config, "train", log_every=3), "data", batch_size=5)
    parts = prepare(change(config, "optim", warmup_epochs=0.0))
    taken = []

    def train_step(state, batch):
        taken.append(batch)
        return state, {"loss": np.float32(batch), "accuracy": np.float32(batch / 10)}

    record, phase = Record(), parts.phases[1]
    loop._epoch(parts, phase, 4, train_step, iter(range(100)), None, record)
    assert (parts.steps_per_epoch, taken) == (5, [0, 1, 2, 3, 4])
    found = [{k: v for k, v in r.items() if "rate" not in k} for r in without_speed(record.found)]
    assert found == [
        {"split": "train", "step": 18, "epoch": 3.6, "loss": 1.0, "accuracy": pytest.approx(0.1)},
        {"split": "train", "step": 20, "epoch": 4.0, "loss": 3.5, "accuracy": pytest.approx(0.35)},
    ]
    # It is the second epoch of its phase: steps 7 and 9 of 10, counted from 0.
    for step, written in zip((7, 9), record.found, strict=True):
        rates = {k: v for k, v in written.items() if k.startswith("learning_rate_")}
        assert rates == {f"learning_rate_{k}": float(r(step)) for k, r in phase.rates.items()}
        assert rates["learning_rate_head"] == pytest.approx(
            1e-2 * (1 + np.cos(np.pi * step / 10)) / 2
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told_with_its_epoch(value):
    with pytest.raises(FloatingPointError, match=f"loss is {value} in epoch 3"):
        loop._means([{"loss": 1.0}, {"loss": value}], 3)


def test_what_decides_is_read_from_the_epochs_that_are_done(tiny_config, tmp_path):
    parts = prepare(change(tiny_config, "train", best_metric="loss"))
    with journal.Journal(tmp_path, after_step=0) as record:
        for epoch in (1, 2, 3):
            record.write("train", epoch, epoch, {"loss": 9.0})
            record.write("val", epoch, epoch, {"loss": epoch / 10, "accuracy": 0.9})
    assert loop._history(parts, tmp_path, 2) == [0.1, 0.2]


REACHED, WAITED = "reached the target", "no better accuracy for 2 epochs"


@pytest.mark.parametrize(
    ("fields", "history", "first", "last"),
    [
        ({"target": 0.5}, [0.3, 0.4], None, None),
        ({"target": 0.5}, [0.3, 0.6], REACHED, REACHED),
        ({"target": 0.5, "best_metric": "loss"}, [0.6, 0.4], REACHED, REACHED),
        ({"target": 0.5, "best_metric": "loss"}, [0.7, 0.6], None, None),
        # The last phase begins after the second epoch.
        ({"patience": 2}, [0.9, 0.1, 0.1], None, None),
        ({"patience": 2}, [0.9, 0.9, 0.1, 0.1, 0.1], None, WAITED),
        ({"patience": 2, "best_metric": "loss"}, [0.1, 0.1, 0.5, 0.4, 0.3], None, None),
    ],
)
def test_patience_is_of_the_last_phase_and_a_target_of_all(
    tiny_config, fields, history, first, last
):
    parts = prepare(change(tiny_config, "train", **fields))
    for phase, expected in zip(parts.phases, (first, last), strict=True):
        found = loop._reason_to_stop(parts, phase, history)
        assert found is None if expected is None else expected in found


def test_a_file_that_cannot_be_written_whole_is_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    loop.write_whole(path, "old")
    whole = type(path).write_text

    def until_the_disk_is_full(self, text):
        whole(self, text[:2])
        raise OSError("no space left")

    monkeypatch.setattr(type(path), "write_text", until_the_disk_is_full)
    with pytest.raises(OSError, match="no space left"):
        loop.write_whole(path, "new")
    assert path.read_text() == "old"


def test_the_pictures_are_of_the_test_split_if_there_is_one(tiny_config, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        loop.plots, "learning_curves", lambda *args, **options: drawn.append(options)
    )
    monkeypatch.setattr(
        loop.plots,
        "confusion_matrix",
        lambda matrix, *args, title: drawn.append((matrix.tolist(), title)),
    )
    report = {
        "metrics": {"val": {"accuracy": 0.25}, "test": {"accuracy": 0.75}},
        "confusion": {"val": [[1, 2], [3, 4]], "test": [[5, 6], [7, 8]]},
    }
    loop._draw(prepare(tiny_config), tmp_path, report)
    loop._draw(prepare(change(tiny_config, "data", test_split=None)), tmp_path, report)
    assert drawn[0]["phase_ends"] == [2]
    assert drawn[1] == ([[5, 6], [7, 8]], "test, accuracy 0.750")
    assert drawn[3] == ([[1, 2], [3, 4]], "val, accuracy 0.250")


class Kept:
    """Checkpoints of which the second epoch's, of three steps each, is the best of three."""

    def best_step(self):
        return 6

    def latest_step(self):
        return 9

    def restore_variables(self, step, like):
        return f"variables of step {step}"


def test_the_report_is_of_the_best_checkpoint(tiny_config, tmp_path, monkeypatch):
    def measure(variables, source):
        assert variables == "variables of step 6"
        return {"count": len(source)}, np.asarray([[1, 2], [3, 4]])

    monkeypatch.setattr(loop, "_draw", lambda *args: None)
    parts = dataclasses.replace(prepare(tiny_config), measure=measure)
    report = loop._report(parts, Kept(), tmp_path, "enough")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report == {
        "model": "resnet18",
        "epochs": 3,
        "stopped": "enough",
        "best_epoch": 2,
        "best_metric": "accuracy",
        "metrics": {"val": {"count": 10}, "test": {"count": 14}},
        "confusion": {split: [[1, 2], [3, 4]] for split in ("val", "test")},
        "class_names": ["grüne", "red ones"],
        "trained_parameters": {"head": 34, "all": 18994},
        "zero_shot": None,
    }


def test_what_moves_is_measured_as_its_average_and_what_stands_still_as_it_is(tiny_config):
    parts = prepare(change(tiny_config, "train", ema=0.5))
    phase = parts.phases[0]
    begun = jax.tree.map(lambda leaf: leaf + 1, parts.start.variables)
    current = state.create(begun, phase.tx, phase.plan)  # The average begins with it.
    moved = jax.tree.map(lambda leaf: leaf + 1, begun["params"]["fc"])
    found = loop._to_evaluate(
        parts, phase, current.replace(params={**begun["params"], "fc": moved})
    )
    jax.tree.map(np.testing.assert_array_equal, found, begun)
    assert loop._to_evaluate(prepare(tiny_config), phase, current) is None

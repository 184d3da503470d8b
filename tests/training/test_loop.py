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
from tl_jax.evaluation.run import load_run
from tl_jax.training import journal
from tl_jax.training.loop import fit
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
    fit(config, tmp_path / "run")
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
    monkeypatch.setattr("tl_jax.training.loop.prepare", None)
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

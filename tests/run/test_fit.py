"""The loop: what a run leaves behind, exact resume, early stopping, and clear errors."""

import gc
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support.folders import digests
from tests.support.runs import change, leaves, without_speed
from tl_jax import config as configuration
from tl_jax import trees
from tl_jax.config import PhaseConfig
from tl_jax.models.variables import from_state_dict
from tl_jax.objectives import metrics as objectives
from tl_jax.run import epochs, journal, plots
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import RunFolder, load_run
from tl_jax.run.report import ZERO_SHOT
from tl_jax.training.ema import averaged_params
from tl_jax.weights.sources import read_weights

pytestmark = pytest.mark.slow


def records_of(workdir, split):
    return [record for record in journal.read(workdir) if record["split"] == split]


# ---- the record


def test_a_run_leaves_a_complete_record(finished_run):
    workdir, report = finished_run.workdir, finished_run.report
    assert json.loads((workdir / "report.json").read_text()) == report
    assert configuration.from_json((workdir / "config.json").read_text()) == finished_run.config
    counts = {split: metrics["count"] for split, metrics in report["metrics"].items()}
    assert counts == {"val": 10, "test": 14}
    assert (report["model"], report["epochs"], report["stopped"]) == ("resnet18", 4, None)
    assert report["trained_parameters"] == {"head": 34, "all": 18994}
    assert report["zero_shot"] is None
    info = json.loads((workdir / "run.json").read_text())
    _, record = read_weights("resnet18", finished_run.config.model.weights)
    assert info["weights"]["sha256"] == record.sha256
    assert info["class_names"] == report["class_names"] == ["grüne", "red ones"]
    assert list((workdir / "tensorboard").glob("events*"))
    assert {path.stem for path in workdir.glob("*.png")} == {"confusion", "curves", "reliability"}


def test_the_report_has_intervals_of_the_test_split(finished_run):
    found, metrics = finished_run.report["intervals"], finished_run.report["metrics"]["test"]
    assert {key: found[key] for key in ("split", "level", "draws")} == {
        "split": "test", "level": 0.95, "draws": 1000,
    }  # fmt: skip
    assert found["metrics"].keys() == {"accuracy", "balanced_accuracy", "macro_f1"}
    for name, (low, high) in found["metrics"].items():
        assert low <= metrics[name] <= high


def test_rankings_are_measured_for_the_report_and_where_they_choose(finished_run, tmp_path):
    (first, *_) = records_of(finished_run.workdir, "val")
    assert "macro_auc" not in first and "balanced_accuracy" in first
    assert 0 <= finished_run.report["metrics"]["val"]["macro_auc"] <= 1
    config = change(finished_run.config, "train", best_metric="macro_auc")
    assert fit(config, tmp_path / "run", stop_after_epoch=1) is None
    (chosen,) = records_of(tmp_path / "run", "val")
    assert 0 <= chosen["macro_auc"] <= 1


def test_the_report_is_of_the_best_checkpoint(finished_run, tmp_path):
    """Of the head's two epochs the first is the better one."""
    report = fit(change(finished_run.config, "train", epochs=0), tmp_path / "run")
    first, second = records_of(tmp_path / "run", "val")
    assert first["accuracy"] > second["accuracy"]
    assert (report["best_epoch"], report["epochs"], report["stopped"]) == (1, 2, None)
    assert report["metrics"]["val"]["accuracy"] == first["accuracy"]
    assert report["metrics"]["val"]["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert load_run(tmp_path / "run").step == first["step"]
    for split, confusion in report["confusion"].items():
        assert np.sum(confusion) == report["metrics"][split]["count"]


def test_losses_and_rates_are_recorded_every_log_every_steps(finished_run):
    # Epochs of three steps, a record every two and at the end; a warm-up of two steps a phase.
    assert [r["epoch"] for r in records_of(finished_run.workdir, "val")] == [1, 2, 3, 4]
    records = records_of(finished_run.workdir, "train")
    assert [record["step"] for record in records] == [2, 3, 5, 6, 8, 9, 11, 12]
    assert [record["epoch"] for record in records[:2]] == [2 / 3, 1.0]
    peak = finished_run.config.optim.learning_rate
    for record in records:
        step = (record["step"] - 1) % 6
        cosine = peak * (1 + np.cos(np.pi * (step - 2) / 4)) / 2
        expected = peak * (step + 1) / 2 if step < 2 else cosine
        assert record["learning_rate_head"] == pytest.approx(expected, rel=1e-5)
        assert ("learning_rate_stage2" in record) == (record["epoch"] > 2)
        assert record["images_per_second"] > 0 and record["grad_norm"] > 0


def test_fit_takes_the_steps_of_its_experiment(finished_run):
    experiment = Experiment.from_config(finished_run.config)
    phase, batches = experiment.phases[0], experiment.train_batches(0)
    train_step, state = experiment.compile_step(phase), experiment.begin(phase, None)
    losses = []
    for _ in range(3):
        state, metrics = train_step(state, next(batches))
        losses.append(float(metrics["loss"]))
    batches.close()
    recorded = [record["loss"] for record in records_of(finished_run.workdir, "train")[:2]]
    assert recorded == [pytest.approx(np.mean(losses[:2])), pytest.approx(losses[2])]


def test_parameters_are_kept_once_while_training(tiny_config, tmp_path):
    """Their initial values are not held beside those that are trained, nor in a resumed run."""
    flat = trees.flatten(Experiment.from_config(tiny_config).initial.variables["params"])
    frozen = [leaf for path, leaf in flat.items() if path[0] != "fc" and path[-1] == "kernel"]
    shapes = {leaf.shape for leaf in frozen}
    num_bytes = sum(leaf.nbytes for leaf in frozen)
    del flat, frozen

    def held() -> int:
        return sum(array.nbytes for array in jax.live_arrays() if array.shape in shapes)

    def held_while_training(last_epoch: int) -> set[int]:
        gc.collect()
        before, found = held(), set[int]()
        fit(
            tiny_config,
            tmp_path / "run",
            stop_after_epoch=last_epoch,
            should_stop=lambda: found.add(held() - before),
        )
        return found

    # Two epochs of the head alone: the optimizer holds nothing of these shapes.
    assert [held_while_training(epoch) for epoch in (1, 2)] == [{num_bytes}] * 2


def test_the_plan_is_printed_before_each_phase(finished_run):
    lines = [line.split() for line in finished_run.log.splitlines()]
    assert [line for line in lines if line[:1] == ["phase"]] == [
        ["phase", "head,", "epochs", "1", "to", "2"],
        ["phase", "all,", "epochs", "3", "to", "4"],
    ]
    assert [line[2] for line in lines if line[:1] == ["stage1"]] == ["0", "5,744"]
    assert "26 train, 10 val, 14 test; 2 classes" in finished_run.log
    times = [line for line in finished_run.log.splitlines() if "val: loss" in line]
    assert [line.endswith(" with compilation") for line in times] == [True, False, False, False]
    assert "warning  32 x 32 pixels, where the weights were trained with" in finished_run.log


@pytest.mark.draws
def test_the_pictures_are_of_the_test_split(finished_run, tmp_path):
    report = finished_run.report
    accuracy = report["metrics"]["test"]["accuracy"]
    plots.confusion_matrix(
        np.asarray(report["confusion"]["test"]),
        report["class_names"],
        tmp_path / "confusion.png",
        title=f"test, accuracy {accuracy:.3f}",
    )
    plots.learning_curves(
        journal.read(finished_run.workdir),
        tmp_path / "curves.png",
        title=f"resnet18 on {finished_run.config.data.source}",
        phase_ends=[2],
    )
    for name in ("confusion.png", "curves.png"):
        with Image.open(finished_run.workdir / name) as actual, Image.open(tmp_path / name) as mine:
            np.testing.assert_array_equal(np.asarray(actual), np.asarray(mine))


# ---- resume


def test_a_run_stopped_after_every_epoch_ends_as_if_it_had_not_been(finished_run, tmp_path):
    workdir = tmp_path / "stopped"
    for epoch in (1, 2, 3):
        assert fit(finished_run.config, workdir, stop_after_epoch=epoch) is None
        assert not (workdir / "report.json").exists()
        if epoch == 2:
            check_that_only_the_head_moved(finished_run.config, load_run(workdir))
    assert fit(finished_run.config, workdir, stop_after_epoch=1) is None  # Done already.
    assert fit(finished_run.config, workdir) == finished_run.report
    expected = without_speed(journal.read(finished_run.workdir))
    assert without_speed(journal.read(workdir)) == expected
    for mine, theirs in zip(leaves(workdir), leaves(finished_run.workdir), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def check_that_only_the_head_moved(config, run):
    state_dict, _ = read_weights("resnet18", config.model.weights)
    initial = from_state_dict(run.model, state_dict, except_head=True)
    for path, leaf in trees.flatten(initial).items():
        same = np.array_equal(leaf, trees.flatten(run.variables)[path])
        assert same == (path[1] != "fc"), trees.dotted(path)


def test_a_run_killed_within_an_epoch_ends_as_if_it_had_not_been(
    finished_run, tmp_path, monkeypatch
):
    write = journal.Journal.write

    def die_in_the_third_epoch(self, split, step, epoch, metrics):
        write(self, split, step, epoch, metrics)
        if epoch > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.Journal, "write", die_in_the_third_epoch)
        fit(finished_run.config, tmp_path / "killed")
    assert fit(finished_run.config, tmp_path / "killed") == finished_run.report
    expected = without_speed(journal.read(finished_run.workdir))
    assert without_speed(journal.read(tmp_path / "killed")) == expected


def test_a_finished_run_is_not_trained_again(finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.workdir.rglob("*.json*")}
    assert fit(finished_run.config, finished_run.workdir) == finished_run.report
    assert "holds a finished run" in capsys.readouterr().err
    before.pop(finished_run.workdir / "config.json")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_finished_run_reports_on_no_other_data(finished_run, photos, tmp_path, capsys):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "run")
    config = change(finished_run.config, "data", source=f"folder:{photos}")  # A copy of the data.
    image = next((photos / "train" / "grüne").iterdir())
    shutil.copy(image, image.with_name(f"more{image.suffix}"))
    with pytest.raises(ValueError, match=r"(?s)holds a run of other data.*1 image more: .*more"):
        fit(config, workdir)
    (workdir / "config.json").write_text(configuration.to_json(config))
    with pytest.raises(ValueError, match=r"(?s)holds a run of other data.*1 image more: .*more"):
        fit(config, workdir)
    shutil.rmtree(photos)
    assert fit(config, workdir) == finished_run.report
    assert "the data of the run cannot be read now" in capsys.readouterr().err


def test_phases_and_averages_are_resumed_exactly(tiny_config, tmp_path):
    """Two phases with a moving average: stopped between them, or not."""
    phases = (PhaseConfig(1, "head"), PhaseConfig(1, "head+last:1"))
    config = change(change(tiny_config, "train", ema=0.5), "transfer", phases=phases)
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    report = fit(config, through)
    assert fit(config, stopped, stop_after_epoch=1) is None
    assert fit(config, stopped) == report
    for one, other in zip(leaves(through), leaves(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_speed(journal.read(through)) == without_speed(journal.read(stopped))
    assert list(report["trained_parameters"]) == ["head", "head+last:1"]
    # The average is what was evaluated, and what is used.
    recorded = records_of(through, "val")[report["best_epoch"] - 1]
    assert recorded["loss"] == pytest.approx(report["metrics"]["val"]["loss"], rel=1e-5)
    run, experiment = load_run(through), Experiment.from_config(config)
    with RunFolder(through).open_checkpoints(config) as checkpoints:
        state = experiment.restore(checkpoints, run.step)
    used = run.variables["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(used, averaged_params(state.opt_state)["fc"]["kernel"])
    assert not np.array_equal(used, state.params["fc"]["kernel"])


def test_the_zero_shot_accuracy_is_recorded_once_whenever_the_run_is_killed(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = change(
        tiny_config, "transfer", classifier="load", class_mapping=("red ones=tabby|3", "grüne=7")
    )
    config = change(config, "train", target=0.01)

    def die(self, split, *args):
        if split == "train":
            raise KeyboardInterrupt
        write(self, split, *args)

    write = journal.Journal.write
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(journal.Journal, "write", die)
            fit(config, tmp_path / "run")
    assert [record["split"] for record in journal.read(tmp_path / "run")] == [ZERO_SHOT]
    assert fit(config, tmp_path / "run", stop_after_epoch=1) is None
    report = fit(config, tmp_path / "run")
    assert "2 of 2 classes start from the pretrained classifier" in capsys.readouterr().err
    assert report["zero_shot"]["examples"] == report["zero_shot"]["of_matched_classes"] == 10
    assert report["zero_shot"] == records_of(tmp_path / "run", ZERO_SHOT)[0]
    assert len(records_of(tmp_path / "run", ZERO_SHOT)) == 1


# ---- stopping early


def test_a_target_stops_the_run_and_is_reported(tiny_config, tmp_path, capsys):
    config = change(tiny_config, "train", target=0.01)
    report = fit(config, tmp_path / "run")
    assert report["epochs"] == 1
    assert "reached the target 0.01 in epoch 1" in report["stopped"]
    assert "stopped after epoch 1 of 4" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report


def test_patience_counts_in_the_last_phase_and_survives_a_stop(tiny_config, tmp_path):
    config = change(tiny_config, "train", patience=2, best_metric="loss")
    config = change(config, "optim", schedule="constant", warmup_epochs=0.0)
    unmoved = {"trained": "head", "learning_rate": 0.0}
    phases = (PhaseConfig(3, **unmoved), PhaseConfig(9, **unmoved))
    config = change(config, "transfer", phases=phases)
    assert fit(config, tmp_path / "run", stop_after_epoch=5) is None
    report = fit(config, tmp_path / "run")
    assert report["epochs"] == 3 + 3
    losses = [record["loss"] for record in records_of(tmp_path / "run", "val")]
    reason = f"no better loss for 2 epochs: the best is {losses[3]:.4g}, of epoch 4"
    assert report["stopped"] == reason


# ---- errors


def test_a_folder_of_another_configuration_is_left_alone(finished_run):
    before = sorted(path.name for path in finished_run.workdir.rglob("*"))
    with pytest.raises(ValueError, match=r"train\.seed: 0 != 5") as error:
        fit(change(finished_run.config, "train", seed=5), finished_run.workdir)
    assert "--workdir" in str(error.value)
    assert sorted(path.name for path in finished_run.workdir.rglob("*")) == before


def test_a_folder_of_other_files_is_left_alone(tiny_config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds no run"):
        fit(tiny_config, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
    config = change(tiny_config, "optim", name="sgd", learning_rate=1e30, clip_norm=None)
    config = change(config, "model", head_dropout=0.0)
    with pytest.raises(FloatingPointError, match="(loss|gradient) is (nan|inf) in epoch .*rate"):
        fit(config, tmp_path / "run")


def test_where_nothing_was_saved_the_folder_can_be_used_again(tiny_config, tmp_path, monkeypatch):
    def diverge(*args, **options):
        raise FloatingPointError("the training loss is nan")

    monkeypatch.setattr(epochs, "train", diverge)
    with pytest.raises(FloatingPointError, match="the folder can be used again") as error:
        fit(tiny_config, tmp_path / "run")
    assert "another folder" not in str(error.value)
    RunFolder(tmp_path / "run").check(change(tiny_config, "optim", learning_rate=1e-5))


def test_a_class_absent_from_the_training_split_is_named(tiny_config, photos, tmp_path):
    shutil.rmtree(photos / "train" / "grüne")
    with pytest.raises(ValueError, match="grüne"):
        fit(tiny_config, tmp_path / "run")


def test_corrupt_images_are_named(tiny_config, photos, tmp_path):
    (photos / "train" / "red ones" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"red ones.3\.png") as error:
        fit(tiny_config, tmp_path / "run")
    assert "skip" in str(error.value)


def test_a_refused_start_leaves_nothing_and_the_corrected_one_begins(tiny_config, tmp_path):
    workdir = tmp_path / "runs" / "mine"
    for section, fields, message in (
        ("transfer", {"trained": "heads"}, "did you mean 'head'"),
        ("data", {"eval_split": "vall"}, "vall"),
        ("optim", {"warmup_epochs": 99.0}, "warm-up"),
        ("train", {"target": 95.0}, "write 0.95 for 95 percent"),
        ("model", {"weights": "none.safetensors"}, "none.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(change(tiny_config, section, **fields), workdir)
        assert not workdir.parent.exists()


def test_a_run_whose_data_changed_is_left_as_it_was(finished_run, photos, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    (workdir / "report.json").unlink()  # As if it had been interrupted.
    before = digests(workdir)
    moved = change(finished_run.config, "data", source=f"folder:{photos}")
    for split in ("train", "val", "test"):
        (photos / split / "red ones").rename(photos / split / "red")
    with pytest.raises(ValueError, match="class 'red ones' is called 'red' now"):
        fit(moved, workdir)
    for split in ("train", "val", "test"):
        (photos / split / "red").rename(photos / split / "red ones")
    extra = photos / "train" / "red ones" / "extra.png"
    shutil.copy(photos / "train" / "red ones" / "0.png", extra)
    with pytest.raises(ValueError, match="train: 1 image more: train/red ones/extra.png"):
        fit(moved, workdir)
    assert digests(workdir) == before
    extra.unlink()
    report = fit(moved, workdir)  # The same pictures at another place.
    assert report is not None and report["metrics"] == finished_run.report["metrics"]


def test_a_longer_run_ends_as_if_it_had_been_that_long(tiny_config, tmp_path):
    short = change(
        change(tiny_config, "optim", schedule="constant"), "train", head_epochs=0, epochs=1
    )
    short = change(short, "transfer", trained="head")
    long = change(short, "train", epochs=2)
    assert fit(short, tmp_path / "grown")["epochs"] == 1
    assert fit(long, tmp_path / "grown")["epochs"] == 2
    assert fit(long, tmp_path / "at_once")["epochs"] == 2
    for one, other in zip(leaves(tmp_path / "grown"), leaves(tmp_path / "at_once"), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="has trained 2 epochs, and .* asks for 1"):
        fit(short, tmp_path / "grown")
    with pytest.raises(ValueError, match="expected a tl_jax.Config|stop_after_epoch=0"):
        fit(long, tmp_path / "x", stop_after_epoch=0)


def test_a_report_of_many_classes_has_no_confusion_matrix(finished_run, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "run")
    for name in ("report.json", "confusion.png"):  # As if it had been killed before them.
        (workdir / name).unlink()
    monkeypatch.setattr(objectives, "MAX_MATRIX_CLASSES", 1)
    report = fit(finished_run.config, workdir)
    assert report["confusion"] == {"val": None, "test": None}
    for split, metrics in finished_run.report["metrics"].items():
        for name in ("count", "loss", "accuracy_interval", "macro_f1", "recall", "precision"):
            assert report["metrics"][split][name] == metrics[name]
        assert "kappa" in metrics and "kappa" not in report["metrics"][split]
    assert (workdir / "curves.png").exists() and not (workdir / "confusion.png").exists()

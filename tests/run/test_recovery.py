"""Runs that go on after damage: lost records, old checkpoints, values that are not finite."""

import json
import shutil

import jax
import pytest

from tests.support.runs import change, without_speed
from tl_jax.run import epochs, journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run
from tl_jax.training.checkpoint import CheckpointError

pytestmark = pytest.mark.slow


@pytest.fixture
def patient_config(tiny_config):
    """A run that cannot improve, and stops after three of its nine epochs."""
    config = change(tiny_config, "train", head_epochs=9, epochs=0, patience=2, best_metric="loss")
    return change(config, "optim", learning_rate=0.0, schedule="constant", warmup_epochs=0.0)


def test_early_stopping_does_not_need_the_records(patient_config, tmp_path, capsys):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    report = fit(patient_config, undisturbed)
    assert (report["epochs"], report["best_epoch"]) == (3, 1)
    assert report["stopped"].startswith("no better loss for 2 epochs")
    assert fit(patient_config, stopped, stop_after_epoch=2) is None
    capsys.readouterr()
    for kind in ("deleted", "cut off", "earlier version"):
        workdir = shutil.copytree(stopped, tmp_path / kind)
        records, newest = workdir / "metrics.jsonl", max((workdir / "checkpoints").iterdir())
        if kind == "deleted":
            records.unlink()
        elif kind == "cut off":
            records.write_bytes(records.read_bytes()[:150])
        else:  # It recorded no epoch, no history and no checksums.
            for step in (workdir / "checkpoints").iterdir():
                metrics = json.loads((step / "metrics" / "metrics").read_text())
                del metrics["epoch"], metrics["history"]
                (step / "metrics" / "metrics").write_text(json.dumps(metrics))
                (step / "checksums.json").unlink()
            assert newest.is_dir()
        assert fit(patient_config, workdir) == report
        noted = "has no record of epoch" in capsys.readouterr().err
        assert noted == (kind != "earlier version")
    records = [without_speed(journal.read(tmp_path / "undisturbed"))]
    assert without_speed(journal.read(tmp_path / "earlier version")) == records[0]


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
def test_parameters_that_are_not_finite_stop_the_run_before_they_are_saved(
    patient_config, tmp_path, monkeypatch, collection
):
    train = epochs.train

    def spoil(training, *args, **options):
        state = train(training, *args, **options)
        if not training.history:
            return state
        tree = jax.tree.map(lambda leaf: leaf * float("nan"), getattr(state, collection))
        return state.replace(**{collection: tree})

    monkeypatch.setattr(epochs, "train", spoil)
    with pytest.raises(FloatingPointError) as error:
        fit(patient_config, tmp_path / "run")
    message = str(error.value)
    assert "split 'val' is nan" in message and "hold NaN or infinity" in message
    assert "in epoch 2" in message and "another folder (--workdir)" in message
    assert "The checkpoint of epoch 1 is whole, and finite." in message
    assert load_run(tmp_path / "run").step == 3
    for name in ("metrics.jsonl", "run.json", "config.json"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()


def test_such_parameters_stop_a_run_that_is_not_evaluated_too(tiny_config, tmp_path, monkeypatch):
    train = epochs.train

    def spoil(*args, **options):
        state = train(*args, **options)
        return state.replace(params=jax.tree.map(lambda leaf: leaf * float("nan"), state.params))

    monkeypatch.setattr(epochs, "train", spoil)
    config = change(change(tiny_config, "data", eval_split=None), "train", best_metric="loss")
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        fit(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_such_parameters_are_not_saved_within_an_epoch_either(tiny_config, tmp_path, monkeypatch):
    """The loss of the step that spoils them is finite, and so is that of every step before."""
    compile_step = Experiment.compile_step

    def spoiled(experiment, phase):
        train_step = compile_step(experiment, phase)

        def step(state, batch):
            state, metrics = train_step(state, batch)
            nan = jax.tree.map(lambda leaf: leaf * float("nan"), state.params)
            return state.replace(params=nan), metrics

        return step

    monkeypatch.setattr(Experiment, "compile_step", spoiled)
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        fit(change(tiny_config, "train", save_every=1), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_such_parameters_are_not_saved_where_the_evaluation_is_stopped(
    tiny_config, tmp_path, monkeypatch
):
    train = epochs.train

    def spoil(*args, **options):
        state = train(*args, **options)
        return state.replace(params=jax.tree.map(lambda leaf: leaf * float("nan"), state.params))

    monkeypatch.setattr(epochs, "train", spoil)
    questions = iter([False] * 3 + [True])  # After each of three steps, and the first batch.
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        fit(tiny_config, tmp_path / "run", should_stop=lambda: next(questions))
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_failed_checkpoint_stops_the_run_which_can_go_on(
    patient_config, tmp_path, monkeypatch, capfd
):
    from tl_jax.training import checkpoint_folder

    seal = checkpoint_folder.seal

    def fail(folder, manifest):
        if folder.name == "6":
            raise OSError(28, "No space left on device")
        seal(folder, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder, "seal", fail)
        with pytest.raises(CheckpointError, match=r"checkpoints.6 could not .*No space"):
            fit(patient_config, tmp_path / "run")
    assert "Traceback" not in capfd.readouterr().err
    report = fit(patient_config, tmp_path / "run")
    assert report["epochs"] == 3
    assert "resumed from epoch 1 of 9" in capfd.readouterr().err

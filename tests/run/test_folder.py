"""The folder of a run: its record, its checkpoints, and variables written without training."""

import dataclasses
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.cli import options, training
from tl_jax.config import Config, GroupConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.run.folder import RunFolder, RunInfo, is_run, load_run, write_run
from tl_jax.training.state import TrainState
from tl_jax.weights.sources import WeightsRecord

INFO = RunInfo(
    class_names=("grüne", "red ones"),
    preprocess=Preprocess(size=(32, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    weights=None,
    parameters=5,
    examples={"train": 3, "val": 2},
    skipped={"train": ["a.png"], "val": []},
    subsets={"train": {"kind": "carve", "fraction": 0.5}},
    versions={"jax": "1"},
)


@pytest.mark.parametrize(
    "weights", [None, WeightsRecord("resnet18", "hub x", "file", "0", revision="1")]
)
def test_the_record_of_a_run_is_read_as_it_was_written(weights, tmp_path):
    info = dataclasses.replace(INFO, weights=weights)
    RunFolder(tmp_path).write_info(info)
    actual = RunFolder(tmp_path).read_info()
    assert actual == info
    assert hash(actual.preprocess) == hash(info.preprocess)  # jit takes it as static.


@pytest.mark.parametrize(
    ("metric", "best", "steps"), [("accuracy", 1, ["1", "3", "4"]), ("loss", 2, ["2", "3", "4"])]
)
def test_checkpoints_are_kept_and_compared_as_configured(tmp_path, metric, best, steps):
    config = change(Config(), "train", keep=2, best_metric=metric)
    with RunFolder(tmp_path).open_checkpoints(config) as checkpoints:
        for step, (accuracy, loss) in enumerate([(0.9, 0.3), (0.5, 0.1), (0.6, 0.2), (0, 9)], 1):
            state = TrainState(jax.numpy.int32(step), {"fc": np.zeros(2, np.float32)}, {}, ())
            checkpoints.save(state, {"accuracy": accuracy, "loss": loss})
        assert checkpoints.best_step() == best
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == steps


def test_a_claimed_folder_is_of_its_configuration(tmp_path):
    folder = RunFolder(tmp_path / "new")
    assert not is_run(folder.path)
    assert folder.check(Config()) is None
    assert not folder.path.exists()
    folder.claim(Config(), INFO)
    assert is_run(folder.path)
    assert (folder.read_config(), folder.read_info()) == (Config(), INFO)
    assert folder.read_report() is None
    other = change(Config(), "train", seed=1)
    assert folder.check(other) is None  # Nothing was saved, so nothing is lost.
    save_checkpoint(folder)
    assert folder.check(Config()) == Config()
    with pytest.raises(ValueError, match="of another configuration (?s:.*) train.seed: 0 != 1"):
        folder.check(other)
    assert folder.read_config() == Config()


def save_checkpoint(folder):
    state = TrainState(jax.numpy.int32(1), {"fc": np.zeros(2, np.float32)}, {}, ())
    with folder.open_checkpoints(Config()) as checkpoints:
        checkpoints.save(state, {"accuracy": 0.5, "loss": 1.0})


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.claim(Config(), dataclasses.replace(INFO, digests={"train": "x"}))
    save_checkpoint(folder)
    return folder


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("data", {"workers": 0, "worker_type": "process", "cache": "none", "stretch_on": "host"}),
        ("train", {"keep": 3, "log_every": 1, "epochs": 9, "patience": 2, "target": 0.9}),
        ("data", {"source": "folder:moved", "data_dir": "sets", "on_corrupt": "skip"}),
        ("model", {"weights": "moved.safetensors"}),
    ],
)
def test_options_that_change_no_result_may_change(shared_folder, section, fields):
    assert shared_folder.check(change(Config(), section, **fields)) == Config()


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("data", {"stretch_on": "device", "cache": "none"}),  # Rounds otherwise than the host.
        ("data", {"fast_jpeg": False}),
        ("train", {"best_metric": "loss"}),
        ("augment", {"rotation": 5.0}),
    ],
)
def test_options_that_change_results_are_refused(shared_folder, section, fields):
    with pytest.raises(ValueError, match=f"{section}.{next(iter(fields))}"):
        shared_folder.check(change(Config(), section, **fields))


def test_the_values_of_the_run_are_shown_as_options(tmp_path):
    folder = RunFolder(tmp_path)
    groups = (GroupConfig("stem", ("conv1", "bn*"), learning_rate=1e-5),)
    run = change(change(Config(), "transfer", groups=groups), "optim", head_learning_rate=None)
    folder.claim(run, INFO)
    save_checkpoint(folder)
    with pytest.raises(ValueError, match="or go on with the run in it") as error:
        folder.check(Config())
    shown = str(error.value).rpartition("\n  ")[2]
    arguments = ["file.py", *shlex.split(shown)]
    given = options.read(training.train, arguments, {"config": Config()})
    assert given["config"] == run


@pytest.mark.parametrize("path", ["gs://bucket/run", Path("s3://bucket/run")])
def test_an_address_is_no_folder_of_a_run(path):
    with pytest.raises(ValueError, match="expected one on this machine"):
        RunFolder(path)
    assert not is_run(path)  # A network may be named by its address on the hub.


def test_a_finished_run_is_one_of_its_data(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(Config(), dataclasses.replace(INFO, digests={"train": "x"}))
    folder.write_report({"epochs": 5, "metrics": {}})
    assert folder.finished(Config()) is not None
    assert folder.finished(change(Config(), "data", source="folder:others")) is None
    assert folder.finished(change(Config(), "model", weights="others.pth")) is None


def test_a_run_that_was_divided_otherwise_is_not_asked_to_restore_its_data(tmp_path):
    folder, config = RunFolder(tmp_path), change(Config(), "data", carve=0.2)
    folder.claim(config, INFO)
    with pytest.raises(ValueError, match="end this one with the version that began it"):
        folder.compare(config, INFO, {})
    save_checkpoint(folder)
    with pytest.raises(ValueError, match="or delete the folder$"):  # It cannot go on.
        folder.check(change(config, "train", seed=1))


def test_a_place_may_not_change_if_its_content_was_not_recorded(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(Config(), INFO)
    save_checkpoint(folder)
    with pytest.raises(ValueError, match="data.source: 'elpv' != 'folder:moved'"):
        folder.check(change(Config(), "data", source="folder:moved"))


def test_what_was_chosen_for_auto_may_be_written_out(tmp_path):
    folder = RunFolder(tmp_path)
    auto = change(Config(), "transfer", batch_norm="auto")
    folder.claim(auto, dataclasses.replace(INFO, resolved={"transfer.batch_norm": "frozen"}))
    save_checkpoint(folder)
    assert folder.check(change(auto, "transfer", batch_norm="frozen")) == auto
    with pytest.raises(ValueError, match="transfer.batch_norm: 'auto' != 'update'"):
        folder.check(change(auto, "transfer", batch_norm="update"))


def test_what_a_killed_start_left_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "run.lock").write_text("")
    (tmp_path / "config.json.1-2.part").write_text("{")
    folder = RunFolder(tmp_path)
    assert folder.check(Config()) is None
    folder.claim(Config(), INFO)
    assert not (tmp_path / "config.json.1-2.part").exists()


@pytest.mark.parametrize("name", ["config.json", "run.json", "report.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"null", b'{"zzz": 1}', b"\xff\x00"])
def test_damaged_files_are_named_with_a_way_out(name, content, tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(Config(), INFO)
    (tmp_path / name).write_bytes(content)
    read = {
        "config.json": folder.read_config,
        "run.json": folder.read_info,
        "report.json": folder.read_report,
    }[name]
    with pytest.raises(ValueError, match=f"{name} is damaged, .*(delete it|restore it)"):
        read()


def test_exported_weights_are_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds weights, not a run"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="not empty and holds no run"):
        RunFolder(tmp_path).check(Config())


def test_the_folder_may_be_below_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RunFolder("~/run").claim(Config(), INFO)
    assert is_run(tmp_path / "run")
    assert is_run("~/run")


def test_variables_written_without_training_are_loaded(finished_run, tmp_path):
    run = load_run(finished_run.workdir)
    halved = jax.tree.map(lambda leaf: leaf / 2, run.variables)
    write_run(tmp_path / "halved", run.config, run.info, halved)
    loaded = load_run(tmp_path / "halved")
    assert (loaded.config, loaded.info, loaded.step) == (run.config, run.info, 0)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, halved)
    with pytest.raises(ValueError, match="holds a run already"):
        write_run(tmp_path / "halved", run.config, run.info, halved)


def test_a_folder_without_run_or_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_run(tmp_path)
    RunFolder(tmp_path).claim(Config(), INFO)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        load_run(tmp_path)

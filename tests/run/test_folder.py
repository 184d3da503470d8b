"""The folder of a run: its record, its checkpoints, and variables written without training."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.config import Config
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
    folder.claim(Config())
    folder.claim(Config())
    assert is_run(folder.path)
    assert folder.read_config() == Config()
    assert folder.read_report() is None
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        folder.claim(change(Config(), "train", seed=1))
    assert folder.read_config() == Config()


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
    RunFolder(tmp_path).claim(Config())
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        load_run(tmp_path)

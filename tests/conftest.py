"""Fixtures of runs: tiny networks under real names, pictures, weights, a finished run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support import objects, runs
from tl_jax.config import Config
from tl_jax.run import plots


class Blank(Figure):
    """A figure that is saved as one pixel."""

    def savefig(self, path: Path, **_: Any) -> None:
        Image.new("L", (1, 1)).save(path)


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures of a test's own runs blank, because drawing takes as long as training.

    The shared runs are drawn, and what has the mark `draws`.
    """
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(plots, "Figure", Blank)


@pytest.fixture(scope="session")
def object_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of small objects with every kind of label and input; tests must not change it."""
    return objects.write(tmp_path_factory.mktemp("objects"))


@pytest.fixture
def tiny_networks() -> Iterator[None]:
    """Replaces some architectures by tiny networks, so that whole runs take seconds."""
    with runs.tiny_networks():
        yield


@pytest.fixture(scope="session")
def shared_weights(tmp_path_factory) -> Path:
    return runs.write_weights(tmp_path_factory.mktemp("weights") / "resnet18.safetensors")


@pytest.fixture(scope="session")
def shared_photos(tmp_path_factory) -> Path:
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def tiny_weights(tiny_networks, shared_weights) -> Path:
    """A safetensors file of random weights, with a 1000-way classifier, for the tiny ResNet-18."""
    return shared_weights


@pytest.fixture
def photos(shared_photos, tmp_path) -> Path:
    """`train/`, `val/` and `test/` with pictures of two classes; the test may change them."""
    return shutil.copytree(shared_photos, tmp_path / "photos")


@pytest.fixture
def tiny_config(tiny_weights, photos) -> Config:
    """A run of four short epochs on `photos`."""
    return runs.make_config(photos, tiny_weights)


@pytest.fixture(scope="session")
def shared_run(shared_weights, shared_photos, tmp_path_factory) -> runs.FinishedRun:
    config = runs.make_config(shared_photos, shared_weights)
    return runs.finish_run(config, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def finished_run(tiny_networks, shared_run) -> runs.FinishedRun:
    """A finished run that all tests share; they must not change its folder."""
    return shared_run


@pytest.fixture(scope="session")
def shared_task_run(object_table, shared_weights, tmp_path_factory) -> runs.FinishedRun:
    config = objects.make_config(object_table, shared_weights, tuple(objects.TASKS), epochs=2)
    config = runs.change(config, "data", test_split="train")  # So that thresholds are applied.
    return runs.finish_run(config, tmp_path_factory.mktemp("runs") / "tasks")


@pytest.fixture
def task_run(tiny_networks, shared_task_run) -> runs.FinishedRun:
    """A finished run of four tasks of one image, reported on `validation` and `train`.

    They are classes, several classes each, levels and numbers; tests must not change the run.
    """
    return shared_task_run

"""A run of four tasks with random variables, as if it had been trained."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support import objects, runs
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import write_run


@pytest.fixture(scope="session")
def shared_task_folder(object_table, shared_weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    with runs.tiny_networks():
        config = objects.make_config(object_table, shared_weights, tuple(objects.TASKS))
        experiment = Experiment.from_config(config)
        rng = np.random.default_rng(0)
        variables = jax.tree.map(
            lambda x: np.asarray(x) + 0.05 * np.abs(rng.normal(size=x.shape)).astype("f4"),
            experiment.initial.variables,
        )
        write_run(folder, experiment.config, experiment.info, variables)
    return folder


@pytest.fixture
def task_folder(tiny_networks, shared_task_folder) -> Path:
    """A run of classes, several classes each, levels and numbers; tests must not change it."""
    return shared_task_folder

"""Runs of several kinds of tasks and inputs, which the tests of this folder share."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support import objects, runs
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import write_run


@pytest.fixture(scope="session")
def make_task_run(object_table, shared_weights, tmp_path_factory):
    """Writes a run of some kinds of tasks with random variables, as if it had been trained.

    A run of the same kinds and inputs is traced once; `seed` draws other variables.
    """
    experiments, root = {}, tmp_path_factory.mktemp("untrained")

    def make(*kinds: str, inputs: str = "image", seed: int = 0, **options) -> Path:
        key = (kinds, inputs, *sorted(options.items()))
        with runs.tiny_networks():
            if key not in experiments:
                chosen = {**objects.INPUTS[inputs], **options}
                config = objects.make_config(object_table, shared_weights, kinds, **chosen)
                experiments[key] = Experiment.from_config(config)
            experiment = experiments[key]
            rng = np.random.default_rng(seed)
            variables = jax.tree.map(
                lambda x: np.asarray(x) + 0.05 * np.abs(rng.normal(size=x.shape)).astype("f4"),
                experiment.initial.variables,
            )
            folder = root / f"{len(list(root.iterdir()))}"
            write_run(folder, experiment.config, experiment.info, variables)
        return folder

    return make

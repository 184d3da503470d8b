"""Whole runs with oneDNN's convolutions: resumed exactly, named in the log, with processes."""

import json

import numpy as np
import pytest

from tests.support import onednn as support
from tests.support.runs import change, finish_run, leaves, without_speed
from tl_jax import onednn
from tl_jax.run import journal
from tl_jax.run.fit import fit

pytestmark = pytest.mark.slow


def test_a_stopped_run_ends_as_if_it_had_not_been(tiny_config, tmp_path, monkeypatch):
    """The second half runs in worker processes: those must not hang for oneDNN's sake."""
    support.loaded()
    config = change(tiny_config, "train", head_epochs=1, epochs=1)
    monkeypatch.setenv("TL_JAX_ONEDNN", "on")
    whole = finish_run(config, tmp_path / "whole")
    assert "\nconv     oneDNN 20" in whole.log
    versions = json.loads((whole.workdir / "run.json").read_text())["versions"]
    assert versions["onednn"] == onednn.used_version(1)
    assert fit(config, tmp_path / "stopped", stop_after_epoch=1) is None
    in_processes = change(config, "data", workers=1, worker_type="process")
    assert fit(in_processes, tmp_path / "stopped") == whole.report
    expected = without_speed(journal.read(whole.workdir))
    assert without_speed(journal.read(tmp_path / "stopped")) == expected
    for mine, theirs in zip(leaves(tmp_path / "stopped"), leaves(whole.workdir), strict=True):
        np.testing.assert_array_equal(mine, theirs)

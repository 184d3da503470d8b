"""Steps that are not finite: the run names them and their examples, or skips and counts them."""

import math
import re

import jax.numpy as jnp
import pytest

from tests.support.runs import CLASS_NAMES, change
from tl_jax.data.source import WEIGHT
from tl_jax.run import journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit

pytestmark = pytest.mark.slow


@pytest.fixture
def bad_steps(monkeypatch) -> dict[int, list[int]]:
    """Makes the losses of the steps in it NaN; gets the labels of their batches once they ran."""
    train_batches, found = Experiment.train_batches, dict[int, list[int]]()

    def spoiled(self, start_step):
        for step, batch in enumerate(train_batches(self, start_step), start=start_step + 1):
            if step in found:
                found[step] = batch["label"].tolist()
            factor = math.nan if step in found else 1.0
            yield {**batch, WEIGHT: jnp.full(len(batch["label"]), factor)}

    monkeypatch.setattr(Experiment, "train_batches", spoiled)
    return found


def test_a_step_that_is_not_finite_is_named_with_its_examples_or_skipped(
    tiny_config, tmp_path, bad_steps, capsys
):
    bad_steps[5] = []  # The second of the second epoch.
    config = change(tiny_config, "train", head_epochs=2, epochs=0, log_every=2)
    with pytest.raises(FloatingPointError) as error:
        fit(config, tmp_path / "run")
    message = str(error.value)
    assert "the training loss is nan in epoch 2, step 2 of 3, whose batch held" in message
    assert "go on in it with --train.on-divergence skip. The checkpoint of epoch 1 is" in message
    names = re.findall(r"train/[^/]+/\d+\.png", message)
    assert [CLASS_NAMES.index(name.split("/")[1]) for name in names] == bad_steps[5]
    assert len(set(names)) == len(bad_steps[5]) == 8
    report = fit(change(config, "train", on_divergence="skip"), tmp_path / "run")
    assert report["skipped_steps"] == 1
    found = [record for record in journal.read(tmp_path / "run") if record["step"] > 3]
    assert [record.get("skipped_steps") for record in found] == [1, 0, None]
    assert all(math.isfinite(record["loss"]) for record in found)
    assert "1 steps of epoch 2 were not finite and were skipped" in capsys.readouterr().err


def test_an_epoch_in_which_every_step_is_skipped_ends_the_run(tiny_config, tmp_path, bad_steps):
    bad_steps |= {4: [], 5: [], 6: []}
    config = change(tiny_config, "train", head_epochs=2, epochs=0, on_divergence="skip")
    with pytest.raises(FloatingPointError, match="not finite in every step in epoch 2") as error:
        fit(config, tmp_path / "run")
    assert "on-divergence" not in str(error.value)

"""Defaults that depend on the weights: what they become, what is said, and what a run records."""

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.config import Config, GroupConfig, ModelConfig, OptimConfig, TransferConfig
from tl_jax.run.defaults import resolve
from tl_jax.run.experiment import Experiment
from tl_jax.run.phases import batch_norm_policies


def resolved(config=None):
    return resolve(config or Config(), has_batch_norm=True)


def test_what_is_given_is_kept_and_nothing_is_said():
    given = Config(
        transfer=TransferConfig(batch_norm="update"), optim=OptimConfig(head_learning_rate=None)
    )
    decided = resolved(given)
    assert decided.config == given and decided.values == {} and decided.notes == ()


def test_statistics_are_kept_unless_the_weights_are_random():
    decided = resolved()
    assert decided.config.transfer.batch_norm == "affine_only"
    assert decided.values["transfer.batch_norm"] == "affine_only"
    decided = resolved(Config(ModelConfig(weights="random")))
    assert decided.config.transfer.batch_norm == "update"
    assert any("random weights" in note for note in decided.notes)


def test_the_head_is_trained_faster_unless_all_is_new():
    decided = resolved(Config(optim=OptimConfig(learning_rate=0.1)))
    assert decided.config.optim.head_learning_rate == pytest.approx(0.3)
    assert any("3 times" in note for note in decided.notes)
    decided = resolved(Config(ModelConfig(weights="random"), optim=OptimConfig(learning_rate=0.1)))
    assert decided.config.optim.head_learning_rate == 0.1


def test_a_network_without_batch_norm_is_not_told_of_it():
    decided = resolve(Config(), has_batch_norm=False)
    assert not any("BatchNorm" in note for note in decided.notes)
    assert decided.config.transfer.batch_norm != "auto"


def test_a_groups_own_mode_stays():
    config = Config(transfer=TransferConfig(groups=(GroupConfig("stage1", batch_norm="update"),)))
    labels = {"a": {"scale": "stage0"}, "b": {"scale": "stage1"}}
    policies = batch_norm_policies(resolved(config).config, labels)
    assert policies == {"stage0": "affine_only", "stage1": "update"}


@pytest.fixture
def default_config(tiny_config):
    config = change(tiny_config, "transfer", batch_norm="auto")
    config = change(config, "optim", head_learning_rate="auto")
    return change(config, "model", head_dropout=0.0, drop_path=0.0)


@pytest.mark.slow
def test_a_run_says_and_records_what_was_decided_and_keeps_what_was_given(default_config):
    experiment = Experiment.from_config(default_config)
    decided = {"transfer.batch_norm": "affine_only", "optim.head_learning_rate": 0.03}
    assert experiment.info.resolved == pytest.approx(decided)
    assert experiment.config.transfer.batch_norm == "affine_only"
    assert experiment.phases[0].peak_rates["head"] == pytest.approx(0.03)
    lines = [line for line in experiment.description.splitlines() if line.startswith("default")]
    assert len(lines) == 2 and "affine_only" in lines[0] and "0.03" in lines[1]
    assert default_config.transfer.batch_norm == "auto"


@pytest.mark.slow
def test_the_loss_does_not_jump_where_the_backbone_is_unfrozen(default_config):
    experiment = Experiment.from_config(default_config)
    head, everything = experiment.phases
    batches = experiment.train_batches(0)
    batch = next(batches)
    batches.close()
    step_fn, current = experiment.compile_step(head), experiment.begin(head, None)
    for _ in range(3):
        current, _ = step_fn(current, batch)
    _, last = step_fn(experiment.place(current), batch)
    _, first = experiment.compile_step(everything)(experiment.begin(everything, current), batch)
    np.testing.assert_allclose(first["loss"], last["loss"], rtol=1e-5)

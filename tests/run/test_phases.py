"""The phases of a run: which option decides its epochs, optimizer, rates, decays and schedules."""

import jax.numpy as jnp
import pytest

from tl_jax.config import Config, GroupConfig, OptimConfig, PhaseConfig, TrainConfig, TransferConfig
from tl_jax.run import phases
from tl_jax.run.phases import gradual, lp_ft

LABELS = {
    "conv1": {"kernel": "stage0"},
    "layer1": {"kernel": "stage1"},
    "layer2": {"kernel": "stage2"},
    "fc": {"kernel": "head"},
}
VARIABLES = {"params": {name: {"kernel": jnp.ones((2, 2))} for name in LABELS}}
STEPS = 10
SLOW = TransferConfig(groups=(GroupConfig("stage1", learning_rate=0.5, weight_decay=0.25),))


def made(*specs: PhaseConfig, optim: OptimConfig | None = None, transfer=None, **train):
    """Returns the phases of a configuration, over a network of three stages and a head."""
    given = transfer or TransferConfig(phases=specs)
    config = Config(optim=optim or OptimConfig(), transfer=given, train=TrainConfig(**train))
    return phases.phases(config, LABELS, VARIABLES, STEPS)


class Recorder:
    """Stands for a function: keeps what it was called with, and calls it."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args, **options):
        self.calls.append((args, options))
        return self.function(*args, **options)


@pytest.fixture
def recorded(monkeypatch):
    """Returns what the optimizers and schedules that are made are called with."""
    found = {}
    for name in ("optimizer", "schedule"):
        found[name] = Recorder(getattr(phases.optim, name))
        monkeypatch.setattr(phases.optim, name, found[name])
    return found


# ---- what is trained, and for how long


def test_the_head_comes_first_and_then_what_is_to_be_trained():
    found = made(transfer=TransferConfig(trained="head+last:1"), head_epochs=2, epochs=3)
    assert [(p.name, p.first_epoch, p.last_epoch) for p in found] == [
        ("head", 0, 2),
        ("head+last:1", 2, 5),
    ]
    found = made(transfer=TransferConfig(trained="last:2"), head_epochs=0, epochs=3)
    assert [(p.name, p.epochs) for p in found] == [("last:2", 3)]


def test_listed_phases_take_the_place_of_the_epochs():
    found = made(PhaseConfig(1, "head"), PhaseConfig(4, "all"), head_epochs=7, epochs=7)
    assert [(p.name, p.first_epoch, p.last_epoch) for p in found] == [("head", 0, 1), ("all", 1, 5)]


# ---- the optimizer


def test_the_options_of_the_optimizer_reach_it(recorded):
    optim = OptimConfig("sgd", momentum=0.7, weight_decay=0.1, clip_norm=3.0)
    made(PhaseConfig(1), optim=optim)
    ((args, options),) = recorded["optimizer"].calls
    assert args[0] == "sgd"
    assert options == {
        "momentum": 0.7,
        "weight_decay": dict.fromkeys(("stage0", "stage1", "stage2", "head"), 0.1),
        "l2_sp": dict.fromkeys(("stage0", "stage1", "stage2"), 0.0),
        "clip_norm": 3.0,
    }


def test_a_phase_may_have_an_optimizer_of_its_own(recorded):
    made(PhaseConfig(1, optimizer="sgd"), PhaseConfig(1), optim=OptimConfig("adam"))
    assert [args[0] for args, _ in recorded["optimizer"].calls] == ["sgd", "adam"]


def test_the_pull_to_the_start_takes_the_place_of_decay_but_not_for_the_head(recorded):
    made(PhaseConfig(1), optim=OptimConfig(weight_decay=0.1, l2_sp=0.2))
    ((_, options),) = recorded["optimizer"].calls
    assert options["l2_sp"] == dict.fromkeys(("stage0", "stage1", "stage2"), 0.2)
    assert options["weight_decay"] == {"stage0": 0, "stage1": 0, "stage2": 0, "head": 0.1}


def test_a_group_may_have_a_decay_of_its_own(recorded):
    made(transfer=SLOW, optim=OptimConfig(weight_decay=0.1))
    ((_, options),) = recorded["optimizer"].calls
    assert options["weight_decay"] == {"stage0": 0.1, "stage1": 0.25, "stage2": 0.1, "head": 0.1}


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_the_average_forgets_as_it_is_told(monkeypatch, decay):
    average = Recorder(phases.averaging.ema)
    monkeypatch.setattr(phases.averaging, "ema", average)
    made(PhaseConfig(1), ema=decay)
    assert [args[1:] for args, _ in average.calls] == ([(0.75,)] if decay else [])


# ---- rates


@pytest.mark.parametrize(
    ("optim", "phase", "body", "head"),
    [
        ({}, {}, 1.0, 1.0),
        ({"head_learning_rate": 2.0}, {}, 1.0, 2.0),
        ({"head_learning_rate": 2.0}, {"learning_rate": 3.0}, 3.0, 3.0),
        ({"head_learning_rate": 2.0}, {"head_learning_rate": 4.0}, 1.0, 4.0),
        ({}, {"learning_rate": 3.0, "head_learning_rate": 4.0}, 3.0, 4.0),
        ({"head_learning_rate": 2.0}, {"learning_rate": 0.0}, 0.0, 0.0),
        ({"head_learning_rate": 0.0}, {}, 1.0, 0.0),
    ],
)
def test_the_phase_s_rates_come_before_the_run_s(optim, phase, body, head):
    (found,) = made(PhaseConfig(1, **phase), optim=OptimConfig(learning_rate=1.0, **optim))
    assert found.peaks == {"stage0": body, "stage1": body, "stage2": body, "head": head}


def test_rates_fall_from_the_last_stage_to_the_stem_and_a_group_s_own_is_kept():
    optim = OptimConfig(learning_rate=1.0, layer_decay=0.1)
    (found,) = made(optim=optim, transfer=SLOW)
    assert found.peaks == pytest.approx({"stage0": 0.01, "stage1": 0.5, "stage2": 1.0, "head": 1.0})


def test_the_options_of_the_schedule_reach_it(recorded):
    optim = OptimConfig(
        learning_rate=1.0,
        head_learning_rate=2.0,
        schedule="step",
        warmup_epochs=0.5,
        step_epochs=(1.0, 2.25),
        step_factor=0.3,
    )
    (found,) = made(PhaseConfig(3), optim=optim)
    shared = {"total_steps": 30, "warmup_steps": 5, "boundaries": [10, 22], "factor": 0.3}
    assert recorded["schedule"].calls == [(("step", peak), shared) for peak in (1.0, 1.0, 1.0, 2.0)]
    assert found.rates["head"](5) == 2.0


def test_a_phase_may_have_a_warm_up_of_its_own(recorded):
    optim = OptimConfig(warmup_epochs=0.5)
    made(
        PhaseConfig(2, warmup_epochs=1.0),
        PhaseConfig(2, warmup_epochs=0.0),
        PhaseConfig(3),
        optim=optim,
    )
    found = [
        (options["total_steps"], options["warmup_steps"])
        for _, options in recorded["schedule"].calls
    ]
    assert found[::4] == [(20, 10), (20, 0), (30, 5)]


# ---- BatchNorm


def test_a_group_s_policy_comes_before_the_run_s():
    transfer = TransferConfig(
        batch_norm="affine_only", groups=(GroupConfig("stage1", batch_norm="update"),)
    )
    found = phases.policies(Config(transfer=transfer), LABELS)
    assert found == {
        "stage0": "affine_only",
        "stage1": "update",
        "stage2": "affine_only",
        "head": "affine_only",
    }


# ---- ready-made phases


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (7, [(2, "head"), (2, "head+last:1"), (3, "all")]),
        (3, [(2, "head"), (1, "head+last:1")]),
        (4, [(2, "head"), (2, "head+last:1")]),
    ],
)
def test_gradual_unfreezing_takes_as_many_epochs_as_it_is_given(epochs, expected):
    found = gradual(2, every=2, epochs=epochs, learning_rate=0.5)
    assert [(phase.epochs, phase.trained) for phase in found] == expected
    assert {phase.learning_rate for phase in found} == {0.5}


def test_lp_ft_has_one_rate_for_everything_in_its_second_phase():
    phase_configs = lp_ft(2, 3, head_rate=4.0, rate=0.5)
    optim = OptimConfig(learning_rate=1.0, head_learning_rate=2.0)
    first, second = made(*phase_configs, optim=optim)
    assert (first.name, first.epochs, first.peaks["head"]) == ("head", 2, 4.0)
    assert (second.name, second.epochs, set(second.peaks.values())) == ("all", 3, {0.5})

"""The phases of a run: which option decides its epochs, optimizer, rates, decays and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tl_jax.config import Config, GroupConfig, OptimConfig, PhaseConfig, TrainConfig, TransferConfig
from tl_jax.run.defaults import resolve
from tl_jax.run.phases import batch_norm_policies, gradual, lp_ft, make_phases
from tl_jax.training import optim
from tl_jax.training.ema import averaged_params

LABELS = {
    "conv1": {"kernel": "stage0"},
    "layer1": {"kernel": "stage1"},
    "layer2": {"kernel": "stage2"},
    "fc": {"kernel": "head"},
}
NAMES = ("stage0", "stage1", "stage2", "head")
PARAMS = {name: {"kernel": jnp.full((2, 2), 1.0 + i)} for i, name in enumerate(LABELS)}
GRADIENTS = jax.tree.map(lambda leaf: leaf / 2 - 1, PARAMS)
STEPS = 10
SLOW = TransferConfig(groups=(GroupConfig("stage1", learning_rate=0.5, weight_decay=0.25),))


def phases_of(*specs: PhaseConfig, optim: OptimConfig | None = None, transfer=None, **train):
    """Returns the phases of a configuration, over a network of three stages and a head."""
    config = Config(
        optim=optim or OptimConfig(),
        transfer=transfer or TransferConfig(phases=specs),
        train=TrainConfig(**train),
    )
    resolved = resolve(config, has_batch_norm=False)
    return make_phases(resolved.config, LABELS, {"params": PARAMS}, STEPS)


def after_two_steps(tx: optax.GradientTransformation):
    """Returns all parameters after two steps with the same gradients, and the optimizer's state."""
    params, opt_state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        updates, opt_state = tx.update(GRADIENTS, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def assert_same_steps(phase, expected: optax.GradientTransformation) -> None:
    jax.tree.map(
        np.testing.assert_array_equal, after_two_steps(phase.tx)[0], after_two_steps(expected)[0]
    )


def optimizer_of(phase, name="sgd", **options) -> optax.GradientTransformation:
    """Returns an optimizer at a phase's rates with these options."""
    return optim.optimizer(name, phase.schedules, LABELS, **options)


# ---- what is trained, and for how long


def test_the_head_is_trained_first_and_then_the_selection():
    phases = phases_of(transfer=TransferConfig(trained="head+last:1"), head_epochs=2, epochs=3)
    assert [(p.name, p.start_epoch, p.end_epoch) for p in phases] == [
        ("head", 0, 2),
        ("head+last:1", 2, 5),
    ]
    phases = phases_of(transfer=TransferConfig(trained="head+last:2"), head_epochs=0, epochs=3)
    assert [(p.name, p.epochs) for p in phases] == [("head+last:2", 3)]
    phases = phases_of(transfer=TransferConfig(), head_epochs=2, epochs=0)
    assert [(p.name, p.epochs) for p in phases] == [("head", 2)]


def test_a_new_head_that_is_never_trained_is_refused():
    with pytest.raises(
        ValueError, match=r"no phase trains the new head.*got 'last:2'.*head\+last:2"
    ):
        phases_of(transfer=TransferConfig(trained="last:2"), head_epochs=0, epochs=3)
    for transfer, head_epochs in (
        (TransferConfig(trained="last:2"), 1),
        (TransferConfig(trained="last:2", head_init="class_means"), 0),
        (TransferConfig(trained="last:2", classifier="load"), 0),
    ):
        assert phases_of(transfer=transfer, head_epochs=head_epochs, epochs=3)


def test_listed_phases_take_the_place_of_the_epochs():
    specs = (PhaseConfig(1, "head"), PhaseConfig(4, "all"))
    phases = phases_of(*specs, head_epochs=7, epochs=7)
    assert [(p.name, p.start_epoch, p.end_epoch) for p in phases] == [
        ("head", 0, 1),
        ("all", 1, 5),
    ]


# ---- the optimizer


def test_the_options_of_the_optimizer_reach_it():
    config = OptimConfig("sgd", momentum=0.7, weight_decay=0.1, clip_norm=0.5)
    (phase,) = phases_of(PhaseConfig(1), optim=config)
    expected = {"momentum": 0.7, "weight_decay": 0.1, "clip_norm": 0.5}
    assert_same_steps(phase, optimizer_of(phase, **expected))


def test_a_phase_may_have_an_optimizer_of_its_own():
    first, second = phases_of(
        PhaseConfig(1, optimizer="sgd"), PhaseConfig(1), optim=OptimConfig("adam")
    )
    assert_same_steps(first, optimizer_of(first, "sgd"))
    assert_same_steps(second, optimizer_of(second, "adam"))


def test_the_pull_to_the_start_takes_the_place_of_decay_but_not_for_the_head():
    (phase,) = phases_of(PhaseConfig(1), optim=OptimConfig("sgd", weight_decay=0.1, l2_sp=0.2))
    pull = dict.fromkeys(NAMES[:3], 0.2)
    decay = dict.fromkeys(NAMES[:3], 0.0) | {"head": 0.1}
    assert_same_steps(phase, optimizer_of(phase, weight_decay=decay, l2_sp=pull))


def test_a_group_may_have_a_decay_of_its_own():
    (phase,) = phases_of(transfer=SLOW, optim=OptimConfig("sgd", weight_decay=0.1))
    decay = dict.fromkeys(NAMES, 0.1) | {"stage1": 0.25}
    assert_same_steps(phase, optimizer_of(phase, weight_decay=decay))
    line = next(line for line in phase.description.splitlines() if line.startswith("stage1"))
    assert line.split() == ["stage1", "4", "4", "0.5", "0.25", "-"]


def test_the_average_forgets_at_the_configured_decay():
    (phase,) = phases_of(PhaseConfig(1), optim=OptimConfig("sgd"), ema=0.75)
    tx = optimizer_of(phase)
    updates, _ = tx.update(GRADIENTS, tx.init(PARAMS), PARAMS)
    after_one = optax.apply_updates(PARAMS, updates)
    after_two, ema_state = after_two_steps(phase.tx)
    expected = jax.tree.map(
        lambda start, one, two: 0.75 * (0.75 * start + 0.25 * one) + 0.25 * two,
        PARAMS, after_one, after_two,
    )  # fmt: skip
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        averaged_params(ema_state),
        expected,
    )


# ---- rates


@pytest.mark.parametrize(
    ("optim", "phase", "body", "head"),
    [
        ({"head_learning_rate": None}, {}, 1.0, 1.0),
        ({}, {}, 1.0, 3.0),  # "auto"
        ({"head_learning_rate": 2.0}, {}, 1.0, 2.0),
        ({"head_learning_rate": 2.0}, {"learning_rate": 3.0}, 3.0, 3.0),
        ({"head_learning_rate": 2.0}, {"head_learning_rate": 4.0}, 1.0, 4.0),
        ({}, {"learning_rate": 3.0, "head_learning_rate": 4.0}, 3.0, 4.0),
        ({"head_learning_rate": 2.0}, {"learning_rate": 0.0}, 0.0, 0.0),
        ({"head_learning_rate": 0.0}, {}, 1.0, 0.0),
    ],
)
def test_the_phase_s_rates_come_before_the_run_s(optim, phase, body, head):
    (only,) = phases_of(PhaseConfig(1, **phase), optim=OptimConfig(learning_rate=1.0, **optim))
    assert only.peak_rates == {"stage0": body, "stage1": body, "stage2": body, "head": head}


def test_rates_fall_from_the_last_stage_to_the_stem_and_a_group_keeps_its_own():
    optim = OptimConfig(learning_rate=1.0, layer_decay=0.1)
    (phase,) = phases_of(optim=optim, transfer=SLOW)
    expected = {"stage0": 0.01, "stage1": 0.5, "stage2": 1.0, "head": 3.0}
    assert phase.peak_rates == pytest.approx(expected)


def test_the_options_of_the_schedule_reach_it():
    config = OptimConfig(
        learning_rate=1.0,
        head_learning_rate=2.0,
        schedule="step",
        warmup_epochs=0.5,
        step_epochs=(1.0, 2.25),
        step_factor=0.3,
    )
    (phase,) = phases_of(PhaseConfig(3), optim=config)
    shared = {"total_steps": 30, "warmup_steps": 5, "boundaries": [10, 22], "factor": 0.3}
    for name, peak in zip(NAMES, (1.0, 1.0, 1.0, 2.0), strict=True):
        expected = optim.schedule("step", peak, **shared)
        for step in (0, 4, 5, 9, 11, 21, 23, 29):
            assert float(phase.schedules[name](step)) == float(expected(step))


def test_a_phase_may_have_a_warm_up_of_its_own():
    specs = (
        PhaseConfig(2, warmup_epochs=1.0),
        PhaseConfig(2, warmup_epochs=0.0),
        PhaseConfig(3),
    )
    config = OptimConfig(learning_rate=1.0, warmup_epochs=0.5, schedule="constant")
    first_rates = [float(phase.schedules["stage0"](0)) for phase in phases_of(*specs, optim=config)]
    assert first_rates == pytest.approx([1 / 10, 1.0, 1 / 5])


# ---- BatchNorm


def test_a_group_s_policy_comes_before_the_run_s():
    transfer = TransferConfig(
        batch_norm="affine_only", groups=(GroupConfig("stage1", batch_norm="update"),)
    )
    policies = batch_norm_policies(Config(transfer=transfer), LABELS)
    assert policies == dict.fromkeys(NAMES, "affine_only") | {"stage1": "update"}


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
    phases = gradual(2, every=2, epochs=epochs, learning_rate=0.5)
    assert [(phase.epochs, phase.trained) for phase in phases] == expected
    assert {phase.learning_rate for phase in phases} == {0.5}


def test_lp_ft_has_one_rate_for_everything_in_its_second_phase():
    phase_configs = lp_ft(2, 3, head_rate=4.0, rate=0.5)
    optim = OptimConfig(learning_rate=1.0, head_learning_rate=2.0)
    first, second = phases_of(*phase_configs, optim=optim)
    assert (first.name, first.epochs, first.peak_rates["head"]) == ("head", 2, 4.0)
    assert (second.name, second.epochs, set(second.peak_rates.values())) == ("all", 3, {0.5})

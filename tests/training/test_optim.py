"""Tests of the optimizers against torch's, of rates by label, decay, clipping and schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from tl_jax import trees
from tl_jax.training import optim
from tl_jax.transfer import freeze

RNG = np.random.default_rng(0)
PARAMS = {
    "conv1": {"kernel": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)},
    "bn1": {
        "scale": RNG.normal(size=4).astype(np.float32),
        "bias": RNG.normal(size=4).astype(np.float32),
    },
    "fc": {
        "kernel": RNG.normal(size=(4, 3)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    },
}
GRADIENTS = [
    jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), PARAMS)
    for _ in range(4)
]
DECAY = 0.05
HEAD_RATE, BACKBONE_RATE = 0.02, 0.002
RATES = {freeze.HEAD: HEAD_RATE, freeze.BACKBONE: BACKBONE_RATE}
ALL = freeze.plan(PARAMS, ["fc"], train_backbone=True)
HEAD_ONLY = freeze.plan(PARAMS, ["fc"], train_backbone=False)


def run(tx: optax.GradientTransformation, plan=ALL, gradients=GRADIENTS):
    """Returns the trained parameters after a step with each of the gradients."""
    params, _ = freeze.split(plan, PARAMS)
    opt_state = tx.init(params)
    for gradient in gradients:
        trained, _ = freeze.split(plan, gradient)
        updates, opt_state = tx.update(trained, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def run_torch(make, *, clip_norm: float | None = None):
    """Returns the parameters by name after the same steps of an optimizer of torch.

    Kernels alone decay; the head has its own rate.
    """
    flat = {trees.dotted(path): leaf for path, leaf in trees.flatten(PARAMS).items()}
    tensors = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in flat.items()}
    groups = [
        {
            "params": [tensor],
            "lr": HEAD_RATE if name.startswith("fc.") else BACKBONE_RATE,
            "weight_decay": DECAY if name.endswith("kernel") else 0.0,
        }
        for name, tensor in tensors.items()
    ]
    optimizer = make(groups)
    for gradient in GRADIENTS:
        for path, leaf in trees.flatten(gradient).items():
            tensors[trees.dotted(path)].grad = torch.tensor(leaf)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), clip_norm)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1.0),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1.0),
}


@pytest.mark.parametrize("clip_norm", [None, 1.5])
@pytest.mark.parametrize("name", TORCH)
def test_steps_are_torchs(name, clip_norm):
    found = run(optim.optimizer(name, RATES, ALL, weight_decay=DECAY, clip_norm=clip_norm))
    expected = run_torch(TORCH[name], clip_norm=clip_norm)
    for path, leaf in trees.flatten(found).items():
        np.testing.assert_allclose(leaf, expected[trees.dotted(path)], atol=1e-6, rtol=1e-6)


def test_sgd_without_momentum_keeps_no_trace():
    tx = optim.optimizer("sgd", RATES, ALL, momentum=0.0)
    assert all(leaf.ndim == 0 for leaf in jax.tree.leaves(tx.init(PARAMS)))
    found = run(tx, gradients=GRADIENTS[:1])
    expected = PARAMS["fc"]["bias"] - HEAD_RATE * GRADIENTS[0]["fc"]["bias"]
    np.testing.assert_allclose(found["fc"]["bias"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", TORCH)
def test_only_kernels_decay(name):
    zeros = [jax.tree.map(np.zeros_like, PARAMS)]
    found = run(optim.optimizer(name, RATES, ALL, weight_decay=DECAY), gradients=zeros)
    for path, leaf in trees.flatten(found).items():
        decayed = bool((leaf != trees.flatten(PARAMS)[path]).all())
        assert decayed is (path[-1] == "kernel"), path


@pytest.mark.parametrize("name", TORCH)
def test_the_optimizer_of_a_head_has_state_for_the_head_alone(name):
    tx = optim.optimizer(name, RATES, HEAD_ONLY, weight_decay=DECAY, clip_norm=1.0)
    trained, _ = freeze.split(HEAD_ONLY, PARAMS)
    paths = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tx.init(trained))
        if leaf.ndim
    ]
    assert len(paths) == 2 * (1 if name == "sgd" else 2)
    assert all("['fc']" in path for path in paths)


def test_frozen_parameters_do_not_change_the_steps_of_the_head():
    tx = optim.optimizer("sgd", RATES, HEAD_ONLY, momentum=0.0, clip_norm=0.5)
    found = run(tx, HEAD_ONLY, GRADIENTS[:1])
    norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in GRADIENTS[0]["fc"].values()))
    expected = PARAMS["fc"]["kernel"] - HEAD_RATE * GRADIENTS[0]["fc"]["kernel"] * 0.5 / norm
    np.testing.assert_allclose(found["fc"]["kernel"], expected, rtol=1e-5)
    assert found.keys() == {"fc"}


def test_rates_may_be_schedules_that_count_the_steps():
    rates = dict.fromkeys(RATES, lambda step: jnp.where(step == 1, 1.0, 0.0))
    found = run(optim.optimizer("sgd", rates, ALL, momentum=0.0))
    expected = jax.tree.map(np.subtract, PARAMS, GRADIENTS[1])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(ValueError, match=r"got optimizer 'lamb'.*\['adam', 'adamw', 'sgd'\]"):
        optim.optimizer("lamb", RATES, ALL)


def test_a_label_without_a_rate_is_an_error():
    with pytest.raises(ValueError, match=r"no learning rate for the label\(s\) \['backbone'\]"):
        optim.optimizer("sgd", {freeze.HEAD: 0.1}, ALL)


def test_each_label_has_its_own_weight_decay():
    zeros = [jax.tree.map(np.zeros_like, PARAMS)]
    decays = {freeze.HEAD: 0.5, freeze.BACKBONE: 0.0}
    found = run(optim.optimizer("sgd", RATES, ALL, weight_decay=decays), gradients=zeros)
    np.testing.assert_array_equal(found["conv1"]["kernel"], PARAMS["conv1"]["kernel"])
    expected = PARAMS["fc"]["kernel"] * (1 - HEAD_RATE * 0.5)
    np.testing.assert_allclose(found["fc"]["kernel"], expected, rtol=1e-6)


def test_the_pull_to_the_start_is_of_its_labels_and_a_part_of_the_gradient():
    gradients = [GRADIENTS[0], jax.tree.map(np.zeros_like, PARAMS)]
    pull = {freeze.BACKBONE: 0.5}
    tx = optim.optimizer("sgd", RATES, ALL, momentum=0.0, l2_sp=pull)
    found = run(tx, gradients=gradients)
    for name, rate, share in (("bn1", BACKBONE_RATE, 0.5), ("fc", HEAD_RATE, 0.0)):
        moved = -rate * GRADIENTS[0][name]["bias"] * (1 - rate * share)
        np.testing.assert_allclose(found[name]["bias"], PARAMS[name]["bias"] + moved, rtol=1e-6)
    # Without decay Adam and AdamW are one: the pull goes through the moments of both.
    adam, adamw = (run(optim.optimizer(n, RATES, ALL, l2_sp=pull)) for n in ("adam", "adamw"))
    jax.tree.map(np.testing.assert_array_equal, adam, adamw)


# ---- schedules


def rates(kind: str, steps: int, **options) -> list[float]:
    made = optim.schedule(kind, 2.0, total_steps=steps, **options)
    return [float(made(step)) for step in range(steps)]


def test_the_warm_up_rises_in_equal_steps_to_the_peak():
    found = rates("constant", 8, warmup_steps=4)
    np.testing.assert_allclose(found, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1])
def test_no_warm_up_and_one_step_of_it_begin_at_the_peak(warmup):
    np.testing.assert_allclose(rates("constant", 3, warmup_steps=warmup), [2.0, 2.0, 2.0])


def test_the_cosine_falls_from_the_peak_to_zero():
    found = rates("cosine", 100)
    expected = [1 + math.cos(math.pi * step / 100) for step in range(100)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 < found[-1] < 1e-3


def test_the_cosine_after_a_warm_up_ends_where_the_phase_does():
    found = rates("cosine", 60, warmup_steps=20)
    assert found[19] == found[20] == max(found) == 2.0
    np.testing.assert_allclose(found[40], 1.0, rtol=1e-6)  # halfway between 20 and 60
    assert 0 < found[-1] < 5e-3


@pytest.mark.parametrize("warmup", [0, 3])
def test_steps_fall_at_their_boundaries(warmup):
    found = rates("step", 10, boundaries=(4, 8), factor=0.1, warmup_steps=warmup)
    expected = [2.0] * 4 + [0.2] * 4 + [0.02] * 2
    np.testing.assert_allclose(found[warmup:], expected[warmup:], rtol=1e-6)


@pytest.mark.parametrize(("warmup", "total"), [(5, 5), (6, 5), (-1, 5)])
def test_a_warm_up_that_does_not_fit_is_an_error(warmup, total):
    with pytest.raises(ValueError, match=f"a warm-up of {warmup} steps does not fit into {total}"):
        optim.schedule("cosine", 1.0, total_steps=total, warmup_steps=warmup)


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match=r"got schedule 'linear'.*'constant', 'cosine' or 'step'"):
        optim.schedule("linear", 1.0, total_steps=5)


# ---- from phase to phase


def after_steps(tx: optax.GradientTransformation, plan):
    """Returns the optimizer's state after all gradients."""
    params, _ = freeze.split(plan, PARAMS)
    opt_state = tx.init(params)
    for gradient in GRADIENTS:
        _, opt_state = tx.update(freeze.split(plan, gradient)[0], opt_state, params)
    return opt_state


def arrays(opt_state) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(opt_state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def scheduled(name: str, plan):
    rates = dict.fromkeys(RATES, optax.constant_schedule(0.1))
    return optim.optimizer(name, rates, plan, clip_norm=1.0)


@pytest.mark.parametrize("name", TORCH)
def test_parameters_that_both_train_keep_their_state_and_schedules_restart(name):
    before = after_steps(scheduled(name, HEAD_ONLY), HEAD_ONLY)
    fresh = scheduled(name, ALL).init(PARAMS)
    found, old = arrays(optim.carry_over(before, fresh)), arrays(before)
    assert found.keys() == arrays(fresh).keys()
    moments = {path for path in found if "['fc']" in path}
    assert len(moments) == 2 * (1 if name == "sgd" else 2)
    for path, leaf in found.items():
        counts_moments = path.endswith(".count") and path in old and old[path] == len(GRADIENTS)
        if path in moments:
            np.testing.assert_array_equal(leaf, old[path], err_msg=path)
            assert leaf.any()
        elif leaf.any():
            # Adam's count goes on, since its moments do; that of a schedule does not.
            assert counts_moments and name != "sgd", path


def test_the_state_of_another_optimizer_or_of_other_shapes_is_not_taken_over():
    fresh = scheduled("adam", ALL).init(PARAMS)
    found = optim.carry_over(after_steps(scheduled("sgd", ALL), ALL), fresh)
    assert not any(leaf.any() for leaf in arrays(found).values())
    found = optim.carry_over(
        {"mu": np.ones(3), "nu": np.ones(2)}, {"mu": np.zeros(2), "nu": np.zeros(2)}
    )
    assert (found["mu"].tolist(), found["nu"].tolist()) == ([0, 0], [1, 1])

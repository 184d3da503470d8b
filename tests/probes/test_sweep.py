"""Heads that are trained at once are the heads that are trained one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tl_jax.probes import sweep
from tl_jax.probes.solvers import LinearHead

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    """Features and labels of three classes: 150 examples to train on, 53 to measure on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(203, 16)).astype(np.float32)
    y = np.argmax(x @ rng.normal(size=(16, 3)), 1).astype(np.int32)
    return (x[:150], y[:150]), (x[150:], y[150:])


def run(settings, data, **options):
    options = {"num_classes": 3, "epochs": 3, "batch_size": 32, **options}
    return sweep.sweep(settings, *data, **options)


# 16 heads, 8 of each seed: the shape in which most tests run, so that they share a program.
GRID = sweep.grid(
    learning_rates=[0.01, 0.3], weight_decays=[0.0, 0.05], seeds=[0, 3], init_scales=[0.0, 1.0]
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw"},
        pytest.param({"schedule": "constant", "momentum": 0.0}, marks=pytest.mark.full),
    ],
)
def test_heads_at_once_are_the_heads_one_by_one(data, options):
    together = run(GRID, data, **options)
    for i in range(0, len(GRID), 3):  # Every rate, decay, seed and scale is among them.
        alone = run(GRID[i : i + 1], data, **options)
        np.testing.assert_allclose(together.head(i).kernel, alone.head(0).kernel, atol=1e-5)
        np.testing.assert_allclose(together.head(i).bias, alone.head(0).bias, atol=1e-5)
        np.testing.assert_allclose(together.loss[i], alone.loss[0], atol=1e-5)
        assert together.accuracy[i] == alone.accuracy[0]


def test_every_setting_makes_another_head(data):
    kernels = np.asarray(run(GRID, data).heads.kernel)
    for i in range(len(GRID)):
        for j in range(i):
            assert np.abs(kernels[i] - kernels[j]).max() > 1e-4


def test_uneven_numbers_of_heads_by_seed_come_back_in_order(data):
    places = [13, 0, 6, 5, 2, 9]  # Seeds 0, 0, 3, 0, 3, 0.
    some, every = run(GRID[places], data), run(GRID, data)
    for i, place in enumerate(places):
        np.testing.assert_allclose(some.head(i).kernel, every.head(place).kernel, atol=1e-5)
        assert some.settings.seed[i] == GRID.seed[place]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_head_is_what_a_plain_loop_trains(data, optimizer):
    x, y = map(jnp.asarray, data[0])
    rate, decay = 0.1, 0.02
    settings = sweep.grid(learning_rates=[rate], weight_decays=[decay], seeds=[5])
    found = run(settings, data, optimizer=optimizer)
    schedule = optax.cosine_decay_schedule(rate, 12)
    kernels_only = {"kernel": True, "bias": False}
    if optimizer == "adamw":
        tx = optax.adamw(schedule, weight_decay=decay, mask=kernels_only)
    else:
        decayed = optax.add_decayed_weights(decay, mask=kernels_only)
        tx = optax.chain(decayed, optax.sgd(schedule, momentum=0.9))

    def loss(params, places):
        logits = x[places] @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[places]).mean()

    @jax.jit
    def step(params, state, places):
        updates, state = tx.update(jax.grad(loss)(params, places), state, params)
        return optax.apply_updates(params, updates), state

    params = {"kernel": jnp.zeros((16, 3)), "bias": jnp.zeros(3)}
    state = tx.init(params)
    for epoch in range(3):
        order = np.asarray(sweep.epoch_order(5, epoch, len(y)))
        assert sorted(order) == list(range(150))
        for places in order[:128].reshape(4, 32):
            params, state = step(params, state, places)
    np.testing.assert_allclose(found.head(0).kernel, params["kernel"], atol=1e-5)
    np.testing.assert_allclose(found.head(0).bias, params["bias"], atol=1e-5)


def test_every_epoch_and_seed_has_an_order_of_its_own():
    orders = [
        np.asarray(sweep.epoch_order(seed, epoch, 50)) for seed, epoch in ((5, 0), (5, 1), (6, 0))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_metrics_are_those_of_each_head_on_all_validation_examples(data):
    found = run(GRID, data)
    features, labels = data[1]
    for i in (0, 9):
        logits = features @ np.asarray(found.head(i).kernel) + np.asarray(found.head(i).bias)
        assert found.accuracy[i] == pytest.approx(np.mean(logits.argmax(1) == labels))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        assert found.loss[i] == pytest.approx(float(loss), rel=1e-5)


def test_the_scale_is_that_of_the_initial_kernel(data):
    scales = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    settings = sweep.grid(learning_rates=[0.0], seeds=range(2), init_scales=scales)
    kernels = np.asarray(run(settings, data).heads.kernel).reshape(2, 8, 16, 3)
    assert not kernels[:, 0].any()
    for i in range(2, 8):
        np.testing.assert_allclose(kernels[:, i], scales[i] * kernels[:, 1], rtol=1e-5)
    assert kernels[:, 1].std() == pytest.approx(16**-0.5, rel=0.2)


def test_the_best_head_is_of_the_highest_accuracy_then_the_lowest_loss():
    def best(accuracy, loss):
        heads = LinearHead(jnp.zeros((3, 1, 2)), jnp.zeros((3, 2)))
        settings = sweep.grid(learning_rates=[1.0, 2.0, 3.0])
        return sweep.SweepResult(settings, np.asarray(accuracy), np.asarray(loss), heads).best

    assert best([0.5, 0.7, 0.6], [0.1, 0.9, 0.1]) == 1
    assert best([0.7, 0.5, 0.7], [0.9, 0.1, 0.2]) == 2
    assert best([0.9, 0.5, 0.7], [np.nan, 0.1, 0.2]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "optimizer='adam'"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"batch_size": 151}, "1 to 150"),
        ({"epochs": 0}, "epochs=0"),
        ({"num_classes": 2}, "training labels from 0 to 2"),
    ],
)
def test_invalid_arguments_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        run(GRID, data, **options)


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="got 0 learning rates"):
        sweep.grid(learning_rates=[])

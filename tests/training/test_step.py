"""Tests of the training step and the evaluation step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax.data.augment.mixing import mix
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.training import optim, state, step
from tl_jax.transfer import freeze

SEED_KEY = jax.random.key(7)


class Identity(nn.Module):
    """Logits are the input plus a bias, so that every number can be computed by hand."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        return x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))


LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5]], np.float32)
LABELS = np.array([0, 1, 2, 2], np.int32)


def first_state(variables, *, train_backbone: bool = True, rate: float = 0.1, head: str = "fc"):
    plan = freeze.plan(variables["params"], [head], train_backbone=train_backbone)
    rates = {freeze.HEAD: rate, freeze.BACKBONE: rate}
    tx = optim.optimizer("sgd", rates, plan, momentum=0.0)
    return state.create(variables, tx, plan), tx, plan


def identity_step(label_smoothing: float = 0.0):
    variables = Identity().init(SEED_KEY, LOGITS)
    initial, tx, plan = first_state(variables, head="bias")
    made = step.make_train_step(
        Identity(), tx, plan,
        augment_fn=images_unchanged, seed_key=SEED_KEY, label_smoothing=label_smoothing,
    )  # fmt: skip
    return made(initial, {"image": LOGITS, "label": LABELS})


def test_weights_of_examples_count_in_slices_as_in_the_whole_batch():
    """A loss is divided by the number of examples, which is the same in each slice."""
    variables = Identity().init(SEED_KEY, LOGITS)
    initial, tx, plan = first_state(variables, head="bias")
    weights = np.array([3.0, 0.25, 0.0, 1.0], np.float32)
    given = {"image": LOGITS, "label": LABELS, "example_weight": weights}
    whole, slices = (
        step.make_train_step(
            Identity(), tx, plan,
            augment_fn=images_unchanged, seed_key=SEED_KEY, accumulate=accumulate,
        )(initial, given)
        for accumulate in (1, 2)
    )  # fmt: skip
    losses = -np.asarray(jax.nn.log_softmax(LOGITS))[np.arange(4), LABELS]
    np.testing.assert_allclose(whole[1]["loss"], (weights * losses).mean(), rtol=1e-6)
    np.testing.assert_allclose(slices[1]["loss"], whole[1]["loss"], rtol=1e-6)
    np.testing.assert_allclose(slices[0].params["bias"], whole[0].params["bias"], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_accuracy_gradient_and_update_are_those_by_hand(smoothing):
    after, values = identity_step(smoothing)
    logits = torch.tensor(LOGITS)
    bias = torch.zeros(3, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        logits + bias, torch.tensor(LABELS).long(), label_smoothing=smoothing
    )
    loss.backward()
    np.testing.assert_allclose(values["loss"], loss.item(), rtol=1e-6)
    assert values["accuracy"] == 0.5
    np.testing.assert_allclose(values["grad_norm"], bias.grad.norm(), rtol=1e-6)
    np.testing.assert_allclose(after.params["bias"], -0.1 * bias.grad, atol=1e-7)
    assert (after.step, after.step.dtype, after.batch_stats) == (1, jnp.int32, {})


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_norm_of_the_gradient_is_computed_at_most_once(clip_norm):
    variables = Identity().init(SEED_KEY, LOGITS)
    plan = freeze.plan(variables["params"], ["bias"], train_backbone=True)
    tx = optim.optimizer("sgd", {freeze.HEAD: 0.1}, plan, clip_norm=clip_norm)
    initial, inputs = state.create(variables, tx, plan), {"image": LOGITS, "label": LABELS}
    roots, results = [], []
    for log_grad_norm in (False, True):
        made = step.make_train_step(
            Identity(), tx, plan,
            augment_fn=images_unchanged, seed_key=SEED_KEY, log_grad_norm=log_grad_norm,
        )  # fmt: skip
        compiled = jax.jit(made).lower(initial, inputs).compile()
        roots.append(compiled.as_text().count(" sqrt("))
        results.append(compiled(initial, inputs))
    assert roots == ([0, 1] if clip_norm is None else [1, 1])
    (without, values), (with_norm, all_values) = results
    assert_equal_trees(without, with_norm)
    assert set(all_values) - set(values) == {"grad_norm"}


# ---- random keys


@pytest.fixture(scope="module")
def random_step():
    """A compiled step with dropout, drop path and noise on the images, and its first state."""
    model = TinyNet(drop_rate=0.5, drop_path_rate=0.5)
    initial, tx, plan = first_state(randomised(model))

    def augment_fn(key, batch):
        return batch["image"] + 0.01 * jax.random.normal(key, batch["image"].shape)

    def make(seed: int):
        seed_key = jax.random.key(seed)
        train_step = step.make_train_step(model, tx, plan, augment_fn=augment_fn, seed_key=seed_key)
        return jax.jit(train_step)

    return make(0), make(1), initial


def test_the_same_state_and_batch_give_the_same_bits(random_step):
    run, _, initial = random_step
    assert_equal_trees(run(initial, batch()), run(initial, batch()))


def test_the_random_key_depends_on_the_step_and_the_seed(random_step):
    run, other_seed, initial = random_step
    later = initial.replace(step=initial.step + 1)
    found = {
        float(values["loss"])
        for _, values in (run(initial, batch()), run(later, batch()), other_seed(initial, batch()))
    }
    assert len(found) == 3


def test_the_key_does_not_depend_on_how_the_step_was_reached(random_step):
    run, _, initial = random_step
    reached, _ = run(initial, batch())
    fresh = jax.tree.map(jnp.array, jax.device_get(reached))
    assert_equal_trees(run(reached, batch(seed=1)), run(fresh, batch(seed=1)))


def test_images_and_dropout_have_different_keys():
    keys = []

    class Spy(Identity):
        def apply(self, variables, images, *, rngs, **options):
            keys.append(rngs["dropout"])
            return super().apply(variables, images, rngs=rngs, **options)

    def augment_fn(key, batch):
        keys.append(key)
        return batch["image"]

    initial, tx, plan = first_state(Identity().init(SEED_KEY, LOGITS), head="bias")
    train_step = step.make_train_step(Spy(), tx, plan, augment_fn=augment_fn, seed_key=SEED_KEY)
    train_step(initial, {"image": LOGITS, "label": LABELS})
    assert jax.random.key_data(keys[0]).tolist() != jax.random.key_data(keys[1]).tolist()


# ---- types


def test_a_bfloat16_network_keeps_float32_parameters_statistics_and_losses():
    model = TinyNet(dtype=jnp.bfloat16)
    variables = randomised(model)
    initial, tx, plan = first_state(variables)
    made = step.make_train_step(model, tx, plan, augment_fn=images_unchanged, seed_key=SEED_KEY)
    after, values = jax.eval_shape(made, initial, batch())
    kept = (after.params, after.batch_stats, after.opt_state, values)
    floats = [leaf.dtype for leaf in jax.tree.leaves(kept) if jnp.issubdtype(leaf, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    assert model.apply(variables, batch()["image"]).dtype == jnp.float32


def test_bfloat16_is_what_the_layers_compute_in():
    exact, rounded = TinyNet(), TinyNet(dtype=jnp.bfloat16)
    variables = randomised(exact)
    one, other = (model.apply(variables, batch()["image"]) for model in (exact, rounded))
    assert 1e-4 < np.abs(one - other).max() / np.abs(one).max() < 5e-2


# ---- objectives


class TwoHeads(nn.Module):
    """The input plus a bias are the logits of a class, and their sum is a number."""

    num_classes = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        del train
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return {"kind": x + bias, "age": (x + bias).sum(-1, keepdims=True)}


AGES = np.array([1.0, np.nan, 5.0, 1.0], np.float32)
OBJECTIVE = MultiTask(
    {"kind": SingleLabel(3), "age": Regression(label_key="age")}, weights={"age": 0.5}
)


def objective_step(**options):
    variables = TwoHeads().init(SEED_KEY, LOGITS)
    initial, tx, plan = first_state(variables, head="bias")
    made = step.make_train_step(
        TwoHeads(), tx, plan,
        augment_fn=images_unchanged, seed_key=SEED_KEY, objective=OBJECTIVE, **options,
    )  # fmt: skip
    return made(initial, {"image": LOGITS, "label": LABELS, "age": AGES})


def test_several_tasks_are_trained_and_logged_by_name():
    after, values = objective_step()
    logits, bias = torch.tensor(LOGITS), torch.zeros(3, requires_grad=True)
    kind = torch.nn.functional.cross_entropy(logits + bias, torch.tensor(LABELS).long())
    known = [0, 2, 3]  # One age is missing.
    age = torch.nn.functional.mse_loss((logits + bias).sum(1)[known], torch.tensor(AGES)[known])
    loss = kind + 0.5 * age
    loss.backward()
    np.testing.assert_allclose(values["loss"], loss.item(), rtol=1e-6)
    np.testing.assert_allclose(values["kind.loss"], kind.item(), rtol=1e-6)
    np.testing.assert_allclose(values["age.loss"], age.item(), rtol=1e-6)
    assert values["kind.accuracy"] == 0.5 and "accuracy" not in values
    np.testing.assert_allclose(after.params["bias"], -0.1 * bias.grad, rtol=1e-5)


def test_mixed_targets_take_the_place_of_all_labels():
    shares = []

    def mix_fn(key, images, targets):
        assert {name: target.shape for name, target in targets.items()} == {
            "label": (4, 3),
            "age": (4, 2),
        }
        _, mixed = mix(key, jnp.zeros((4, 1, 1, 1)), targets, mixup=1.0)
        shares.append(mixed)
        return images, mixed

    _, values = objective_step(mix_fn=mix_fn)
    outputs = TwoHeads().apply({"params": {"bias": jnp.zeros(3)}}, LOGITS)
    expected, _ = OBJECTIVE.loss(outputs, shares[0])
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-6)
    assert values["kind.accuracy"] == 0.5  # Of the labels as they are.


def test_an_objective_has_its_own_smoothing():
    with pytest.raises(ValueError, match=r"got label_smoothing=0.1 and an objective"):
        objective_step(label_smoothing=0.1)


def test_the_default_is_the_objective_of_single_labels():
    made = step.make_statistics_step(lambda variables, batch: batch["logits"])
    batch = {"logits": LOGITS, "label": LABELS, "mask": np.arange(4) < 3}
    found = made({}, batch)
    expected = SingleLabel(3).statistics(jnp.asarray(LOGITS), batch)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


# ---- evaluation


def evaluate(logits, labels, mask):
    made = step.make_eval_step(Identity().apply)
    variables = {"params": {"bias": jnp.zeros(3)}}
    return jax.jit(made)(variables, {"image": logits, "label": labels, "mask": mask})


def test_evaluation_sums_losses_and_counts():
    found = evaluate(LOGITS, LABELS, np.ones(4, bool))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(LABELS).long(), reduction="sum"
    )
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
    assert found["label"].tolist() == [0, 1, 2, 2] and found["predicted"].tolist() == [0, 1, 1, 0]


def test_evaluation_does_not_see_the_padding():
    padded = np.concatenate([LOGITS, np.full((3, 3), np.nan, np.float32)])
    labels, mask = np.append(LABELS, [0, 0, 0]), np.arange(7) < 4
    found, expected = evaluate(padded, labels, mask), evaluate(LOGITS, LABELS, np.ones(4, bool))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    assert found["label"].tolist() == [*expected["label"].tolist(), -1, -1, -1]
    np.testing.assert_array_equal(found["predicted"][:4], expected["predicted"])


def test_evaluation_uses_the_running_statistics():
    model = TinyNet(drop_rate=0.5)
    variables = randomised(model)
    made = step.make_eval_step(model.apply)
    inputs = {**batch(), "mask": np.ones(8, bool)}
    logits = model.apply(variables, inputs["image"])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(np.array(logits)), torch.tensor(inputs["label"]).long(), reduction="sum"
    )
    np.testing.assert_allclose(made(variables, inputs)["loss"], expected, rtol=1e-5)


def test_examples_with_weights_are_not_mixed():
    variables = Identity().init(SEED_KEY, LOGITS)
    initial, tx, plan = first_state(variables, head="bias")
    made = step.make_train_step(
        Identity(), tx, plan,
        augment_fn=images_unchanged, seed_key=SEED_KEY, mix_fn=lambda *given: given[1:],
        objective=SingleLabel(3),
    )  # fmt: skip
    batch = {"image": LOGITS, "label": LABELS, "example_weight": np.ones(4, np.float32)}
    with pytest.raises(ValueError, match="got mix_fn and a batch with 'example_weight'"):
        made(initial, batch)

"""Tests of the losses: torch's numbers, masks, types and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tl_jax.objectives import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 5)).astype(np.float32)
LABELS = np.array([0, 4, 2, 2, 1, 3])
MASK = np.array([True, True, False, True, False, True])


def torchs(logits: np.ndarray, labels: np.ndarray, smoothing: float, **options) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing, **options
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_mean_is_torchs(smoothing):
    found = losses.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    np.testing.assert_allclose(found, torchs(LOGITS, LABELS, smoothing), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_each_example_is_torchs(smoothing):
    found = losses.example_cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    expected = torchs(LOGITS, LABELS, smoothing, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mask_leaves_examples_out_of_the_mean(smoothing):
    found = losses.cross_entropy(LOGITS, LABELS, mask=MASK, label_smoothing=smoothing)
    np.testing.assert_allclose(found, torchs(LOGITS[MASK], LABELS[MASK], smoothing), rtol=1e-6)


def test_what_is_masked_may_be_anything():
    logits = jnp.where(MASK[:, None], LOGITS, jnp.nan)
    found = losses.cross_entropy(logits, LABELS, mask=MASK)
    np.testing.assert_allclose(found, torchs(LOGITS[MASK], LABELS[MASK], 0.0), rtol=1e-6)


def test_an_empty_mask_gives_zero():
    assert losses.cross_entropy(LOGITS, LABELS, mask=np.zeros(6, bool)) == 0.0


def test_the_gradient_is_torchs():
    logits = torch.tensor(LOGITS, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), label_smoothing=0.1).backward()
    found = jax.grad(lambda x: losses.cross_entropy(x, LABELS, label_smoothing=0.1))(LOGITS)
    np.testing.assert_allclose(found, logits.grad, atol=1e-7)


def test_bfloat16_logits_give_a_float32_loss():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    found = losses.cross_entropy(logits, LABELS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, torchs(np.float32(logits), LABELS, 0.0), rtol=1e-6)


def test_large_logits_do_not_overflow():
    assert losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([0])) == 0.0
    assert losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1])) == 1e4


# ---- soft targets

SOFT = np.random.default_rng(1).dirichlet(np.ones(5), 6).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_give_torchs_loss(smoothing):
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(SOFT), label_smoothing=smoothing, reduction="none"
    )
    found = losses.example_cross_entropy(LOGITS, SOFT, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mean = losses.cross_entropy(LOGITS, SOFT, mask=MASK, label_smoothing=smoothing)
    np.testing.assert_allclose(mean, expected[torch.tensor(MASK)].mean(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_targets_of_a_single_class_are_its_label_bit_by_bit(smoothing, dtype):
    soft = np.eye(5, dtype=dtype)[LABELS]
    np.testing.assert_array_equal(
        losses.example_cross_entropy(LOGITS, soft, label_smoothing=smoothing),
        losses.example_cross_entropy(LOGITS, LABELS, label_smoothing=smoothing),
    )


@pytest.mark.parametrize("shape", [(6, 4), (5,), (6, 1), ()])
def test_labels_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"labels of shape \(.*for logits of shape \(6, 5\)"):
        losses.cross_entropy(LOGITS, np.zeros(shape, np.int32))


# ---- class weights and the other losses

WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
def test_class_weights_are_torchs(labels):
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS),
        torch.tensor(labels),
        weight=torch.tensor(WEIGHTS),
        label_smoothing=0.1,
        reduction="none",
    )
    found = losses.example_cross_entropy(LOGITS, labels, label_smoothing=0.1, class_weights=WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def lins(logits: torch.Tensor, targets: np.ndarray, gamma: float) -> torch.Tensor:
    """The focal loss of the paper, in 64 bits."""
    p = torch.softmax(logits.double(), -1)
    return -(torch.tensor(targets) * (1 - p) ** gamma * torch.log(p)).sum(-1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
def test_the_focal_loss_and_its_gradient_are_the_papers(labels, gamma):
    targets = np.eye(5)[labels] if labels.ndim == 1 else labels
    logits = torch.tensor(LOGITS, requires_grad=True)
    expected = lins(logits, targets, gamma)
    expected.sum().backward()
    found, gradient = jax.jit(
        jax.value_and_grad(lambda x: losses.focal(x, labels, gamma=gamma).sum())
    )(LOGITS)
    np.testing.assert_allclose(found, expected.sum().detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, logits.grad, atol=1e-5)


def test_a_gamma_of_zero_is_the_cross_entropy():
    options = {"label_smoothing": 0.1, "class_weights": WEIGHTS}
    found = losses.focal(LOGITS, LABELS, gamma=0.0, **options)
    np.testing.assert_allclose(
        found, losses.example_cross_entropy(LOGITS, LABELS, **options), rtol=1e-6
    )


@pytest.mark.parametrize("over", ["softmax", "logits"])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "soft"])
def test_the_squared_error_is_torchs(labels, over):
    outputs = torch.tensor(LOGITS)
    outputs = torch.softmax(outputs, -1) if over == "softmax" else outputs
    targets = torch.tensor(np.eye(5, dtype=np.float32)[labels] if labels.ndim == 1 else labels)
    expected = torch.nn.functional.mse_loss(outputs, targets, reduction="none").mean(-1)
    found = losses.squared_error(LOGITS, labels, over=over)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    weighted = losses.squared_error(LOGITS, labels, over=over, class_weights=WEIGHTS)
    factors = targets @ torch.tensor(WEIGHTS)
    np.testing.assert_allclose(weighted, factors * expected, rtol=1e-5, atol=1e-7)


def test_adjusted_logits_give_menons_loss():
    priors = np.array([0.7, 0.1, 0.1, 0.05, 0.05])
    adjusted = losses.adjusted_logits(LOGITS, np.log(priors), tau=0.5)
    odds = np.exp(LOGITS.astype(np.float64)) * priors**0.5
    expected = -np.log(odds[np.arange(6), LABELS] / odds.sum(-1))
    np.testing.assert_allclose(losses.example_cross_entropy(adjusted, LABELS), expected, rtol=1e-5)


EXTREME = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], np.float32)


@pytest.mark.parametrize(
    "loss",
    [
        losses.example_cross_entropy,
        lambda x, y: losses.focal(x, y, gamma=0.5),
        losses.focal,
        losses.squared_error,
        lambda x, y: losses.squared_error(x, y, over="logits"),
    ],
    ids=["cross_entropy", "focal_half", "focal", "mse", "mse_logits"],
)
def test_extreme_logits_have_finite_losses_and_gradients(loss):
    values, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, np.array([0, 0, 2])).sum()))(
        EXTREME
    )
    assert np.isfinite(values) and np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.focal, losses.squared_error])
def test_labels_of_another_shape_are_an_error_of_each_loss(loss):
    with pytest.raises(ValueError, match="pass class indices"):
        loss(LOGITS, np.zeros((6, 4), np.float32))

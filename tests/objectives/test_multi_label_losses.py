"""Tests of the multi-label losses: torch's numbers, the papers' formulas, unknown classes."""

import jax
import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tl_jax.objectives import multi_label_losses as losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 4)).astype(np.float32)
TARGETS = RNG.integers(0, 2, (6, 4)).astype(np.int8)
SOFT = RNG.uniform(0, 1, (6, 4)).astype(np.float32)
KNOWN = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1], [1] * 4])
PARTLY = np.where(KNOWN, TARGETS, -1).astype(np.int8)
ALL = {
    "cross_entropy": losses.binary_cross_entropy,
    "focal": losses.focal,
    "focal_half": lambda x, y: losses.focal(x, y, gamma=0.5, alpha=0.25),
    "asymmetric": losses.asymmetric,
    "no_margin": lambda x, y: losses.asymmetric(x, y, gamma_negative=0.5, margin=0.0),
}


def each(function):
    return pytest.mark.parametrize("loss", ALL.values(), ids=ALL)(function)


@pytest.mark.parametrize("targets", [TARGETS, SOFT], ids=["labels", "soft"])
def test_the_cross_entropy_is_torchs(targets):
    weights = (0.5, 1.0, 3.0, 9.0)
    expected = binary_cross_entropy_with_logits(
        torch.tensor(LOGITS),
        torch.tensor(targets).float(),
        pos_weight=torch.tensor(weights),
        reduction="none",
    ).mean(-1)
    found = losses.binary_cross_entropy(LOGITS, targets, positive_weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_smoothing_moves_targets_towards_a_half():
    found = losses.binary_cross_entropy(LOGITS, TARGETS, label_smoothing=0.2)
    expected = losses.binary_cross_entropy(LOGITS, np.where(TARGETS, 0.9, 0.1).astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (2.0, 0.25), (0.5, 0.75), (0.0, None)])
def test_the_focal_loss_is_that_of_torchvision(gamma, alpha):
    x, y = torch.tensor(LOGITS), torch.tensor(TARGETS).float()
    # As torchvision.ops.sigmoid_focal_loss computes it.
    p = torch.sigmoid(x)
    p_true = p * y + (1 - p) * (1 - y)
    expected = binary_cross_entropy_with_logits(x, y, reduction="none") * (1 - p_true) ** gamma
    if alpha is not None:
        expected = (alpha * y + (1 - alpha) * (1 - y)) * expected
    found = losses.focal(LOGITS, TARGETS, gamma=gamma, alpha=alpha)
    np.testing.assert_allclose(found, expected.mean(-1), rtol=1e-4)


def ridniks(x: torch.Tensor, y: np.ndarray, positive: float, negative: float, margin: float):
    """The asymmetric loss of the paper, in 64 bits."""
    p, y = torch.sigmoid(x.double()), torch.tensor(y).double()
    shifted = torch.clamp(p - margin, min=0)
    of_positive = (1 - p) ** positive * torch.log(p)
    of_negative = shifted**negative * torch.log(1 - shifted)
    return -(y * of_positive + (1 - y) * of_negative).mean(-1)


@pytest.mark.parametrize("options", [(0.0, 4.0, 0.05), (1.0, 2.0, 0.2), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("targets", [TARGETS, SOFT], ids=["labels", "soft"])
def test_the_asymmetric_loss_and_its_gradient_are_the_papers(targets, options):
    x = torch.tensor(LOGITS, requires_grad=True)
    expected = ridniks(x, targets, *options)
    expected.sum().backward()
    positive, negative, margin = options
    found, gradient = jax.jit(
        jax.value_and_grad(
            lambda x: losses.asymmetric(
                x, targets, gamma_positive=positive, gamma_negative=negative, margin=margin
            ).sum()
        )
    )(LOGITS)
    np.testing.assert_allclose(found, expected.sum().detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-5)


@each
def test_unknown_classes_count_neither_in_the_loss_nor_in_the_gradient(loss):
    found, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, PARTLY).sum()))(LOGITS)
    single = np.array(jax.vmap(lambda x, y: loss(x[None], y[None])[0])(
        LOGITS.reshape(-1, 1), TARGETS.reshape(-1, 1)
    )).reshape(6, 4)  # fmt: skip
    counts = KNOWN.sum(-1)
    expected = (single * KNOWN).sum(-1)[counts > 0] / counts[counts > 0]
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-5)
    assert (np.asarray(gradient)[KNOWN == 0] == 0).all()
    assert (np.asarray(loss(LOGITS, PARTLY))[3] == 0).all()


@each
def test_extreme_logits_have_finite_losses_and_gradients(loss):
    x = np.array([[1e4, -1e4, 1e4, -1e4]], np.float32)
    for y in ([[1, 1, 0, 0]], [[-1, -1, -1, -1]]):
        found, gradient = jax.jit(jax.value_and_grad(lambda x, y=y: loss(x, np.array(y)).sum()))(x)
        assert np.isfinite(found) and np.isfinite(gradient).all()


@each
def test_targets_of_another_shape_are_an_error(loss):
    with pytest.raises(ValueError, match=r"targets of shape \(6,\) for logits of shape \(6, 4\)"):
        loss(LOGITS, TARGETS[:, 0])


def test_bfloat16_logits_give_a_float32_loss():
    found = losses.binary_cross_entropy(jax.numpy.asarray(LOGITS, "bfloat16"), TARGETS)
    assert found.dtype == np.float32

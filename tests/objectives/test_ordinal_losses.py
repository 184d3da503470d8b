"""Tests of the ordinal losses: the papers' formulas, probabilities of levels, and their order."""

import jax
import numpy as np
import pytest
import torch

from tl_jax.objectives import ordinal_losses as losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (8, 3)).astype(np.float32)
LEVELS = np.array([0, 1, 2, 3, 3, 0, 2, 1], np.int32)
IMPORTANCE = (1.0, 0.5, 2.0)
FORMS = {"coral": losses.coral, "corn": losses.corn}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_coral_is_the_papers_formula():
    p = sigmoid(LOGITS)
    expected = [
        -sum(
            IMPORTANCE[k] * (np.log(p[i, k]) * (level > k) + np.log(1 - p[i, k]) * (level <= k))
            for k in range(3)
        )
        for i, level in enumerate(LEVELS)
    ]
    found = losses.coral(LOGITS, LEVELS, importance=IMPORTANCE)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_coral_is_torchs_binary_cross_entropy_of_the_questions():
    targets = torch.tensor(LEVELS[:, None] > np.arange(3)).float()
    x = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x, targets, reduction="sum")
    expected.backward()
    found, gradient = jax.jit(jax.value_and_grad(lambda x: losses.coral(x, LEVELS).sum()))(LOGITS)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-6)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-6)


def test_corn_is_the_log_probability_of_the_level():
    p = sigmoid(LOGITS)
    higher = np.cumprod(np.concatenate([np.ones((8, 1)), p], -1), -1)
    of_levels = higher - np.concatenate([higher[:, 1:], np.zeros((8, 1))], -1)
    np.testing.assert_allclose(losses.level_probabilities(LOGITS, "corn"), of_levels, atol=1e-6)
    expected = -np.log(of_levels[np.arange(8), LEVELS])
    np.testing.assert_allclose(losses.corn(LOGITS, LEVELS), expected, rtol=1e-5)


def test_corn_sums_over_the_papers_conditional_subsets():
    p, total = sigmoid(LOGITS), 0.0
    for k in range(3):
        subset = k <= LEVELS  # Those that are higher than k - 1.
        answers = LEVELS[subset] > k
        terms = np.where(answers, np.log(p[subset, k]), np.log(1 - p[subset, k]))
        total -= IMPORTANCE[k] * terms.sum()
    found = losses.corn(LOGITS, LEVELS, importance=IMPORTANCE).sum()
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_a_consistent_coral_head_has_the_differences_as_probabilities():
    logits = -np.sort(-LOGITS, -1)
    p = np.concatenate([np.ones((8, 1)), sigmoid(logits), np.zeros((8, 1))], -1)
    found = losses.level_probabilities(logits, "coral")
    np.testing.assert_allclose(found, p[:, :-1] - p[:, 1:], atol=1e-6)
    expected = (sigmoid(logits) > 0.5).sum(-1)
    np.testing.assert_array_equal(losses.predicted_levels(logits, "coral"), expected)


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_of_any_logits_are_in_order_and_sum_to_one(form):
    for logits in (LOGITS, 1e4 * np.sign(LOGITS)):
        higher = np.asarray(losses.higher_probabilities(logits, form))
        assert (np.diff(higher, axis=-1) <= 0).all()
        found = np.asarray(losses.level_probabilities(logits, form))
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
        # The predicted level is the median of these probabilities.
        medians = (np.cumsum(found, -1) < 0.5).sum(-1)
        np.testing.assert_array_equal(losses.predicted_levels(logits, form), medians)


def test_a_head_that_contradicts_itself_predicts_the_level_before_its_first_no():
    assert losses.predicted_levels(np.array([[2.0, -1.0, 3.0]]), "coral").tolist() == [1]


@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_have_finite_losses_and_gradients(form):
    logits = 1e4 * np.sign(LOGITS)
    found, gradient = jax.jit(jax.value_and_grad(lambda x: FORMS[form](x, LEVELS).sum()))(logits)
    assert np.isfinite(found) and np.isfinite(gradient).all()


@pytest.mark.parametrize("form", FORMS)
def test_soft_levels_are_an_error(form):
    with pytest.raises(ValueError, match="cannot be mixed"):
        FORMS[form](LOGITS, np.eye(8, 4))

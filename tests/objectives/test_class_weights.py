"""Tests of class weights: scikit-learn's, the papers' formulas, and classes without examples."""

import numpy as np
import pytest
import sklearn.utils.class_weight

from tl_jax.objectives import class_weights

COUNTS = np.array([500, 30, 1, 69])


def test_inverse_frequency_is_balanced_as_in_scikit_learn():
    labels = np.repeat(np.arange(4), COUNTS)
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.arange(4), y=labels
    )
    np.testing.assert_allclose(class_weights.inverse_frequency(COUNTS), expected)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_the_effective_number_is_cuis(beta):
    weights = (1 - beta) / (1 - beta**COUNTS)
    expected = weights / weights.sum() * 4
    np.testing.assert_allclose(class_weights.effective_number(COUNTS, beta=beta), expected)


def test_for_beta_near_one_the_weights_are_the_inverse_counts():
    found = np.array(class_weights.effective_number([10, 1000], beta=1 - 1e-12))
    assert found[0] / found[1] == pytest.approx(100)


def test_a_class_without_examples_weighs_nothing_and_counts_nowhere():
    for weigh in (class_weights.inverse_frequency, class_weights.effective_number):
        found = weigh([500, 0, 30, 1, 69])
        assert found[1] == 0
        np.testing.assert_allclose(np.delete(found, 1), weigh(COUNTS))


def test_log_priors_are_logs_of_shares_and_finite():
    found = np.exp(class_weights.log_priors(COUNTS))
    np.testing.assert_allclose(found, COUNTS / 600)
    assert np.isfinite(class_weights.log_priors([5, 0])).all()


def test_positive_weights_are_negatives_per_positive_within_bounds():
    found = class_weights.positive_weights([10, 0, 100], [90, 100, 0], largest=20)
    assert found == (9.0, 20.0, 0.05)


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [[1, 2]], [np.nan, 1]])
def test_counts_of_nothing_are_an_error(counts):
    with pytest.raises(ValueError, match="expected the number of training examples"):
        class_weights.log_priors(counts)


@pytest.mark.parametrize("beta", [1.0, -0.1])
def test_beta_is_below_one(beta):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        class_weights.effective_number(COUNTS, beta=beta)

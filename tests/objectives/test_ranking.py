"""Tests of the scores of a ranking: scikit-learn's numbers, ties, and classes of one kind."""

import numpy as np
import pytest
import sklearn.metrics

from tl_jax.objectives import ranking


@pytest.mark.parametrize("decimals", [9, 1, 0])  # Without ties, with some, with almost only these.
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_the_scores_are_those_of_scikit_learn(decimals, share):
    rng = np.random.default_rng(decimals)
    is_positive = rng.uniform(size=300) < share
    scores = (rng.normal(size=300) + is_positive).round(decimals)
    found = ranking.rank(scores, is_positive)
    assert found.auc == pytest.approx(sklearn.metrics.roc_auc_score(is_positive, scores))
    expected = sklearn.metrics.average_precision_score(is_positive, scores)
    assert found.average_precision == pytest.approx(expected)
    assert (found.positives, found.negatives) == (is_positive.sum(), (~is_positive).sum())


def test_scores_that_are_all_the_same_rank_nothing():
    found = ranking.rank(np.zeros(8), np.arange(8) < 2)
    assert (found.auc, found.average_precision) == (0.5, 0.25)


def test_without_positives_or_negatives_there_is_no_area():
    scores = np.array([0.1, 0.2])
    assert ranking.rank(scores, np.zeros(2, bool)) == ranking.Ranking(None, None, 0, 2)
    assert ranking.rank(scores, np.ones(2, bool)) == ranking.Ranking(None, 1.0, 2, 0)
    assert ranking.rank(scores[:0], np.zeros(0, bool)) == ranking.Ranking(None, None, 0, 0)


def test_means_are_over_the_classes_that_have_a_score():
    scores = np.array([[0.9, 0.1, 0.3], [0.4, 0.2, 0.1], [0.5, 0.6, 0.2]])
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
    found = ranking.summarize(ranking.by_class(lambda c: (scores[:, c], labels[:, c]), 3))
    expected = sklearn.metrics.roc_auc_score(labels[:, :2], scores[:, :2], average="macro")
    assert found["macro_auc"] == pytest.approx(expected)
    assert found["auc"][2] is None and found["average_precision"][2] is None
    assert found["classes_without_positives"] == 1

"""Probes of known features, beside scikit-learn on the same."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tl_jax.objectives import metrics
from tl_jax.probes.feature_file import Features
from tl_jax.probes.probe import ProbeOptions, fit_probe, held_out_split
from tl_jax.probes.solvers import l2_of_sklearn

CLASSES, COUNT = 4, 200
NAMES = ("a", "b", "c", "d")


def make_features() -> tuple[Features, Features]:
    """Returns features of two splits of overlapping classes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, 12))

    def one_split() -> Features:
        labels = rng.integers(0, CLASSES, COUNT).astype(np.int32)
        values = centres[labels] + 2.0 * rng.normal(size=(COUNT, 12))
        return Features(values[None].astype(np.float32), labels, {}, from_cache=False)

    return one_split(), one_split()


TRAIN, TEST = make_features()


def run(train=TRAIN, **options):
    return fit_probe(train, TEST, NAMES, ProbeOptions(**options))


PEERS = {
    "logistic": (
        {"l2": l2_of_sklearn(0.1, examples=COUNT, num_classes=CLASSES)},
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-7, max_iter=1000)),
    ),
    "ridge": ({"l2": 0.1}, RidgeClassifier(alpha=0.1 * COUNT)),
    "knn": ({"k": 9, "temperature": None}, KNeighborsClassifier(9, metric="cosine")),
    "class_means": ({}, NearestCentroid()),
}


@pytest.mark.parametrize("method", sorted(PEERS))
def test_the_accuracy_is_scikit_learn_s(method):
    options, peer = PEERS[method]
    result = run(method=method, **options)
    with threadpool_limits(1):
        peer.fit(TRAIN.features[0].astype(np.float64), TRAIN.labels)
    expected = peer.score(TEST.features[0].astype(np.float64), TEST.labels)
    assert abs(result.accuracy - expected) <= 0.005
    assert 0.5 < result.accuracy < 0.95
    hits = round(result.accuracy * COUNT)
    assert result.accuracy_interval == metrics.wilson_interval(hits, COUNT)
    counts = (result.count, result.confusion.sum(), result.confusion.trace())
    assert counts == (COUNT, COUNT, hits)
    np.testing.assert_array_equal(result.confusion.sum(1), np.bincount(TEST.labels))
    assert result.class_names == NAMES
    assert (result.head is None) is (method == "knn")
    assert (result.convergence is not None) is (method == "logistic")
    assert (result.l2 is not None) is (method in ("logistic", "ridge"))


def test_the_penalty_is_chosen_on_a_part_of_the_training_split():
    candidates = [1e-4, 1e-1, 1e4]
    result = run(method="ridge", l2=candidates)
    assert sorted(result.accuracy_by_l2) == candidates
    best = max(result.accuracy_by_l2.values())
    assert result.accuracy_by_l2[result.l2] == best > result.accuracy_by_l2[1e4] - 1e-9
    alone = run(method="ridge", l2=result.l2)
    assert alone.accuracy_by_l2 == {}
    np.testing.assert_array_equal(result.head.kernel, alone.head.kernel)  # Fitted again on all.


@pytest.mark.parametrize("held_out", [0.1, 0.5])
def test_the_held_out_part_is_of_each_class(held_out):
    labels = np.asarray([0] * 40 + [1] * 20 + [2])
    fit, held = held_out_split(labels, held_out, seed=0)
    assert sorted([*fit, *held]) == list(range(61))
    assert list(np.bincount(labels[held], minlength=3)) == [40 * held_out, 20 * held_out, 0]
    other = held_out_split(labels, held_out, seed=1)[1]
    assert list(held) != list(other)
    with pytest.raises(ValueError, match=r"held_out=0.001 holds out none of 61 examples"):
        held_out_split(labels, 0.001, seed=0)


def test_views_are_more_examples():
    twice = dataclasses.replace(TRAIN, features=np.concatenate([TRAIN.features] * 2))
    one, two = (run(train, method="ridge", l2=0.1).head.kernel for train in (TRAIN, twice))
    np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svm"}, "method='svm'"),
        ({"l2": []}, "at least one"),
        ({"held_out": 1.0}, "held_out=1.0"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProbeOptions(**options)


# ---- other labels than one class each


def with_labels(labels: np.ndarray) -> Features:
    return dataclasses.replace(TRAIN, labels=labels)


def test_numbers_are_fitted_by_ridge_and_the_penalty_is_chosen_by_r2():
    rng, x = np.random.default_rng(1), TRAIN.features[0]
    labels = (x @ rng.normal(size=12) + 7 + rng.normal(size=COUNT)).astype(np.float32)
    train = with_labels(labels)
    found = fit_probe(train, train, (), ProbeOptions("ridge", l2=0.5), kind="regression")
    with threadpool_limits(1):
        expected = Ridge(alpha=0.5 * COUNT).fit(x, labels)
    np.testing.assert_allclose(found.head.kernel[:, 0], expected.coef_, rtol=1e-3, atol=1e-4)
    assert found.metrics["r2"] == pytest.approx(expected.score(x, labels), rel=1e-4)
    assert np.isnan(found.accuracy) and found.count == COUNT and "loss" not in found.metrics
    chosen = fit_probe(train, train, (), ProbeOptions("ridge", l2=(1e-3, 1e3)), kind="regression")
    assert chosen.l2 == 1e-3 and chosen.accuracy_by_l2[1e-3] > 0.5 > chosen.accuracy_by_l2[1e3]


@pytest.mark.parametrize(("method", "l2"), [("logistic", 1e-3), ("ridge", (1e-3, 1e-1))])
def test_each_class_of_several_is_found_by_itself(method, l2):
    x = TRAIN.features[0]
    train = with_labels((x[:, :3] > np.quantile(x[:, :3], 0.7, axis=0)).astype(np.int8))
    options = ProbeOptions(method, l2)
    found = fit_probe(train, train, NAMES[:3], options, kind="multi_label")
    assert found.metrics["mean_average_precision"] > 0.95
    assert found.metrics["macro_f1"] > 0.6  # A class is predicted from an output of 0 on.
    assert found.head.kernel.shape == (12, 3)
    assert found.l2 in (found.accuracy_by_l2 or [l2])


@pytest.mark.parametrize(
    ("method", "kind"),
    [("knn", "multi_label"), ("class_means", "regression"), ("knn", "regression")],
)
def test_methods_for_classes_alone_are_refused(method, kind):
    with pytest.raises(ValueError, match=f"got method='{method}' for labels that are"):
        fit_probe(TRAIN, TEST, NAMES, ProbeOptions(method), kind=kind)

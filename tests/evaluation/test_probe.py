"""Probes of pretrained networks, runs and networks at hand, beside scikit-learn on the same."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tests.training.tiny import randomised
from tl_jax.config import ModelConfig, TransferConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.sources.open import open_source
from tl_jax.evaluation import probe as probing
from tl_jax.evaluation.probe import headless, probe
from tl_jax.models import pretrained
from tl_jax.models.registry import create_model
from tl_jax.objectives import metrics
from tl_jax.probes.extract import Features, extract
from tl_jax.probes.solvers import l2_of_sklearn
from tl_jax.run import model as start
from tl_jax.run.fit import fit

HOW = Preprocess(size=(32, 32))
CLASSES, TRAIN, TEST = 4, 240, 200


def known_features(seed=0, noise=2.0):
    """Returns features of two splits of overlapping classes, as a cache hands them out."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 12))

    def one(count):
        labels = rng.integers(0, CLASSES, count).astype(np.int32)
        values = centres[labels] + noise * rng.normal(size=(count, 12))
        return Features(values[None].astype(np.float32), labels, {}, False)

    return one(TRAIN), one(TEST)


class Named:
    """A split of which nothing but names and labels is asked, since its features are known."""

    name, skipped = "named", ()

    def __init__(self, split, class_names, labels=(0,)):
        self.split, self.class_names, self._labels = split, class_names, np.asarray(labels)

    def labels(self):
        return self._labels


@pytest.fixture
def known(monkeypatch):
    """Puts known features in the place of a pass over data, and returns a probe of them."""
    train, test = known_features()
    found = {"train": train, "test": test}
    monkeypatch.setattr(
        probing.feature_cache, "extract", lambda model, variables, source, **_: found[source.split]
    )
    splits = [Named(split, tuple("abcd")) for split in ("train", "test")]
    model = create_model("test_resnet", num_classes=0)

    def run(**options):
        return probe((model, {}), *splits, preprocess=HOW, **options)

    return run, train, test


PEERS = {
    "logistic": (
        {"l2": l2_of_sklearn(0.1, examples=TRAIN, num_classes=CLASSES)},
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-7, max_iter=1000)),
    ),
    "ridge": ({"l2": 0.1}, RidgeClassifier(alpha=0.1 * TRAIN)),
    "knn": ({"k": 9, "temperature": None}, KNeighborsClassifier(9, metric="cosine")),
    "class_means": ({}, NearestCentroid()),
}


@pytest.mark.parametrize("method", sorted(PEERS))
def test_the_accuracy_is_scikit_learn_s(known, method):
    run, train, test = known
    options, peer = PEERS[method]
    found = run(method=method, **options)
    with threadpool_limits(1):
        peer.fit(train.features[0].astype(np.float64), train.labels)
    expected = peer.score(test.features[0].astype(np.float64), test.labels)
    assert abs(found.accuracy - expected) <= 0.005
    assert 0.5 < found.accuracy < 0.95
    hits = round(found.accuracy * TEST)
    assert found.accuracy_interval == metrics.wilson_interval(hits, TEST)
    assert (found.count, found.confusion.sum(), found.confusion.trace()) == (TEST, TEST, hits)
    np.testing.assert_array_equal(found.confusion.sum(1), np.bincount(test.labels))
    assert found.class_names == ("a", "b", "c", "d")
    assert (found.head is None) is (method == "knn")
    assert (found.convergence is not None) is (method == "logistic")


def test_the_penalty_is_chosen_on_a_part_of_the_training_split(known):
    run, _, _ = known
    strengths = [1e-4, 1e-1, 1e4]
    found = run(method="ridge", l2=strengths)
    assert sorted(found.accuracy_by_l2) == strengths
    best = max(found.accuracy_by_l2.values())
    assert found.accuracy_by_l2[found.l2] == best > found.accuracy_by_l2[1e4] - 1e-9
    alone = run(method="ridge", l2=found.l2)
    assert alone.accuracy_by_l2 == {}
    np.testing.assert_array_equal(found.head.kernel, alone.head.kernel)  # Refitted on all.


@pytest.mark.parametrize("held_out", [0.1, 0.5])
def test_the_held_out_part_is_of_each_class(held_out):
    labels = np.asarray([0] * 40 + [1] * 20 + [2])
    fit_on, held = probing._split(labels, held_out, seed=0)
    assert sorted([*fit_on, *held]) == list(range(61))
    assert list(np.bincount(labels[held], minlength=3)) == [40 * held_out, 20 * held_out, 0]
    other = probing._split(labels, held_out, seed=1)[1]
    assert list(held) != list(other)


def test_views_are_more_examples(known, monkeypatch):
    run, train, test = known
    twice = dataclasses.replace(train, features=np.concatenate([train.features] * 2))
    expected = run(method="ridge", l2=0.1).head.kernel
    found = {"train": twice, "test": test}
    monkeypatch.setattr(
        probing.feature_cache, "extract", lambda model, variables, source, **_: found[source.split]
    )
    np.testing.assert_allclose(run(method="ridge", l2=0.1).head.kernel, expected, atol=1e-5)


# ---- on pictures


def test_a_pretrained_network_by_name_and_a_source_by_its_string(tiny_weights, photos, tmp_path):
    options = {"weights": str(tiny_weights), "preprocess": HOW, "batch_size": 8}
    options |= {"l2": 1e-2, "cache_dir": tmp_path / "cache"}
    found = probe("resnet18", f"folder:{photos}", f"folder:{photos}", **options)
    assert found.count == 14
    assert found.convergence.converged
    assert found.accuracy > 0.8  # The classes differ in colour.
    assert len(list((tmp_path / "cache").iterdir())) == 2
    again = probe("resnet18", f"folder:{photos}", f"folder:{photos}", **options)
    np.testing.assert_array_equal(found.head.kernel, again.head.kernel)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_head_starts_a_fine_tuning(tiny_weights, photos):
    source = open_source(f"folder:{photos}", "test")
    model = create_model("resnet18", num_classes=2)
    variables, _ = pretrained.load_weights(model, "resnet18", str(tiny_weights))
    found = probe((model, variables), source, source, preprocess=HOW, l2=1e-2, batch_size=4)
    params = found.start(variables["params"], model.classifier)
    logits = extract(model, {**variables, "params": params}, source, preprocess=HOW, batch_size=4)
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (logits.labels, logits.features[0].argmax(1)), 1)
    np.testing.assert_array_equal(confusion, found.confusion)
    with pytest.raises(ValueError, match="no layer 'fx'"):
        found.start(variables["params"], "fx")
    with pytest.raises(ValueError, match="expected a dense layer"):
        found.start(variables["params"], "conv1")
    with pytest.raises(ValueError, match="'knn' has no head"):
        dataclasses.replace(found, method="knn", head=None).start(params, "fc")


def test_a_run(tiny_config, photos, tmp_path):
    train = dataclasses.replace(tiny_config.train, head_epochs=1, epochs=0)
    fit(dataclasses.replace(tiny_config, train=train), tmp_path / "run")
    splits = f"folder:{photos}", f"folder:{photos}"
    found = probe(tmp_path / "run", *splits, method="class_means", batch_size=8)
    assert found.count == 14
    by_name = probe(
        "resnet18", *splits, weights=tiny_config.model.weights, preprocess=HOW, batch_size=8,
        method="class_means",
    )  # fmt: skip
    # The backbone stood still, and the run's preprocessing is that of its weights at 32 pixels.
    np.testing.assert_array_equal(found.confusion, by_name.confusion)


@pytest.mark.parametrize(
    ("head", "transfer"),
    [
        ("linear", TransferConfig()),
        ("mlp", TransferConfig()),
        ("cosine", TransferConfig()),
        ("linear", TransferConfig(classifier="fuse")),
        ("linear", TransferConfig(adaptation="lora")),
    ],
)
def test_whatever_the_head_the_features_are_the_backbone_s(tiny_config, head, transfer):
    options = ModelConfig(name="resnet18", head=head, hidden=(8,))
    config = dataclasses.replace(tiny_config, model=options, transfer=transfer)
    model = start.build_model(config, 2)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = randomised(model, side=32)
    params, stats = variables["params"], variables["batch_stats"]
    plain = {"params": params.get("backbone", params)}
    plain["batch_stats"] = stats.get("backbone", stats)
    if transfer.adaptation != "none":
        plain = model.merged(variables)
    expected = jax.jit(create_model("resnet18", num_classes=0).apply)(plain, images)
    found = jax.jit(headless(model).apply)(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svm"}, "method='svm'"),
        ({"l2": []}, "at least one"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"dtype": "bfloat16"}, "for a network by name"),
        ({"weights": "hub"}, "for a network by name"),
    ],
)
def test_what_is_unfit_is_refused(known, options, message):
    with pytest.raises(ValueError, match=message):
        known[0](**options)


def test_splits_of_other_classes_and_a_network_without_preprocessing_are_refused():
    one, other = Named("train", ("a", "b")), Named("test", ("b", "a"))
    model = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match="they must be the same, in the same order"):
        probe((model, {}), one, other, preprocess=HOW)
    with pytest.raises(ValueError, match="no preprocessing of its own"):
        probe((model, {}), one, one)


def test_a_split_with_missing_labels_is_refused():
    whole, part = Named("train", ("a", "b")), Named("test", ("a", "b"), [0, -1, 1])
    with pytest.raises(ValueError, match=r"1 of 3 examples of split 'test' .* have no"):
        probe("test_resnet", whole, part)

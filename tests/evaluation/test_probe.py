"""Probes of pretrained networks by name, of runs, and of networks with their variables."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support.tiny import randomised
from tl_jax.config import ModelConfig, TransferConfig
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, Task
from tl_jax.data.sources.open import open_source
from tl_jax.evaluation.probe import open_splits, probe
from tl_jax.models import pretrained
from tl_jax.models.registry import create_model
from tl_jax.probes.extract import extract, headless
from tl_jax.run.fit import fit
from tl_jax.run.model import build_model

pytestmark = pytest.mark.slow

HOW = Preprocess(size=(32, 32))


class Named(Source):
    """A split of which only names and labels are read."""

    name = "named"

    def __init__(self, split, class_names, labels=(0,)):
        self.split, self.tasks = split, (Task("label", class_names),)
        self._labels = np.asarray(labels)

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        raise AssertionError("an image was read, which is not needed")

    def labels(self):
        return self._labels


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
    logits = extract(
        model, {**variables, "params": params}, source, preprocess=HOW, load_options=LoadOptions(4)
    )
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
    # The backbone was frozen, and the run's preprocessing is that of its weights at 32 pixels.
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
def test_the_features_are_the_backbone_s_for_every_head(tiny_config, head, transfer):
    options = ModelConfig(name="resnet18", head=head, hidden=(8,))
    config = dataclasses.replace(tiny_config, model=options, transfer=transfer)
    model = build_model(config, 2)
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
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"dtype": "bfloat16"}, "for a network by name"),
        ({"weights": "hub"}, "for a network by name"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    splits = [Named(split, tuple("abcd")) for split in ("train", "test")]
    with pytest.raises(ValueError, match=message):
        probe((create_model("test_resnet", num_classes=0), {}), *splits, preprocess=HOW, **options)


def test_splits_of_other_classes_and_a_network_without_preprocessing_are_refused():
    one, other = Named("train", ("a", "b"), (0, 1)), Named("test", ("c", "b"), (0, 1))
    model = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match=r"not trained on: 'c' \(1\)"):
        probe((model, {}), one, other, preprocess=HOW)
    with pytest.raises(TypeError, match="the train set is None"):
        probe((model, {}), None, one, preprocess=HOW)
    with pytest.raises(ValueError, match="has no preprocessing; pass preprocess="):
        probe((model, {}), one, one)


def test_a_split_with_missing_labels_is_refused():
    whole, part = Named("train", ("a", "b")), Named("test", ("a", "b"), [0, -1, 1])
    with pytest.raises(ValueError, match=r"1 of 3 examples of split 'test' .* have no"):
        probe("test_resnet", whole, part)


def test_a_set_of_one_class_is_refused_and_the_split_to_test_on_is_asked(photos, tmp_path):
    one = Named("train", ("a", "b"), labels=(1, 1))
    with pytest.raises(ValueError, match="got one class to train on: all 2 labels"):
        probe("resnet18", one, one, weights="random", preprocess=HOW)
    (photos / "train").rename(tmp_path / "other")
    (tmp_path / "set").mkdir()
    (tmp_path / "other").rename(tmp_path / "set" / "train")
    with pytest.raises(ValueError, match=r"splits 'train', none .*--test-split.*train\[:80%\] and"):
        open_splits("resnet18", f"folder:{tmp_path / 'set'}")

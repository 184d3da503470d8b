"""Probes of labels of any kind, on the features of runs with any inputs."""

import jax
import numpy as np
import pytest

from tl_jax.cli import main
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.evaluation.probe import open_splits, probe
from tl_jax.models.registry import create_model
from tl_jax.probes.extract import extract, headless
from tl_jax.run.folder import load_run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(make_task_run, tiny_networks):
    return make_task_run("multi_class", inputs="all")


@pytest.fixture
def spec(object_table):
    return f"manifest:{object_table}"


def splits(run, spec, label, **options):
    return open_splits(run, spec, test_split="validation", labels=[label], **options)


def test_a_run_with_views_and_columns_gives_what_goes_into_its_heads(run, spec):
    trained = load_run(run)
    train, _ = splits(run, spec, "tags")
    how = trained.info.preprocess
    found = extract(
        headless(trained.model), trained.variables, train, preprocess=how,
        load_options=LoadOptions(8, workers=0),
    )  # fmt: skip
    network = trained.model.clone(tasks=())
    inputs = trained.model.abstract_inputs((1, *how.size, 3))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), inputs)
    shape = jax.eval_shape(network.apply, trained.variables, zeros).shape
    assert found.features.shape == (1, 24, shape[1])
    assert found.labels.shape == (24, 2) and set(found.labels.ravel()) == {0, 1}


def test_several_classes_each_are_a_yes_or_no_for_each(run, spec):
    train, test = splits(run, spec, "tags")
    found = probe(run, train, test, l2=1e-2, batch_size=8)
    assert found.kind == "multi_label" and found.metrics["mean_average_precision"] > 0.8
    assert found.class_names == test.class_names and np.isnan(found.accuracy)
    assert found.head.kernel.shape[1] == 2


def test_labels_that_are_missing_and_methods_for_classes_are_refused(run, spec, capsys):
    train, test = splits(run, spec, "weight", numbers=["weight"])
    with pytest.raises(ValueError, match=r"1 of 24 examples of split 'train' .* have no 'weight'"):
        probe(run, train, test, method="ridge")
    train, test = splits(run, spec, "tags")
    with pytest.raises(ValueError, match=r"any number of classes each; expected 'logistic' or"):
        probe(run, train, test, method="knn")
    arguments = ["--labels", "grade", "--test-split", "validation"]
    assert main(["probe", str(run), spec, *arguments]) == 1
    assert "have no 'grade'" in capsys.readouterr().err


def test_a_network_of_one_image_does_not_take_views(spec):
    train, test = open_splits(
        "resnet18", spec, test_split="validation", labels=["tags"], image_column=["front", "side"]
    )
    network = create_model("test_resnet", num_classes=0), {}
    with pytest.raises(ValueError, match="the network takes image, and .* image and view_mask"):
        probe(network, train, test, preprocess=Preprocess(size=(16, 16)))

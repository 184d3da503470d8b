"""The ranking of backbones: its rows, what is undefined, what fails, and the command."""

import json

import numpy as np
import pytest

from tests.support import objects
from tests.support.runs import change
from tl_jax import cli, trees
from tl_jax.config import to_json
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Task
from tl_jax.data.sources.open import open_source
from tl_jax.models.pretrained import load_pretrained
from tl_jax.probes.extract import extract
from tl_jax.probes.feature_file import Features
from tl_jax.probes.probe import ProbeOptions, fit_probe
from tl_jax.selection import measures
from tl_jax.selection.rank import rank
from tl_jax.selection.scores import leep, logme
from tl_jax.weights.index import pretrained_config

MODELS = ["resnet18", "resnet18:stage1", "resnet18@24", "tf_efficientnet_lite0"]


@pytest.fixture
def config(tiny_config):
    return change(tiny_config, "data", test_split=None)


@pytest.mark.slow
def test_rows_equal_what_the_networks_give(config, tiny_weights, photos, tmp_path):
    options = {"scores": ["knn", "logme", "leep"], "cache_dir": tmp_path / "cache"}
    found = rank(config, MODELS, timing=False, to=tmp_path / "out", **options)
    whole, stage, small, failed = found["rows"]
    model, variables = load_pretrained("resnet18", weights=str(tiny_weights), verbose=False)
    how = Preprocess.of(pretrained_config("resnet18"), input_size=32)
    train, held_out = (open_source(f"folder:{photos}", split) for split in ("train", "val"))
    logits = extract(model, variables, train, preprocess=how)
    own = np.exp(logits.features[0] - logits.features[0].max(1, keepdims=True))
    own /= own.sum(1, keepdims=True)
    np.testing.assert_allclose(value(whole, "leep"), leep(own, train.labels()), rtol=1e-4)
    splits = []
    for source in (train, held_out):
        maps = extract(model, variables, source, preprocess=how, at="layer1").features[0]
        splits.append(Features(maps.mean((1, 2))[None], source.labels(), {}, from_cache=False))
    np.testing.assert_allclose(
        value(stage, "logme"), logme(splits[0].features[0], train.labels()), rtol=1e-4
    )
    knn = fit_probe(*splits, train.class_names, ProbeOptions("knn", k=20))
    assert value(stage, "knn") == pytest.approx(knn.accuracy)
    assert stage["width"] == 8 and whole["width"] == 16
    sizes = {path: leaf.size for path, leaf in trees.flatten(variables["params"]).items()}
    assert whole["parameters"] == sum(n for path, n in sizes.items() if path[0] != "fc")
    upto = ("conv1", "bn1", "layer1")
    assert stage["parameters"] == sum(n for path, n in sizes.items() if path[0] in upto)
    assert stage["flops"] < whole["flops"]
    assert small["image_size"] == 24 and small["flops"] < whole["flops"]
    assert "does not fit" in failed["error"]  # Lite0 is a tiny ResNet here.
    assert "stage" in stage["scores"]["leep"]["undefined"]
    best_first = sorted(found["rows"][:3], key=lambda row: value(row, "logme"), reverse=True)
    assert found["order"]["logme"] == [row["model"] for row in best_first]
    assert set(found["order"]["leep"]) == {"resnet18", "resnet18@24"}
    assert json.loads((tmp_path / "out" / "ranking.json").read_text())["order"] == found["order"]
    again = rank(config, MODELS[:1], timing=False, **options)
    assert not whole["features_from_cache"] and not again["rows"][0]["features_from_cache"]
    third = rank(config, MODELS[:1], timing=False, **options)
    assert third["rows"][0]["features_from_cache"]
    assert value(third["rows"][0], "logme") == pytest.approx(value(whole, "logme"), rel=1e-5)


def value(row, score):
    return row["scores"][score]["value"]


@pytest.mark.slow
def test_the_seed_draws_the_start_of_the_clusters(config, tmp_path):
    config = change(config, "data", source="digits", eval_split="validation", shots=20)
    options = {"scores": ["nleep"], "timing": False, "cache_dir": tmp_path}
    first, again, other = (
        value(rank(config, ["resnet18"], seed=seed, **options)["rows"][0], "nleep")
        for seed in (0, 0, 1)
    )
    assert first == pytest.approx(again) and first != pytest.approx(other, rel=1e-6)


@pytest.mark.slow
def test_one_of_several_tasks_is_ranked(tiny_weights, tmp_path):
    config = objects.make_config(objects.write(tmp_path), tiny_weights, tuple(objects.TASKS))
    options = {"scores": ["knn", "logme"], "timing": False, "cache_dir": tmp_path / "cache"}
    first = rank(config, ["resnet18"], **options)
    other = rank(config, ["resnet18"], task="weight", **options)
    assert (first["task"], other["task"]) == ("kind", "weight")
    assert value(first["rows"][0], "knn") is not None and value(other["rows"][0], "knn") is None
    with pytest.raises(ValueError, match="no task 'wait'"):
        rank(config, ["resnet18"], task="wait", **options)


@pytest.mark.slow
def test_the_command_prints_a_table(config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(to_json(config))
    command = ["rank", str(tmp_path / "config.json"), "--models", *MODELS[:2], MODELS[3]]
    command += ["--to", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
    command += ["--scores", "knn", "h_score", "leep"]
    assert cli.main([*command, "--sort-by", "h_score"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["model", "px", "dim", "k-NN", "H-score"]
    assert {lines[2].split()[0], lines[3].split()[0]} == set(MODELS[:2])
    assert lines[4].startswith("tf_efficientnet_lite0: ")
    assert any(line.startswith("LEEP is undefined for resnet18:stage1") for line in lines)
    rows = json.loads((tmp_path / "out" / "ranking.json").read_text())["rows"]
    assert rows[0]["images_per_second"] > 0 and rows[0]["memory_bytes"] > 0
    assert (tmp_path / "out" / "ranking.png").exists()
    assert cli.main([*command, "--sort-by", "leap"]) == 1


@pytest.mark.parametrize(
    ("models", "scores", "message"),
    [
        ([], ["knn"], "expected a list of candidates"),
        (["resnet18"], ["kn"], "knn"),
        (["resnet81"], ["knn"], "resnet18"),
        (["resnet18:stage9"], ["knn"], "0 to 2"),
        (["resnet18@4"], ["knn"], "8 or more"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_is_read(config, models, scores, message):
    with pytest.raises(ValueError, match=message):
        rank(change(config, "data", source="folder:nowhere"), models, scores=scores)


def test_nothing_is_returned_if_all_fail(config, tmp_path):
    with pytest.raises(ValueError, match="no candidate could be ranked"):
        rank(config, MODELS[3:], cache_dir=tmp_path)


def seen(labels, held_out_labels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    return measures.Seen(x[:40], labels(x[:40]), x[40:], held_out_labels(x[40:]), None, "none")


@pytest.mark.slow
def test_several_classes_each_have_the_evidence_and_a_probe():
    def labels(x):
        return (x[:, :2] > 0).astype(np.int8)

    task = Task("tags", ("red", "round"), multi_label=True)
    data = seen(labels, labels)
    found = {name: measures.compute(name, data, task, 0) for name in measures.NAMES}
    assert found["linear_probe"].value > 0.8
    assert found["logme"].value == logme(data.train, data.train_labels.astype(float))
    for name in ("knn", "h_score", "leep", "nleep"):
        assert found[name].value is None and "one class" in found[name].undefined


@pytest.mark.slow
def test_probes_are_tested_on_images_that_they_were_not_fitted_to():
    """The held-out images have the opposite labels here, so what fits is always wrong."""

    def labels(x):
        return (x[:, 0] > 0).astype(np.int32)

    data = seen(labels, lambda x: 1 - labels(x))
    for name in ("knn", "linear_probe"):
        found = measures.compute(name, data, Task("label", ("a", "b")), 0)
        assert found.value < 0.4 and found.interval[0] < found.value < found.interval[1]


def test_numbers_have_the_evidence_and_a_probe_whatever_their_unit():
    task = Task("weight", ())
    found = [
        {name: measures.compute(name, data, task, 0) for name in measures.NAMES}
        for data in (
            seen(lambda x: x[:, 0] + 0.1 * x[:, 1] ** 2, lambda x: x[:, 0]),
            seen(lambda x: 1000 * (x[:, 0] + 0.1 * x[:, 1] ** 2) + 5e4, lambda x: x[:, 0]),
        )
    ]
    assert found[0]["linear_probe"].value > 0.9
    assert found[0]["logme"].value == pytest.approx(found[1]["logme"].value, rel=1e-3)
    assert found[0]["h_score"].value is None


def test_an_infinite_score_is_said_to_be_undefined():
    y = np.array([0, 1, 2] * 10)
    data = measures.Seen(np.eye(3)[y], y, np.eye(3)[y], y, None, "none")
    value = measures.compute("logme", data, Task("label", ("a", "b", "c")), 0)
    assert value.value is None and "infinite" in value.undefined

"""What is done with a trained run: evaluate, predict, export to timm."""

import json

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tl_jax
from experiments.torch_peer import import_timm
from tl_jax.data.views import Views, views
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.export import export_timm
from tl_jax.evaluation.predict import predict
from tl_jax.run import data
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run


@pytest.fixture
def run(tiny_config, tmp_path):
    fit(tiny_config, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_measured_as_its_report_says(run):
    report = json.loads((run / "report.json").read_text())
    for split in ("val", "test"):
        found = evaluate(run, split=split, batch_size=3)
        expected = report["metrics"][split]
        assert found["count"] == expected["count"]
        assert found["accuracy"] == expected["accuracy"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert evaluate(run)["split"] == "test"


def test_other_classes_are_refused(run, photos):
    (photos / "test" / "grüne").rename(photos / "test" / "blue")
    (photos / "train" / "grüne").rename(photos / "train" / "blue")
    with pytest.raises(ValueError, match="blue"):
        evaluate(run, split="test")


def test_how_a_run_s_own_data_are_read_says_nothing_of_others(run, photos, tmp_path, monkeypatch):
    file = run / "config.json"
    config = json.loads(file.read_text())
    config["data"] |= {"on_corrupt": "skip", "data_dir": str(tmp_path / "own")}
    file.write_text(json.dumps(config))
    seen = []

    def keep(config, split):
        seen.append((config.data.data_dir, config.data.on_corrupt))
        raise ValueError("that is enough")

    monkeypatch.setattr(data, "open_split", keep)
    for options in (
        {},
        {"source": f"folder:{photos}"},
        {"source": f"folder:{photos}", "on_corrupt": "skip", "data_dir": "there"},
    ):
        with pytest.raises(ValueError, match="that is enough"):
            evaluate(run, **options)
    assert seen == [(str(tmp_path / "own"), "skip"), (None, "raise"), ("there", "skip")]


def test_a_run_predicts_its_classes(run, photos):
    files = sorted((photos / "test").glob("*/*.png"))
    results = predict(run, files, top=2)
    assert len(results) == len(files)
    for classes in results:
        assert {name for name, _ in classes} == {"red ones", "grüne"}
        assert sum(p for _, p in classes) == pytest.approx(1, abs=1e-5)
    hits = [classes[0][0] == file.parent.name for file, classes in zip(files, results, strict=True)]
    assert np.mean(hits) == evaluate(run, split="test")["accuracy"]


def test_several_views_are_averaged_for_a_split_and_for_single_images(run, photos):
    ten = Views(crops=5, flip=True, scales=(1.5,))
    files = sorted((photos / "test").glob("*/*.png"))
    trained = load_run(run)
    size, transform = trained.info.preprocess.size, trained.info.preprocess
    inputs = tl_jax.preprocess(files, ten.transform(transform))
    many = views(inputs, size, crops=5, flip=True, scales=(1.5,))
    each = [jax.nn.softmax(trained.model.apply(trained.variables, view)) for view in many]
    mean = np.mean(each, axis=0)
    names = trained.info.class_names
    for row, classes in zip(mean, predict(run, files, top=2, views=ten), strict=True):
        assert [p for _, p in classes] == pytest.approx(sorted(row, reverse=True), rel=1e-4)
    labels = [names.index(file.parent.name) for file in files]
    loss = -np.log(mean[np.arange(len(files)), labels]).mean()
    found = evaluate(run, split="test", views=ten)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["loss"] != pytest.approx(evaluate(run, split="test")["loss"], rel=1e-3)


def test_what_is_neither_run_nor_network_is_named(tmp_path):
    image = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match="did you mean 'resnet18"):
        predict("resnet81", [image])
    with pytest.raises(ValueError, match="holds no run"):
        predict(tmp_path, [image])
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_run(tmp_path)


def test_an_exported_run_is_timms_network(run, photos, tmp_path):
    """timm's ResNet of the same size loads the file strictly and gives the same logits."""
    file = tmp_path / "out" / "defects.safetensors"
    line = export_timm(run, file)
    assert "timm.create_model('resnet18', num_classes=2" in line
    timm = import_timm()
    block = timm.models.resnet.BasicBlock
    network = timm.models.resnet.ResNet(block, (1, 1), channels=(8, 16), num_classes=2).eval()
    network.layer3 = network.layer4 = torch.nn.Identity()  # timm's forward always has four
    network.load_state_dict(load_file(file), strict=True)
    trained = load_run(run)
    images = tl_jax.preprocess(sorted((photos / "val").glob("*/*.png")), trained.info.preprocess)
    with torch.no_grad():
        theirs = network(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)).numpy()
    ours = trained.model.apply(trained.variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not list(file.parent.glob("*.part"))


def test_export_refuses_what_timm_cannot_hold(run, tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        export_timm(run, tmp_path / "weights.pth")

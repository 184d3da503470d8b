"""A trained run is evaluated, predicts, and is exported to timm."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tl_jax
from experiments.torch_peer import import_timm
from tests.support.runs import FinishedRun, change
from tl_jax.data.views import Views, views
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.export import export_timm
from tl_jax.evaluation.predict import Predictor, predict
from tl_jax.run.folder import load_run, write_run

pytestmark = pytest.mark.slow
prediction = importlib.import_module("tl_jax.evaluation.predict")
batches = importlib.import_module("tl_jax.evaluation.prediction_batches")


@pytest.fixture
def run(finished_run):
    return finished_run.workdir


@pytest.fixture(scope="module")
def files(shared_photos):
    return sorted((shared_photos / "test").glob("*/*.png"))


# ---- evaluate


def test_a_run_is_evaluated_as_its_report_says(finished_run: FinishedRun):
    for split, name in (("val", "val"), (None, "test")):  # The default is the test split.
        metrics = evaluate(finished_run.workdir, split=split, batch_size=3)
        expected = finished_run.report["metrics"][name]
        assert metrics["count"] == expected["count"]
        assert metrics["accuracy"] == expected["accuracy"]
        assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert metrics["split"] == name
        assert metrics["step"] == 3 * finished_run.report["best_epoch"]


def test_reading_options_of_the_run_do_not_apply_to_other_data(finished_run, photos, tmp_path):
    """The run's options here would be wrong for other data."""
    own = load_run(finished_run.workdir)
    config = change(own.config, "data", shots=3, carve=0.5, on_corrupt="skip")
    write_run(tmp_path / "run", config, own.info, own.variables)
    assert evaluate(tmp_path / "run", split="train")["count"] == 6
    other = f"folder:{photos}"
    assert evaluate(tmp_path / "run", source=other, split="train")["count"] == 26
    (photos / "train" / "grüne" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"2\.png"):
        evaluate(tmp_path / "run", source=other, split="train")
    metrics = evaluate(tmp_path / "run", source=other, split="train", on_corrupt="skip")
    assert metrics["count"] == 25


def test_splits_that_an_earlier_version_held_out_otherwise_are_refused(finished_run, tmp_path):
    own = load_run(finished_run.workdir)
    config = change(own.config, "data", carve=0.5)
    info = dataclasses.replace(own.info, digests={})
    write_run(tmp_path / "run", config, info, own.variables)
    with pytest.raises(ValueError, match="held out other images .* as 'validation'"):
        evaluate(tmp_path / "run", split="validation")
    assert evaluate(tmp_path / "run", split="test")["count"] == 14


def test_other_classes_are_refused(run, photos):
    for split in ("train", "val", "test"):
        (photos / split / "grüne").rename(photos / split / "blue")
    with pytest.raises(ValueError, match="blue"):
        evaluate(run, source=f"folder:{photos}", split="test")


def test_a_set_without_splits_is_evaluated_whole_and_classes_are_matched_by_name(run, photos):
    expected = evaluate(run, split="test")
    names = ["red ones", "grüne"]  # The run's classes, in another order.
    files = sorted((photos / "test").glob("*/*.png"))
    images = [np.asarray(Image.open(file).resize((36, 36))) for file in files]
    labels = [names.index(file.parent.name) for file in files]
    np.savez(photos / "a.npz", images=images, labels=labels, class_names=names)
    assert evaluate(run, source=f"npz:{photos}/a.npz")["accuracy"] == expected["accuracy"]
    whole = evaluate(run, source=f"folder:{photos}/test")  # Without split folders.
    assert (whole["split"], whole["count"], whole["accuracy"]) == ("all", 14, expected["accuracy"])
    assert whole["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert expected["absent_classes"] == whole["absent_classes"] == whole["notes"] == []


def test_images_that_were_trained_on_are_counted_in_other_data(run, photos):
    moved = photos.with_name("moved")
    photos.rename(moved)
    for source, split, count in (("", "train", 26), ("/train", "all", 26), ("", "test", 0)):
        notes = evaluate(run, source=f"folder:{moved}{source}", split=split)["notes"]
        said = [note for note in notes if "that the run was trained on" in note]
        assert [note.partition(" ")[0] for note in said] == [str(count)] * bool(count)


def test_classes_that_other_data_lack_or_add_are_named(run, photos):
    (photos / "test" / "grüne").rename(photos / "test" / "yak")
    other = f"folder:{photos}/test"
    with pytest.raises(ValueError, match=r"not trained on: 'yak' \(7\).*--unknown-classes skip"):
        evaluate(run, source=other)
    metrics = evaluate(run, source=other, unknown_classes="skip")
    assert (metrics["count"], metrics["absent_classes"]) == (7, ["grüne"])
    assert metrics["balanced_accuracy"] == metrics["accuracy"]
    left_out, absent = metrics["notes"]
    assert left_out == "left out 7 images of other classes: 'yak' (7)"
    assert absent.startswith("no image of 'grüne': balanced accuracy and macro F1 are means over")


def test_the_columns_of_other_data_are_named(run, photos):
    rows = [f"{path},{path.parent.name}" for path in sorted(photos.glob("test/*/*.png"))]
    (photos / "t.csv").write_text("\n".join(["photo,kind", *rows]) + "\n")
    columns = {"labels": ["kind"], "image_column": "photo"}
    metrics = evaluate(run, source=f"manifest:{photos}/t.csv", **columns)
    assert (metrics["count"], metrics["split"]) == (14, "all")


def test_the_range_of_values_of_a_run_is_used_for_other_data_and_for_prediction(
    finished_run, photos, tmp_path
):
    own = load_run(finished_run.workdir)
    transform = dataclasses.replace(own.info.preprocess, value_range=(0, 4095))
    info = dataclasses.replace(own.info, preprocess=transform)
    write_run(tmp_path / "run", own.config, info, own.variables)
    for path in photos.glob("test/*/*.png"):
        gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray((gray * (4095 / 255)).round().astype(np.uint16)).save(path)
        Image.fromarray(gray.astype(np.uint8)).save(path.with_suffix(".bmp"))
    pairs = [(path, path.with_suffix(".bmp")) for path in sorted(photos.glob("test/*/*.png"))]
    twelve_bits, eight_bits = (predict(tmp_path / "run", each) for each in zip(*pairs, strict=True))
    for one, other in zip(twelve_bits, eight_bits, strict=True):
        assert dict(one) == pytest.approx(dict(other), abs=0.02)
    for _, path in pairs:
        path.unlink()
    metrics = evaluate(tmp_path / "run", source=f"folder:{photos}/test")
    assert not [note for note in metrics["notes"] if "largest value" in note]


# ---- predict


def test_a_run_predicts_its_classes(finished_run, files):
    results = predict(finished_run.workdir, files, top=2)
    assert len(results) == len(files)
    for classes in results:
        assert {name for name, _ in classes} == {"red ones", "grüne"}
        assert sum(p for _, p in classes) == pytest.approx(1, abs=1e-5)
        assert classes[0][1] >= classes[1][1]
    hits = [classes[0][0] == file.parent.name for file, classes in zip(files, results, strict=True)]
    assert np.mean(hits) == finished_run.report["metrics"]["test"]["accuracy"]
    assert [len(classes) for classes in predict(finished_run.workdir, files[:2], top=1)] == [1, 1]


def test_a_predictor_reads_its_run_once_and_compiles_once_for_a_batch_size(
    finished_run, files, monkeypatch
):
    expected = predict(finished_run.workdir, files, top=2)
    predictor = Predictor(finished_run.workdir)
    assert predictor.class_names == ("grüne", "red ones")
    monkeypatch.setattr(prediction, "load", None)
    compiled = batches._probabilities._cache_size()
    assert predictor(files, top=2) == expected
    assert batches._probabilities._cache_size() == compiled
    # Four batches of 4, of which the last one is filled up.
    monkeypatch.setattr(batches, "_BATCH_SIZE", 4)
    in_batches = predictor(files, top=2)
    assert batches._probabilities._cache_size() == compiled + 1
    assert len(in_batches) == len(files) == 14
    for one, other in zip(in_batches, expected, strict=True):
        assert dict(one) == pytest.approx(dict(other), rel=1e-4)
    assert predictor(files[:3], top=2) == in_batches[:3]
    assert batches._probabilities._cache_size() == compiled + 1


def test_several_views_are_averaged_for_a_split_and_for_single_images(finished_run, files):
    ten = Views(crops=5, flip=True, scales=(1.5,))
    trained = load_run(finished_run.workdir)
    size, transform = trained.info.preprocess.size, trained.info.preprocess
    inputs = tl_jax.preprocess(files, ten.transform(transform))
    many = views(inputs, size, crops=5, flip=True, scales=(1.5,))
    apply = jax.jit(trained.model.apply)
    mean = np.mean([jax.nn.softmax(apply(trained.variables, view)) for view in many], axis=0)
    names = trained.info.class_names
    predictions = predict(finished_run.workdir, files, top=2, views=ten)
    for row, classes in zip(mean, predictions, strict=True):
        assert [p for _, p in classes] == pytest.approx(sorted(row, reverse=True), rel=1e-4)
    labels = [names.index(file.parent.name) for file in files]
    loss = -np.log(mean[np.arange(len(files)), labels]).mean()
    metrics = evaluate(finished_run.workdir, split="test", views=ten)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    expected = finished_run.report["metrics"]["test"]["loss"]
    assert metrics["loss"] != pytest.approx(expected, rel=1e-3)


def test_arguments_that_are_neither_run_nor_network_are_refused(run, tmp_path):
    image = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match="did you mean 'resnet18"):
        predict("resnet81", [image])
    with pytest.raises(
        ValueError, match="holds no run, and no weights with timm's config.json; pass"
    ):
        predict(tmp_path, [image])
    with pytest.raises(ValueError, match="is a run, which has its own weights"):
        predict(run, [image], weights="hub")


# ---- export


def test_an_exported_run_is_timms_network(run, files, tmp_path):
    """timm's ResNet of the same size loads the file strictly and gives the same logits."""
    file = tmp_path / "out" / "defects.safetensors"
    line = export_timm(run, file)
    assert "timm.create_model('resnet18', num_classes=2" in line and str(file) in line
    timm = import_timm()
    block = timm.models.resnet.BasicBlock
    network = timm.models.resnet.ResNet(block, (1, 1), channels=(8, 16), num_classes=2).eval()
    network.layer3 = network.layer4 = torch.nn.Identity()  # timm's forward always has four
    network.load_state_dict(load_file(file), strict=True)
    trained = load_run(run)
    images = tl_jax.preprocess(files, trained.info.preprocess)
    with torch.no_grad():
        theirs = network(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(trained.model.apply)(trained.variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [path.name for path in file.parent.iterdir()] == ["defects.safetensors"]


def test_an_exported_folder_comes_back_and_is_timms_repository(run, files, tmp_path):
    folder = tmp_path / "pets"
    line = export_timm(run, folder)
    assert line == f"timm.create_model('local-dir:{folder}', pretrained=True)"
    trained = load_run(run)
    timm = import_timm()
    cfg, name, arguments = timm.models._hub.load_model_config_from_path(folder)
    assert (name, arguments["num_classes"]) == ("resnet18", 2)
    assert tuple(cfg["label_names"]) == trained.info.class_names
    data = timm.data.resolve_data_config(pretrained_cfg=cfg)
    how = trained.info.preprocess
    assert tuple(data["input_size"]) == (3, *how.size)
    assert (tuple(data["mean"]), tuple(data["std"])) == (how.mean, how.std)
    assert (data["crop_pct"], data["crop_mode"]) == (how.crop_pct, how.crop_mode)
    expected = predict(run, files, top=2)
    export_timm(run, tmp_path / "pets.safetensors")
    assert predict(folder, files, top=2) == expected
    # The file alone holds the same.
    file = tmp_path / "pets.safetensors"
    assert predict("resnet18", files, weights=file, top=2) == expected
    with pytest.raises(ValueError, match="is not an empty folder"):
        export_timm(run, folder)


def test_a_single_image_in_any_form_is_one_image(run, files):
    [expected] = predict(run, [files[0]], top=2)
    pixels = np.asarray(Image.open(files[0]))
    for image in (str(files[0]), pixels, pixels[None]):
        assert predict(run, image, top=2) == [expected]
    halves = predict(run, pixels / 255, top=2, value_range=(0, 1))
    assert halves[0][0][1] == pytest.approx(expected[0][1], abs=1e-3)


def test_paths_that_are_no_images_are_named_all_at_once(run, files, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)2 of 3 paths .*there is no file a\.png.*folder"
    ):
        predict(run, [files[0], "a.png", tmp_path])
    bad = [tmp_path / "b.png", tmp_path / "c.jpg"]
    for path in bad:
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"(?s)2 of 3 images cannot be read.*b\.png.*c\.jpg"):
        predict(run, [bad[0], files[0], bad[1]])
    with pytest.raises(ValueError, match="top is 0"):
        predict(run, files, top=0)


def test_export_refuses_other_files(run, tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        export_timm(run, tmp_path / "weights.pth")

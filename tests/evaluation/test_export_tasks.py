"""Exports of runs of any tasks: timm loads the backbone, torch computes the heads from files."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tl_jax
from experiments.torch_peer import import_timm
from tests.support import objects
from tests.support.runs import change
from tl_jax.cli import main
from tl_jax.evaluation.export import export_timm
from tl_jax.models.pretrained import load_pretrained
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import load_run, write_run

pytestmark = pytest.mark.slow


def timms_network(weights, num_classes):
    """Returns timm's ResNet of the tiny one's size, with weights that fit it strictly."""
    timm = import_timm()
    block = timm.models.resnet.BasicBlock
    network = timm.models.resnet.ResNet(
        block, (1, 1), channels=(8, 16), num_classes=num_classes
    ).eval()
    network.layer3 = network.layer4 = torch.nn.Identity()  # timm's forward always has four.
    network.load_state_dict(load_file(weights), strict=True)
    return network


@pytest.fixture
def images(object_table):
    return sorted(object_table.parent.glob("validation*front.png"))


def outputs_of(run, files):
    """Returns the prepared images and the outputs of a run's network for them."""
    prepared = tl_jax.preprocess(files, run.info.preprocess)
    outputs = jax.jit(run.model.apply)(run.variables, prepared)
    return torch.tensor(np.asarray(prepared)).permute(0, 3, 1, 2), outputs


def test_the_backbone_is_timms_and_the_heads_are_beside_it(task_run, images, tmp_path):
    folder = tmp_path / "out"
    line = export_timm(task_run.workdir, folder)
    assert line == f"timm.create_model('local-dir:{folder}', pretrained=True)"
    names = {"config.json", "model.safetensors", "heads.safetensors", "tasks.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "config.json").read_text())["num_classes"] == 0
    said = json.loads((folder / "tasks.json").read_text())
    assert said["absent_in_backbone"] == []
    assert said["network"]["output_of_backbone"] == "features"
    run = load_run(task_run.workdir)
    pixels, expected = outputs_of(run, images)
    with torch.no_grad():
        features = timms_network(folder / "model.safetensors", 0)(pixels)
    heads = load_file(folder / said["heads_file"])
    for task in said["tasks"]:
        name = task["head"]["parameters"]
        found = features @ heads[f"{name}.fc.weight"].T + heads[f"{name}.fc.bias"]
        assert found.shape[1] == task["outputs"]
        np.testing.assert_allclose(found, expected[task["name"]], rtol=1e-4, atol=1e-4)
    of_task = {task["name"]: task for task in said["tasks"]}
    assert of_task["tags"]["thresholds"] == run.calibration["tags"]["thresholds"]
    assert of_task["kind"]["temperature"] == run.calibration["kind"]["temperature"]
    assert of_task["weight"]["mean"] == run.info.label_statistics[3].mean
    assert of_task["grade"]["class_names"] == ["low", "middle", "high"]
    assert of_task["grade"]["prediction"].startswith("cummin(sigmoid(outputs))")


def test_a_multi_label_run_with_a_linear_head_is_whole(
    make_task_run, images, tmp_path, capsys, tiny_networks
):
    workdir, file = make_task_run("multi_label"), tmp_path / "tags.safetensors"
    assert main(["export", str(workdir), "--to", "timm", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"timm.create_model('resnet18', num_classes=2, checkpoint_path='{file}')" in out
    assert f"{tmp_path / 'tags.tasks.json'} says what goes in" in out and "heads" not in out
    pixels, expected = outputs_of(load_run(workdir), images)
    with torch.no_grad():
        found = timms_network(file, 2)(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    said = json.loads((tmp_path / "tags.tasks.json").read_text())
    assert said["heads_file"] is None and said["tasks"][0]["class_names"] == ["bright", "red"]
    _, _ = load_pretrained("resnet18", weights=file)


def test_views_columns_and_stages_are_described(make_task_run, tmp_path, tiny_networks):
    kinds, file = ("regression", "ordinal"), tmp_path / "all.safetensors"
    workdir = make_task_run(*kinds, inputs="all", weighting="learned")
    line = export_timm(workdir, file)
    assert line.startswith("timm.create_model('resnet18', num_classes=0")
    said = json.loads((tmp_path / "all.tasks.json").read_text())
    assert said["network"]["output_of_backbone"] == ["layer1", "layer2"]
    assert said["inputs"]["views"] == 2
    assert said["inputs"]["vocabulary"] == ["a", "thing", "high", "middle", "low"]
    assert len(said["inputs"]["numeric_mean"]) == 1
    assert said["tasks"][0]["prediction"] == "outputs * std + mean"
    heads = load_file(tmp_path / "all.heads.safetensors")
    assert {name.split(".")[0] for name in heads} == {"neck", "heads"}
    timms_network(file, 0)  # Loads strictly.
    model, _ = load_pretrained("resnet18", weights=file, num_classes=0)
    assert model.num_classes == 0


def test_a_second_export_leaves_nothing_of_the_first(task_run, make_task_run, tmp_path):
    file = tmp_path / "out.safetensors"
    export_timm(task_run.workdir, file)
    assert (tmp_path / "out.heads.safetensors").exists()
    export_timm(make_task_run("multi_class"), file)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_layers_that_the_run_has_not_are_named(object_table, tmp_path, tiny_networks):
    config = objects.make_config(object_table, tmp_path, ("multi_label",))
    config = change(config, "model", name="vgg16", weights="random", head="mlp", hidden=(8,))
    experiment = Experiment.from_config(change(config, "transfer", batch_norm="auto"))
    write_run(tmp_path / "run", experiment.config, experiment.info, experiment.initial.variables)
    line = export_timm(tmp_path / "run", tmp_path / "out")
    assert f"load_file('{tmp_path}/out/model.safetensors'), strict=False)" in line
    said = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert "pre_logits.fc1.weight" in said["absent_in_backbone"]
    assert said["network"] == {
        "output_of_backbone": "map",
        "pooling": {"name": "average", "heads": 4, "width": 0},
    }
    assert said["tasks"][0]["head"] == {"parameters": "head", "kind": "mlp", "hidden": [8]}
    heads = load_file(tmp_path / "out" / "heads.safetensors")
    assert heads["head.fc.weight"].shape == (2, 8)

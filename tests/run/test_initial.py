"""What training starts from: seeds, pretrained weights, carried classifiers, class means."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.support.pairs import torchvision_file
from tests.support.runs import change
from tl_jax import trees
from tl_jax.config import Config, ModelConfig, TransferConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.run.experiment import Experiment
from tl_jax.run.initial import (
    class_mapping,
    initial_variables,
    read_weights,
    with_architecture,
)
from tl_jax.run.model import build_model


def initial_of(config):
    return Experiment.from_config(config).initial


def params_of(config):
    return initial_of(config).variables["params"]


class Drawn:
    """A network with one parameter, which is drawn in the shape of the image."""

    classifier = "fc"

    def init(self, key, image):
        return {"params": {"fc": {"kernel": jax.random.normal(key, image.shape)}}}


# ---- the seed


def test_the_seed_decides_what_is_drawn_without_weights():
    config = Config(model=ModelConfig("resnet18", weights="random"))
    preprocess = Preprocess(size=(8, 12))
    one, other = (
        initial_variables(
            change(config, "train", seed=seed), Drawn(), None, preprocess, None, weights=None
        )
        for seed in (0, 1)
    )
    assert one.weights is None
    kernels = [each.variables["params"]["fc"]["kernel"] for each in (one, other)]
    assert kernels[0].shape == (1, 8, 12, 3)
    assert not np.array_equal(*kernels)


def test_the_seed_decides_how_the_head_starts(tiny_config):
    config = change(tiny_config, "transfer", head_init="small")
    one, other = (params_of(change(config, "train", seed=seed)) for seed in (0, 1))
    assert np.array_equal(one["conv1"]["kernel"], other["conv1"]["kernel"])
    assert not np.array_equal(one["fc"]["kernel"], other["fc"]["kernel"])


def test_the_seed_decides_the_added_modules(tiny_config):
    config = change(tiny_config, "transfer", adaptation="lora", lora_rank=2)
    one, other = (trees.flatten(params_of(change(config, "train", seed=s))) for s in (0, 1))
    added = [path for path in one if path[-1] == "lora_a"]
    assert added
    assert not any(np.array_equal(one[path], other[path]) for path in added)
    assert one.keys() == other.keys()


# ---- the head


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("init", ["zero", "small"])
def test_a_new_head_starts_as_configured(tiny_config, head, init):
    params = params_of(change(change(tiny_config, "model", head=head), "transfer", head_init=init))
    layer = params["fc"] if head == "linear" else params["head"]["fc"]
    deviation = 0.0 if init == "zero" else 0.01
    assert np.std(layer["kernel"]) == pytest.approx(deviation, rel=0.4)


def test_an_mlp_head_replaces_the_top_of_the_backbone(tiny_config):
    params = params_of(change(tiny_config, "model", head="mlp", hidden=(8,)))
    assert params.keys() == {"backbone", "head"}
    assert params["head"]["fc1"]["kernel"].shape == (16, 8)
    weights = load_file(tiny_config.model.weights)
    kernel = np.transpose(weights["conv1.weight"], (2, 3, 1, 0))
    np.testing.assert_array_equal(params["backbone"]["conv1"]["kernel"], kernel)


def test_as_many_classes_as_the_weights_have_start_fresh_too(tiny_config):
    # The weights of the fixture have 1000 classes, and so has the network here.
    experiment = Experiment.from_config(tiny_config)
    model = build_model(tiny_config, 1000)
    params = initial_variables(
        tiny_config,
        model,
        experiment.train,
        experiment.preprocess,
        experiment.mesh,
        weights=read_weights(tiny_config),
    ).variables["params"]
    assert not np.any(params["fc"]["kernel"])
    assert np.any(params["conv1"]["kernel"])


@pytest.mark.parametrize("head", ["linear", pytest.param("cosine", marks=pytest.mark.full)])
def test_a_head_that_starts_from_class_means_is_right_before_training(tiny_config, head):
    config = change(change(tiny_config, "model", head=head), "transfer", head_init="class_means")
    experiment = Experiment.from_config(config)
    metrics, _ = experiment.evaluator(experiment.initial.variables, experiment.train)
    assert metrics["accuracy"] > 0.9


def test_a_classifier_that_is_a_convolution_cannot_start_from_means():
    config = Config(
        model=ModelConfig("torchvision/squeezenet1_1", weights="random"),
        transfer=TransferConfig(head_init="class_means"),
    )
    with pytest.raises(ValueError, match="classifier fc of torchvision/squeezenet1_1 is a conv"):
        initial_variables(config, Drawn(), None, Preprocess(size=(8, 8)), None, weights=None)


# ---- the pretrained classifier


def test_rows_of_the_pretrained_classifier_are_carried_over(tiny_config):
    config = change(tiny_config, "transfer", classifier="load", class_mapping=("grüne=7",))
    experiment = Experiment.from_config(config)
    assert "1 start fresh: red ones" in experiment.description
    kernel = experiment.initial.variables["params"]["fc"]["kernel"]
    rows = load_file(config.model.weights)["fc.weight"]
    green, red = (experiment.train.class_names.index(name) for name in ("grüne", "red ones"))
    np.testing.assert_array_equal(kernel[:, green], rows[7])
    assert not np.any(kernel[:, red])


@pytest.mark.parametrize(
    ("mapping", "examples"), [(("grüne=7",), 5), (("grüne=7", "red ones=tabby|3"), 10)]
)
def test_the_carried_classifier_is_evaluated_before_training(tiny_config, mapping, examples):
    config = change(tiny_config, "transfer", classifier="load", class_mapping=mapping)
    zero_shot = Experiment.from_config(config).zero_shot()
    assert (zero_shot.examples, zero_shot.of_matched_classes) == (10, examples)


def test_without_a_carried_classifier_nothing_is_evaluated_before_training(tiny_config):
    assert Experiment.from_config(tiny_config).zero_shot() is None
    fused = change(tiny_config, "transfer", classifier="fuse", class_mapping=("grüne=7",))
    assert Experiment.from_config(fused).zero_shot() is None


def test_a_fused_head_starts_from_the_mapping(tiny_config):
    mapping = ("grüne=7", "red ones=3|5")
    config = change(tiny_config, "transfer", classifier="fuse", class_mapping=mapping)
    experiment = Experiment.from_config(config)
    variables = experiment.initial.variables
    mapped = np.argwhere(np.asarray(variables["params"]["head"]["mix"]["kernel"])).tolist()
    green, red = (experiment.train.class_names.index(name) for name in ("grüne", "red ones"))
    assert sorted(mapped) == sorted([[7, green], [3, red], [5, red]])
    # The pretrained classifier is kept, and the statistics.
    assert np.any(variables["params"]["backbone"]["fc"]["kernel"])
    np.testing.assert_array_equal(variables["batch_stats"]["backbone"]["bn1"]["var"], 1)


def write_checkpoint(tiny_config, folder, names, **fields):
    """Writes the tiny ResNet-18 with one class for each name, as a repository of timm's."""
    arrays = load_file(tiny_config.model.weights)
    arrays |= {name: arrays[name][: len(names)] for name in ("fc.weight", "fc.bias")}
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    config = {"architecture": "resnet18", "label_names": names, "num_classes": len(names)}
    config["pretrained_cfg"] = {"input_size": [3, 24, 24], "mean": [0.5, 0.4, 0.3]} | fields
    (folder / "config.json").write_text(json.dumps(config))
    return change(tiny_config, "model", weights=str(folder)), arrays


def test_a_checkpoint_of_ones_own_states_classes_and_preprocessing(tiny_config, tmp_path):
    names = ["a dog", "grüne", "red one"]
    config, arrays = write_checkpoint(tiny_config, tmp_path / "own", names)
    config = change(config, "data", image_size=None)
    experiment = Experiment.from_config(change(config, "transfer", classifier="load"))
    kernel = experiment.initial.variables["params"]["fc"]["kernel"]
    for name, row in (("grüne", 1), ("red ones", 2)):
        column = kernel[:, experiment.train.class_names.index(name)]
        np.testing.assert_array_equal(column, arrays["fc.weight"][row])
    assert experiment.preprocess.size == (24, 24)
    assert experiment.preprocess.mean == (0.5, 0.4, 0.3)
    assert experiment.initial.weights.num_classes == 3


def test_a_fused_head_keeps_the_classifier_of_a_checkpoint_of_ones_own(tiny_config, tmp_path):
    config, arrays = write_checkpoint(tiny_config, tmp_path / "own", ["grüne", "x", "y"])
    experiment = Experiment.from_config(change(config, "transfer", classifier="fuse"))
    params = experiment.initial.variables["params"]
    np.testing.assert_array_equal(params["backbone"]["fc"]["kernel"], arrays["fc.weight"].T)
    green = experiment.train.class_names.index("grüne")
    mix = np.asarray(params["head"]["mix"]["kernel"])
    assert (mix.shape, np.argwhere(mix).tolist()) == ((3, 2), [[0, green]])


def test_classes_that_a_file_does_not_name_are_mapped_by_index(tiny_config, tmp_path):
    _, arrays = write_checkpoint(tiny_config, tmp_path / "own", ["a", "b", "c"])
    (tmp_path / "own" / "config.json").unlink()
    file = str(tmp_path / "own" / "model.safetensors")
    config = change(change(tiny_config, "model", weights=file), "transfer", classifier="load")
    with pytest.raises(ValueError, match="names of the 3 classes of resnet18 are not known"):
        initial_of(config)
    config = change(config, "transfer", class_mapping=("grüne=2",))
    kernel = params_of(config)["fc"]["kernel"]
    assert any(np.array_equal(kernel[:, i], arrays["fc.weight"][2]) for i in range(2))


def test_a_name_that_is_a_checkpoint_states_its_architecture(tiny_config, tmp_path):
    write_checkpoint(tiny_config, tmp_path / "own", ["a"])
    folder = str(tmp_path / "own")
    experiment = Experiment.from_config(change(tiny_config, "model", name=folder, weights="auto"))
    assert (experiment.config.model.name, experiment.config.model.weights) == ("resnet18", folder)
    assert experiment.initial.weights.name == "resnet18"
    with pytest.raises(ValueError, match="names weights, and weights='random' others"):
        with_architecture(change(tiny_config, "model", name=folder, weights="random"))


def test_a_network_is_that_of_its_publisher(tiny_config, tmp_path):
    name = "mobilenetv3_small_100"
    network = torchvision_file("mobilenetv3").mobilenet_v3_small(num_classes=2)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    config = change(tiny_config, "model", name=name, weights=str(tmp_path / "theirs.pth"))
    experiment = Experiment.from_config(config)
    record = experiment.initial.weights
    assert (experiment.model.epsilon, record.network_fields) == (1e-3, {"epsilon": 1e-3})
    assert "network with epsilon=0.001" in record.details
    # What a run records makes the same network again, with any head.
    info = type(experiment.info).from_json(experiment.info.to_json())
    fields = info.weights.network_fields
    assert build_model(config, 2, network_fields=fields) == experiment.model
    cosine = change(config, "model", head="cosine")
    assert build_model(cosine, 2, network_fields=fields).backbone.epsilon == 1e-3


def test_random_weights_are_read_from_no_file(tiny_config):
    config = change(tiny_config, "model", weights="random", prefix="model.")
    with pytest.raises(ValueError, match="model.weights is 'random', and .*prefix"):
        read_weights(config)


def test_what_is_taken_from_a_file_is_configured(tiny_config, tmp_path):
    arrays = {f"net2.{key}": value for key, value in load_file(tiny_config.model.weights).items()}
    save_file({**arrays, "other": arrays["net2.fc.bias"]}, tmp_path / "a.safetensors")
    config = change(tiny_config, "model", weights=str(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match=r"--model.prefix net2\. \(train\)"):
        initial_of(config)
    for fields in ({"prefix": "net2."}, {"prefix": "net2", "ignore": ("fc.*",)}):
        initial = initial_of(change(config, "model", **fields))
        kernel = np.transpose(arrays["net2.conv1.weight"], (2, 3, 1, 0))
        np.testing.assert_array_equal(initial.variables["params"]["conv1"]["kernel"], kernel)


def test_weights_for_other_channels_are_refused(tiny_config, tmp_path):
    fields = {"input_size": [1, 24, 24], "mean": [0.5], "std": [0.5]}
    config, arrays = write_checkpoint(tiny_config, tmp_path / "own", ["a"], **fields)
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :1].copy()
    save_file(arrays, tmp_path / "own" / "model.safetensors")
    with pytest.raises(ValueError, match="images of 1 channels; training reads images as RGB"):
        initial_of(config)


# ---- the mapping


def config_of(*mapping, name="resnet18"):
    transfer = TransferConfig(classifier="load", class_mapping=mapping)
    return Config(model=ModelConfig(name), transfer=transfer)


def test_without_a_mapping_the_classes_are_compared_by_name():
    mapping = class_mapping(config_of(), ("tabby", "solar cell"))
    assert len(mapping.source_names) == 1000
    assert mapping.sources == ((281,), ())


def test_sources_are_read_as_names_and_indices():
    mapping = class_mapping(config_of("a = tabby | 3", "b=7"), ("a", "b", "c"))
    assert mapping.sources == ((281, 3), (7,), ())


def test_classes_without_known_names_are_mapped_by_index():
    name = "efficientnet_b5.sw_in12k"
    mapping = class_mapping(config_of("a=7", name=name), ("a", "b"))
    assert mapping.sources == ((7,), ())
    assert (len(mapping.source_names), mapping.source_names[7]) == (11821, "class 7")
    with pytest.raises(ValueError, match="11821 classes of .* are not known here; map the new"):
        class_mapping(config_of(name=name), ("a", "b"))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("grune=7", r"'grune', which is not one of the new classes; did you mean 'grüne'\?"),
        ("grüne=tabbby", "'tabbby' .*; did you mean"),
        ("grüne:7", "expected 'new class=source'"),
    ],
)
def test_a_mapping_that_cannot_be_read_is_refused(mapping, message):
    with pytest.raises(ValueError, match=message):
        class_mapping(config_of(mapping), ("grüne", "red ones"))

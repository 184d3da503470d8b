"""Loading pretrained weights: the classifier is kept or replaced as asked, all else is strict."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from experiments.torch_peer import import_timm
from tl_jax import trees
from tl_jax.models.pretrained import load_pretrained, load_weights
from tl_jax.models.registry import create_model
from tl_jax.models.weights_reader import config_of
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.sources import WeightsError
from tl_jax.weights.state_dict import StateDictError, to_state_dict
from tl_jax.weights.tensors import TensorError

NAME = "test_resnet"
HEAD = ("fc.weight", "fc.bias")
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def state_dict() -> Arrays:
    """A network of timm's with a classifier of 7 classes."""
    model = import_timm().create_model(NAME, num_classes=7)
    return {key: value.numpy() for key, value in model.state_dict().items()}


@pytest.fixture
def save(tmp_path) -> Callable[[Arrays], str]:
    def save(state_dict: Arrays) -> str:
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(state_dict, path)
        return str(path)

    return save


def zeros(name: str, **options) -> Arrays:
    """Returns a state dict of timm's shapes."""
    with torch.device("meta"):
        network = import_timm().create_model(name, **options)
    return {k: np.zeros(tuple(v.shape), np.float32) for k, v in network.state_dict().items()}


def assert_same(variables: dict, state_dict: Arrays, *, but: tuple[str, ...] = ()) -> None:
    got = to_state_dict(variables)
    counters = {key for key in state_dict if key.endswith("num_batches_tracked")}
    assert got.keys() == state_dict.keys() - counters - set(but)
    for key, value in got.items():
        np.testing.assert_array_equal(value, state_dict[key], err_msg=key)


@pytest.mark.parametrize("num_classes", [None, 7])
def test_the_classifier_of_the_file_is_kept(save, state_dict, num_classes):
    model, variables = load_pretrained(NAME, weights=save(state_dict), num_classes=num_classes)
    assert model.num_classes == 7
    assert_same(variables, state_dict)


@pytest.mark.parametrize("num_classes", [5, 1000])
def test_another_number_of_classes_starts_a_fresh_classifier(save, state_dict, num_classes):
    model, variables = load_pretrained(NAME, weights=save(state_dict), num_classes=num_classes)
    assert model.num_classes == num_classes
    head = variables["params"].pop("fc")
    features = state_dict["fc.weight"].shape[1]
    assert jax.tree.map(jnp.shape, head) == {
        "kernel": (features, num_classes),
        "bias": (num_classes,),
    }
    assert all(not leaf.any() for leaf in jax.tree.leaves(head))
    assert_same(variables, state_dict, but=HEAD)


def test_no_classes_leave_the_classifier_out(save, state_dict):
    model, variables = load_pretrained(NAME, weights=save(state_dict), num_classes=0)
    assert_same(variables, state_dict, but=HEAD)
    assert model.num_classes == 0


def test_a_file_without_classifier_needs_the_number_of_classes(save, state_dict):
    file = save({key: value for key, value in state_dict.items() if key not in HEAD})
    with pytest.raises(WeightsError, match="holds no classifier; set num_classes"):
        load_pretrained(NAME, weights=file)
    _, variables = load_pretrained(NAME, weights=file, num_classes=3)
    assert variables["params"]["fc"]["bias"].shape == (3,)
    _, variables = load_pretrained(NAME, weights=file, num_classes=0)
    assert "fc" not in variables["params"]


@pytest.mark.parametrize("num_classes", [None, 0, 5, 7])
def test_everything_but_the_classifier_is_strict(save, state_dict, num_classes):
    bad = {key: value for key, value in state_dict.items() if key != "layer1.0.bn1.bias"}
    bad["layer9.weight"] = np.zeros(1)
    bad["layer1.0.conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    with pytest.raises(StateDictError) as caught:
        load_pretrained(NAME, weights=save(bad), num_classes=num_classes)
    for problem in (
        "1 missing: layer1.0.bn1.bias",
        "1 unused: layer9.weight",
        "1 mis-shaped: layer1.0.conv1.weight",
    ):
        assert problem in str(caught.value)


def test_published_weights_must_have_the_published_classifier(monkeypatch, tmp_path, state_dict):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    repository = f"models--{pretrained_config(NAME).hub_id}".replace("/", "--")
    folder, commit = tmp_path / "hub" / repository, "1" * 40
    for part, text in ((Path("refs/main"), commit), (Path("snapshots") / commit / "x", "")):
        (folder / part).parent.mkdir(parents=True)
        (folder / part).write_text(text)
    file = folder / "snapshots" / commit / "model.safetensors"
    safetensors.numpy.save_file(state_dict, file)
    with pytest.raises(StateDictError, match=r"fc\.bias: got \(7,\), expected \(1000,\)"):
        load_pretrained(NAME)
    _, record = load_weights(create_model(NAME, num_classes=3), NAME)
    assert (record.file, record.revision) == (str(file), commit)


def test_what_was_used_is_printed_to_stderr_once(save, state_dict, capsys):
    file = save(state_dict)
    load_pretrained(NAME, weights=file, num_classes=5)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"weights of {NAME} from file: {file} (sha256 ")
    assert err.endswith("; the classifier of 5 classes starts fresh\n")
    for num_classes in (None, 0):
        load_pretrained(NAME, weights=file, num_classes=num_classes)
        assert "fresh" not in capsys.readouterr().err
    load_pretrained(NAME, weights=file, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_variables_are_float32_whatever_the_computation(save, state_dict):
    model, variables = load_pretrained(NAME, weights=save(state_dict), dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("global_pool", ["avg", ""])
def test_weights_load_into_a_backbone(save, state_dict, global_pool):
    model = create_model(NAME, num_classes=0, global_pool=global_pool)
    variables, record = load_weights(model, NAME, save(state_dict))
    assert_same(variables, state_dict, but=HEAD)
    assert (record.name, record.source, len(record.sha256)) == (NAME, "file", 64)


def test_weights_load_into_a_model_with_the_same_or_other_classes(save, state_dict):
    file = save(state_dict)
    variables, _ = load_weights(create_model(NAME, num_classes=7), NAME, file)
    assert_same(variables, state_dict)
    variables, _ = load_weights(create_model(NAME, num_classes=4), NAME, file)
    assert not variables["params"]["fc"]["kernel"].any()


def test_a_fresh_head_can_be_had_for_the_same_number_of_classes_too(save, state_dict):
    model = create_model(NAME, num_classes=7)
    variables, _ = load_weights(model, NAME, save(state_dict), fresh_head=True)
    assert not variables["params"].pop("fc")["kernel"].any()
    assert_same(variables, state_dict, but=HEAD)


def test_a_classifier_that_is_to_be_kept_must_fit(save, state_dict):
    model = create_model(NAME, num_classes=4)
    with pytest.raises(StateDictError, match=r"fc\.bias: got \(7,\), expected \(4,\)"):
        load_weights(model, NAME, save(state_dict), keep_head=True)


def test_a_backbone_may_leave_out_more_of_the_top_than_the_classifier(save):
    """MobileNetV3's top has a convolution of its own behind the pooling."""
    published = zeros("lcnet_035", num_classes=0)
    top = tuple(key for key in published if key.startswith("conv_head."))
    assert top
    model = create_model("lcnet_035", num_classes=0, global_pool="")
    variables, _ = load_weights(model, "lcnet_035", save(published))
    assert_same(variables, published, but=top)


def test_keys_of_other_names_are_renamed():
    _, variables = load_pretrained("tf_efficientnet_lite0", num_classes=0, verbose=False)
    names = trees.names(variables["params"])
    assert "conv_stem.kernel" in names
    assert not any("_blocks" in name for name in names)


def test_weights_given_twice_are_an_error(save):
    file = save({"_bn0.weight": np.zeros(32), "bn1.weight": np.zeros(32)})
    with pytest.raises(WeightsError, match=r"weights\.safetensors holds the same weights under"):
        load_pretrained("tf_efficientnet_lite0", weights=file)


def test_an_unknown_name_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="unknown architecture 'resnet19'; did you mean"):
        load_pretrained("resnet19", weights=tmp_path / "missing.pth")


def test_weights_that_are_known_to_lack_a_norm_get_a_fresh_one(save):
    """The masked autoencoders of ConvNeXt V2 were published without the head's norm."""
    published = {
        key: value
        for key, value in zeros("convnextv2_atto", num_classes=0).items()
        if not key.startswith("head.")
    }
    path = save(published)
    model, variables = load_pretrained("convnextv2_atto.fcmae", weights=path)
    assert model.num_classes == 0
    norm = variables["params"]["head.norm"]
    np.testing.assert_array_equal(norm["scale"], 1)
    np.testing.assert_array_equal(norm["bias"], 0)
    fresh = {"head.norm.weight": norm["scale"], "head.norm.bias": norm["bias"]}
    assert_same(variables, published | fresh)
    with pytest.raises(StateDictError, match=r"2 missing: head\.norm"):
        load_pretrained("convnextv2_atto.fcmae_ft_in1k", weights=path, num_classes=0)


def test_auxiliary_heads_of_a_file_are_left_out_of_a_network_without_them(save):
    published = zeros("inception_v3", aux_logits=True, num_classes=3)
    assert any(key.startswith("AuxLogits.") for key in published)
    path = save(published)
    _, variables = load_pretrained("inception_v3", weights=path)
    assert "AuxLogits" not in str(trees.names(variables["params"]))
    model = create_model("inception_v3", num_classes=3).clone(aux_logits=True)
    variables, _ = load_weights(model, "inception_v3", path)
    assert "AuxLogits" in str(trees.names(variables["params"]))


# ---- someone's own weights


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A network of timm's with three classes, and the folder that timm writes of it."""
    timm = import_timm()
    torch.manual_seed(0)
    network = timm.create_model(NAME, num_classes=3).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folder = tmp_path_factory.mktemp("own") / "pets"
    timm.models._hub.save_for_hf(
        network,
        folder,
        model_config={
            "label_names": ["cat", "dog", "eel"],
            "pretrained_cfg": {"mean": (0.5, 0.4, 0.3), "crop_mode": "squash"},
        },
        safe_serialization="both",
        data_config={"input_size": (3, 96, 80)},
    )
    return network, folder


@pytest.fixture
def hub(own, monkeypatch, tmp_path):
    """The cache of the hub with the folder as the repository me/pets."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    folder, commit = tmp_path / "hub" / "models--me--pets", "1" * 40
    shutil.copytree(own[1], folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        (NAME, "hub:me/pets"),
        ("hf-hub:me/pets", None),
        ("hub:me/pets", "auto"),
        (NAME, "hf-hub:me/pets"),
    ],
)
def test_a_repository_of_ones_own_is_loaded(own, hub, name, weights):
    model, variables = load_pretrained(name, weights=weights, verbose=False)
    assert model.num_classes == 3
    assert_same(variables, {key: value.numpy() for key, value in own[0].state_dict().items()})


def test_a_folder_of_ones_own_states_all_that_timm_reads_from_it(own):
    network, folder = own
    for name, weights in ((NAME, folder), (f"local-dir:{folder}", None), (folder, None)):
        found = config_of(name, weights)
        assert (found.input_size, found.crop_mode) == ((3, 96, 80), "squash")
        assert (found.mean, found.class_names) == ((0.5, 0.4, 0.3), ("cat", "dog", "eel"))
    model, variables = load_pretrained(str(folder), verbose=False)
    images = np.random.default_rng(0).normal(size=(2, 96, 80, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_weights_that_state_another_architecture_are_refused(own, tmp_path, state_dict):
    with pytest.raises(WeightsError, match="states the architecture test_resnet, not resnet18"):
        load_pretrained("resnet18", weights=own[1])
    safetensors.numpy.save_file(state_dict, tmp_path / "b.safetensors", {"arch": "resnet10t_x"})
    load_pretrained(NAME, weights=tmp_path / "b.safetensors", verbose=False)
    safetensors.numpy.save_file(state_dict, tmp_path / "b.safetensors", {"arch": "ResNet34"})
    with pytest.raises(WeightsError, match="load it under the name 'resnet34'"):
        load_pretrained(NAME, weights=tmp_path / "b.safetensors")
    safetensors.numpy.save_file(
        state_dict, tmp_path / "b.safetensors", {"arch": "vit_tiny_r_s16_p8_224"}
    )
    with pytest.raises(WeightsError, match="timm has that network, and it is not here"):
        load_pretrained(NAME, weights=tmp_path / "b.safetensors")
    # The same tensors, but padding and epsilon differ.
    arrays = zeros("efficientnet_b0", num_classes=0)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    for stated in (
        {"arch": "tf_efficientnet_b0"},
        {"args": argparse.Namespace(model="tf_efficientnet_b0_ns")},
    ):
        torch.save({"state_dict": tensors, **stated}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match="load it under the name 'tf_efficientnet_b0'"):
            load_pretrained("efficientnet_b0", weights=tmp_path / "a.pth", num_classes=0)
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", {"arch": "tf_efficientnet_b0"})
    with pytest.raises(WeightsError, match="states the architecture tf_efficientnet_b0, not"):
        load_pretrained("efficientnet_b0", weights=tmp_path / "a.safetensors", num_classes=0)


def test_what_a_folder_lacks_is_said(own, tmp_path, state_dict):
    safetensors.numpy.save_file(state_dict, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="holds no config.json"):
        load_pretrained(NAME, weights=tmp_path)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="2 files of weights: 'a.safetensors', 'b.safetensors'"):
        load_pretrained(NAME, weights=tmp_path)
    shutil.copy(own[1] / "config.json", tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match="has 7 classes, but its config.json states 3"):
        load_pretrained(NAME, weights=tmp_path)


def test_files_of_a_training_script_beside_the_weights_are_passed_over(own, tmp_path):
    shutil.copy(own[1] / "model.safetensors", tmp_path / "model_0.safetensors")
    shutil.copy(own[1] / "config.json", tmp_path)
    for name in ("optimizer.bin", "scheduler.pt", "training_args.bin", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"x")
    assert load_pretrained(tmp_path, verbose=False)[0].num_classes == 3


def test_what_a_folder_does_not_state_is_seen_in_its_tensors(tmp_path, state_dict):
    safetensors.numpy.save_file(state_dict, tmp_path / "model.safetensors")
    fields = {"architecture": "Test_ResNet".lower(), "pretrained_cfg": {"crop_pct": 1}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert load_pretrained(tmp_path, verbose=False)[0].num_classes == 7


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_of_the_images_are_those_of_the_stem(save, tmp_path, state_dict, channels):
    stem = state_dict["conv1.0.weight"]
    arrays = state_dict | {"conv1.0.weight": np.ones((len(stem), channels, *stem.shape[2:]), "f")}
    file = save(arrays)
    model, variables = load_pretrained(NAME, weights=file, verbose=False)
    assert model.in_channels == channels
    assert_same(variables, arrays)
    # A config.json that states others is wrong: height first, for example.
    shutil.copy(file, tmp_path / "model.safetensors")
    (tmp_path / "weights.safetensors").unlink()
    fields = {"architecture": NAME, "num_classes": 7, "pretrained_cfg": {"input_size": [48, 48, 3]}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=rf"of {channels} channels?, but its config.json .* 48"):
        load_pretrained(tmp_path)


# ---- keys


def test_an_unknown_prefix_is_said_and_can_be_given(save, state_dict):
    file = save({f"backbone.{key}": value for key, value in state_dict.items()})
    for num_classes in (None, 0, 5):
        with pytest.raises(WeightsError, match=r"start with 'backbone\.'.*prefix='backbone\.'"):
            load_pretrained(NAME, weights=file, num_classes=num_classes)
    _, variables = load_pretrained(NAME, weights=file, prefix="backbone.", verbose=False)
    assert_same(variables, state_dict)


@pytest.mark.parametrize("head", ["fc.1.weight", "fc.weight", "fc.0.bias"])
def test_a_replaced_head_of_any_shape_is_left_out(save, state_dict, head, capsys):
    body = {key: value for key, value in state_dict.items() if key not in HEAD}
    file = save({**body, head: np.ones((4, 9), np.float32)})
    _, variables = load_pretrained(NAME, weights=file, num_classes=5)
    assert not variables["params"]["fc"]["kernel"].any()
    assert "the classifier of 5 classes starts fresh" in capsys.readouterr().err
    if head not in HEAD:
        with pytest.raises(WeightsError, match=rf"another head.*\({head}\); set num_classes"):
            load_pretrained(NAME, weights=file)


def test_unused_keys_are_ignored_on_request_only(save, state_dict):
    file = save({**state_dict, "projector.0.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(StateDictError, match=r"unused: projector.*\n.*ignore=\('projector\.\*',\)"):
        load_pretrained(NAME, weights=file)
    _, variables = load_pretrained(NAME, weights=file, ignore=("projector.*",), verbose=False)
    assert_same(variables, state_dict)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda key: key.replace("conv2.weight", "conv2.weight_mask"), "prune.remove"),
        (
            lambda key: key.replace("conv2.weight", "conv2.parametrizations.weight.original0"),
            "remove_parametrizations",
        ),
        (lambda key: key.replace("conv2.weight", "conv2.weight_v"), "remove_weight_norm"),
        (lambda key: f"0.{len(key)}.{key}", "put into a torch.nn.Sequential, as fastai"),
    ],
)
def test_what_torch_does_to_keys_is_said_with_the_way_back(save, state_dict, rename, message):
    file = save({rename(key): value for key, value in state_dict.items()})
    with pytest.raises(StateDictError, match=message):
        load_pretrained(NAME, weights=file, num_classes=2)


def test_a_layer_that_went_with_a_head_is_said_to_be_missing(save, state_dict):
    arrays = {key: v for key, v in state_dict.items() if not key.startswith("bn1.")}
    with pytest.raises(StateDictError, match="the file lacks 'bn1': a head that was replaced"):
        load_pretrained(NAME, weights=save(arrays), num_classes=2)


def test_missing_statistics_are_said(save, state_dict):
    file = save({key: value for key, value in state_dict.items() if "running" not in key})
    with pytest.raises(StateDictError, match="its BatchNorm statistics are missing"):
        load_pretrained(NAME, weights=file)


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float64])
def test_only_floating_point_weights_are_loaded(save, state_dict, capsys, kind):
    key = "layer1.0.conv1.weight"
    file = save({**state_dict, key: state_dict[key].astype(kind)})
    if kind is np.int8:
        with pytest.raises(
            TensorError, match=r"weights\.safetensors: (.|\n)*conv1.weight: of type int8"
        ):
            load_pretrained(NAME, weights=file)
    else:
        load_pretrained(NAME, weights=file)
        assert f"{np.dtype(kind)} converted to float32" in capsys.readouterr().err

"""Loading pretrained weights: the classifier is kept or replaced as asked, all else is strict."""

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
from tl_jax.weights import sources
from tl_jax.weights.sources import WeightsError, WeightsRecord
from tl_jax.weights.state_dict import StateDictError, to_state_dict


@pytest.fixture(scope="module")
def state_dict():
    """A ResNet-18 of timm's with a classifier of 7 classes."""
    model = import_timm().create_model("resnet18", num_classes=7)
    return {key: value.numpy() for key, value in model.state_dict().items()}


@pytest.fixture
def save(tmp_path):
    def save(state_dict):
        safetensors.numpy.save_file(state_dict, tmp_path / "resnet18.safetensors")
        return str(tmp_path / "resnet18.safetensors")

    return save


def _assert_same(variables, state_dict, *, but=()):
    got, expected = (_without_counters(each) for each in (to_state_dict(variables), state_dict))
    assert got.keys() == expected.keys() - set(but)
    for key, value in got.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def _without_counters(state_dict):
    return {key: v for key, v in state_dict.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("num_classes", [None, 7])
def test_the_classifier_of_the_file_is_kept(save, state_dict, num_classes):
    model, variables = load_pretrained(
        "resnet18", weights=save(state_dict), num_classes=num_classes
    )
    assert model.num_classes == 7
    _assert_same(variables, state_dict)


@pytest.mark.parametrize("num_classes", [5, 1000])
def test_another_number_of_classes_starts_a_fresh_classifier(save, state_dict, num_classes):
    model, variables = load_pretrained(
        "resnet18", weights=save(state_dict), num_classes=num_classes
    )
    assert model.num_classes == num_classes
    head = variables["params"].pop("fc")
    assert jax.tree.map(jnp.shape, head) == {"kernel": (512, num_classes), "bias": (num_classes,)}
    assert all(not leaf.any() for leaf in jax.tree.leaves(head))
    _assert_same(variables, state_dict, but=("fc.weight", "fc.bias"))


def test_no_classes_leave_the_classifier_out(save, state_dict):
    model, variables = load_pretrained("resnet18", weights=save(state_dict), num_classes=0)
    _assert_same(variables, state_dict, but=("fc.weight", "fc.bias"))
    assert model.num_classes == 0


def test_a_file_without_classifier_needs_the_number_of_classes(save, state_dict):
    file = save({key: value for key, value in state_dict.items() if not key.startswith("fc.")})
    with pytest.raises(WeightsError, match="holds no classifier; say num_classes"):
        load_pretrained("resnet18", weights=file)
    _, variables = load_pretrained("resnet18", weights=file, num_classes=3)
    assert variables["params"]["fc"]["kernel"].shape == (512, 3)
    _, variables = load_pretrained("resnet18", weights=file, num_classes=0)
    assert "fc" not in variables["params"]


@pytest.mark.parametrize("num_classes", [None, 0, 5, 7])
def test_everything_but_the_classifier_is_strict(save, state_dict, num_classes):
    bad = {key: value for key, value in state_dict.items() if key != "layer1.0.bn1.bias"}
    bad["layer9.weight"] = np.zeros(1)
    bad["conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    with pytest.raises(StateDictError) as caught:
        load_pretrained("resnet18", weights=save(bad), num_classes=num_classes)
    keys = ("1 missing: layer1.0.bn1.bias", "1 unused: layer9.weight", "1 mis-shaped: conv1.weight")
    assert all(key in str(caught.value) for key in keys)


def test_published_weights_must_have_the_published_classifier(monkeypatch, state_dict):
    record = WeightsRecord("resnet18.a1_in1k", "hub timm/resnet18.a1_in1k", "f", "0", "1")
    monkeypatch.setattr(sources, "map_weights", lambda name, weights: (state_dict, record))
    with pytest.raises(StateDictError, match=r"fc\.weight: got \(7, 512\), expected \(1000, 512\)"):
        load_pretrained("resnet18")


def test_what_was_used_is_printed_to_stderr_once(save, state_dict, capsys):
    file = save(state_dict)
    load_pretrained("resnet18", weights=file, num_classes=5)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"weights of resnet18 from file: {file} (sha256 ")
    assert err.endswith("; the classifier of 5 classes starts fresh\n")
    load_pretrained("resnet18", weights=file)
    assert "fresh" not in capsys.readouterr().err
    load_pretrained("resnet18", weights=file, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_variables_are_float32_whatever_the_computation(save, state_dict):
    model, variables = load_pretrained("resnet18", weights=save(state_dict), dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("global_pool", ["avg", ""])
def test_weights_load_into_a_backbone(save, state_dict, global_pool):
    model = create_model("resnet18", num_classes=0, global_pool=global_pool)
    variables, record = load_weights(model, "resnet18", save(state_dict))
    _assert_same(variables, state_dict, but=("fc.weight", "fc.bias"))
    assert (record.name, record.source, len(record.sha256)) == ("resnet18", "file", 64)


def test_weights_load_into_a_model_with_the_same_or_other_classes(save, state_dict):
    file = save(state_dict)
    variables, _ = load_weights(create_model("resnet18", num_classes=7), "resnet18", file)
    _assert_same(variables, state_dict)
    variables, _ = load_weights(create_model("resnet18", num_classes=4), "resnet18", file)
    assert not variables["params"]["fc"]["kernel"].any()


def test_a_fresh_head_is_had_for_the_same_number_of_classes_too(save, state_dict):
    model = create_model("resnet18", num_classes=7)
    variables, _ = load_weights(model, "resnet18", save(state_dict), fresh_head=True)
    assert not variables["params"].pop("fc")["kernel"].any()
    _assert_same(variables, state_dict, but=("fc.weight", "fc.bias"))


def test_a_classifier_that_is_to_be_kept_must_fit(save, state_dict):
    model = create_model("resnet18", num_classes=4)
    with pytest.raises(StateDictError, match=r"fc\.bias: got \(7,\), expected \(4,\)"):
        load_weights(model, "resnet18", save(state_dict), keep_head=True)


def test_a_backbone_may_leave_out_more_of_the_top_than_the_classifier(monkeypatch):
    with torch.device("meta"):
        published = import_timm().create_model("vgg11", num_classes=0).state_dict()
    published = {key: np.zeros(value.shape, np.float32) for key, value in published.items()}
    record = WeightsRecord("vgg11", "file", "vgg11.pth", "0")
    monkeypatch.setattr(sources, "map_weights", lambda name, weights: (published, record))
    model = create_model("vgg11", num_classes=0, global_pool="")
    variables, _ = load_weights(model, "vgg11")
    top = [key for key in published if key.startswith("pre_logits.")]
    _assert_same(variables, published, but=top)
    assert top


def test_keys_of_other_names_are_renamed():
    _, renamed = load_pretrained("tf_efficientnet_lite0", num_classes=0, verbose=False)
    names = trees.names(renamed["params"])
    assert "conv_stem.kernel" in names
    assert not any("_blocks" in name for name in names)


def test_weights_given_twice_are_an_error(monkeypatch):
    twice = {"_bn0.weight": np.zeros(32), "bn1.weight": np.zeros(32)}
    record = WeightsRecord("tf_efficientnet_lite0", "file", "twice.pth", "0")
    monkeypatch.setattr(sources, "map_weights", lambda name, weights: (twice, record))
    with pytest.raises(WeightsError, match=r"twice\.pth holds the same weights under timm's"):
        load_pretrained("tf_efficientnet_lite0")


def test_an_unknown_name_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="unknown architecture 'resnet19'; did you mean"):
        load_pretrained("resnet19", weights=tmp_path / "missing.pth")


def test_weights_that_are_known_to_lack_a_norm_get_a_fresh_one(tmp_path):
    """The masked autoencoders of ConvNeXt V2 were published without the head's norm."""
    network = import_timm().create_model("convnextv2_atto", num_classes=0)
    arrays = {k: v.numpy() for k, v in network.state_dict().items() if not k.startswith("head.")}
    path = str(tmp_path / "fcmae.safetensors")
    safetensors.numpy.save_file(arrays, path)
    model, variables = load_pretrained("convnextv2_atto.fcmae", weights=path)
    assert model.num_classes == 0
    norm = variables["params"]["head.norm"]
    np.testing.assert_array_equal(norm["scale"], 1)
    np.testing.assert_array_equal(norm["bias"], 0)
    added = {"head.norm.weight": norm["scale"], "head.norm.bias": norm["bias"]}
    _assert_same(variables, arrays | added)
    loaded, _ = load_weights(model, "convnextv2_atto.fcmae", path)
    _assert_same(loaded, arrays | added)
    with pytest.raises(StateDictError, match=r"2 missing: head\.norm"):
        load_pretrained("convnextv2_atto.fcmae_ft_in1k", weights=path, num_classes=0)


def test_auxiliary_heads_of_a_file_are_left_out_of_a_network_without_them(tmp_path):
    timm = import_timm()
    arrays = {
        key: np.zeros(tuple(value.shape), np.float32)
        for key, value in timm.create_model("inception_v3", aux_logits=True, num_classes=3)
        .state_dict()
        .items()
    }
    assert any(key.startswith("AuxLogits.") for key in arrays)
    path = str(tmp_path / "inception.safetensors")
    safetensors.numpy.save_file(arrays, path)
    _, variables = load_pretrained("inception_v3", weights=path)
    assert "AuxLogits" not in str(trees.names(variables["params"]))
    model = create_model("inception_v3", num_classes=3).clone(aux_logits=True)
    variables, _ = load_weights(model, "inception_v3", path)
    assert "AuxLogits" in str(trees.names(variables["params"]))

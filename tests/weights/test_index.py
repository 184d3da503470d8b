"""The index of pretrained weights says what timm says, and the class names are ImageNet's."""

import json

import pytest

from experiments import make_index
from experiments.torch_peer import import_timm
from tl_jax.models import registry
from tl_jax.weights.classes import class_names
from tl_jax.weights.index import parameter_count, pretrained_config, pretrained_names

QUICK = ("resnet18", "torchvision/alexnet", "simple_cnn")


def test_the_committed_index_is_what_timm_gives():
    committed = make_index.WEIGHTS_FOLDER.joinpath("index.json").read_text("utf-8")
    counts = {arch: parameter_count(arch) for arch in registry.ARCHITECTURES}
    assert make_index.index_text(counts) == committed


@pytest.mark.parametrize(
    "arch",
    [
        arch if arch in QUICK else pytest.param(arch, marks=pytest.mark.full)
        for arch in registry.ARCHITECTURES
    ],
)
def test_the_committed_counts_are_the_reference_networks(arch):
    assert make_index.parameter_counts([arch]) == {arch: parameter_count(arch)}


def test_the_committed_class_names_are_what_timm_gives():
    committed = make_index.WEIGHTS_FOLDER.joinpath("imagenet_classes.txt").read_text("utf-8")
    assert make_index.classes_text() == committed


def test_weights_that_the_index_cannot_state_are_an_error():
    with pytest.raises(ValueError, match=r"x\.y: timm sets \['custom_load'\]"):
        make_index.timm_entry("x.y", {"custom_load": "hf", "num_classes": 1000})


def test_every_name_of_timm_is_listed():
    timm = import_timm()
    names = timm.list_pretrained()
    theirs = {name for name in names if name.partition(".")[0] in registry.ARCHITECTURES}
    torchvisions = {name for name in pretrained_names() if name.startswith("torchvision/")}
    assert {*pretrained_names()} == theirs | torchvisions
    assert (len(theirs), len(torchvisions)) == (546, 8)


def test_weights_of_torchvision_have_an_address():
    config = pretrained_config("torchvision/shufflenet_v2_x1_5")
    assert (config.published, config.hub_id, config.license) == (True, None, "bsd-3-clause")
    assert config.url.endswith("shufflenetv2_x1_5-3c479a10.pth")
    assert (config.crop_pct, config.interpolation) == (0.966, "bilinear")
    # torchvision rescales the images within this one.
    assert pretrained_config("torchvision/googlenet").mean == (0.5, 0.5, 0.5)


def test_an_architecture_has_its_default_tag_and_an_explicit_tag_decides():
    assert pretrained_config("resnet50").name == "resnet50.a1_in1k"
    config = pretrained_config("resnet50.tv2_in1k")
    assert (config.name, config.interpolation) == ("resnet50.tv2_in1k", "bilinear")
    assert (config.input_size, config.test_input_size) == ((3, 176, 176), (3, 224, 224))
    assert (config.crop_pct, config.test_crop_pct) == (0.875, 0.965)
    assert config.license == "bsd-3-clause"
    assert config.hub_id == "timm/resnet50.tv2_in1k"
    assert hash(config) == hash(pretrained_config("resnet50.tv2_in1k"))


def test_every_architecture_has_an_entry():
    for arch in registry.ARCHITECTURES:
        config = pretrained_config(arch)
        assert config.name.startswith(f"{arch}.")
        assert len(config.input_size) == len(config.mean) == len(config.std) == 3


def test_weights_with_other_classes_or_none_or_unpublished():
    assert pretrained_config("efficientnet_b5.sw_in12k").num_classes == 11821
    bamboo = pretrained_config("resnet50.bamboo")
    assert (bamboo.num_classes, bamboo.hub_id, bamboo.license) == (0, "timm/resnet50.bamboo", None)
    assert pretrained_config("efficientnet_b6").hub_id is None
    assert pretrained_names("efficientnet_b6*") == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet50.a1_in2k", "resnet50.a1_in1k"), ("resnet5", "resnet50"), ("vgg16bn", "vgg16_bn")],
)
def test_an_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"named '{name}'; did you mean '{nearest}'"):
        pretrained_config(name)


def test_class_names_are_in_the_order_of_the_logits():
    names = class_names("resnet50")
    assert len(names) == 1000
    assert (names[0], names[281], names[967]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "espresso",
    )
    assert class_names(1000) is names
    assert class_names(10) is None
    assert class_names("efficientnet_b5.sw_in12k") is None


def test_commits_and_hashes_of_the_index_are_kept(tmp_path, monkeypatch):
    committed = json.loads(make_index.WEIGHTS_FOLDER.joinpath("index.json").read_text("utf-8"))
    arch = "resnet18"
    name = committed["architectures"][arch]["default"]
    pins = {"revision": "1" * 40, "sha256": "2" * 64}
    committed["weights"][name] |= pins
    (tmp_path / "index.json").write_text(json.dumps(committed))
    monkeypatch.setattr(make_index, "WEIGHTS_FOLDER", tmp_path)
    entry = json.loads(make_index.index_text({arch: 1}))["weights"][name]
    assert {key: entry[key] for key in pins} == pins

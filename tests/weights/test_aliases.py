"""Other spellings of names: timm's former names, its hub, and what is said of unknown ones."""

import pytest

from experiments.torch_peer import import_timm
from tl_jax.models.registry import ARCHITECTURES, architecture, create_model
from tl_jax.weights import aliases, index

timm = import_timm()
# timm's table maps the wider ones of these to the narrowest, and the last is not here.
MISDIRECTED = {
    "ig_resnext101_32x16d": "resnext101_32x16d.fb_wsl_ig1b_ft_in1k",
    "ig_resnext101_32x32d": "resnext101_32x32d.fb_wsl_ig1b_ft_in1k",
    "ig_resnext101_32x48d": None,
}


def former_names() -> dict[str, str]:
    """Returns timm's deprecated names of networks that are here, with the present ones."""
    from timm.models import _registry

    return {
        old: new
        for old, new in _registry._deprecated_models.items()
        if new and new.partition(".")[0] in ARCHITECTURES
    }


def test_timms_former_names_are_the_present_ones():
    expected = former_names() | MISDIRECTED
    assert len(expected) > 100
    for old, new in expected.items():
        assert aliases.resolve(old) == (new or old)


def test_every_former_name_has_a_network_and_its_weights():
    for new in {aliases.resolve(old) for old in former_names()} - {"ig_resnext101_32x48d"}:
        assert architecture(new)
        assert index.pretrained_config(new).name.startswith(new)


@pytest.mark.parametrize("name", sorted(set(timm.list_models()) - set(ARCHITECTURES))[::40])
def test_a_network_of_timm_that_is_not_here_is_said_to_be_none(name):
    with pytest.raises(ValueError, match=r"timm has this network, and it is not here"):
        architecture(name)


def test_all_of_timms_others_are_known():
    others = set(timm.list_models()) - set(ARCHITECTURES)
    assert {name for name in others if "it is not here" not in aliases.hint(name, ["x"])} == set()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("timm/resnet50", "resnet50"),
        ("timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf-hub:timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf_hub:timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("https://huggingface.co/timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("timm/tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
        ("efficientnet_b2a", "efficientnet_b2"),
        ("efficientnet_b2a.ra_in1k", "efficientnet_b2.ra_in1k"),
        ("xception", "legacy_xception"),
        ("resnet50", "resnet50"),
        ("hf-hub:me/pets", "hf-hub:me/pets"),
        ("torchvision/alexnet", "torchvision/alexnet"),
    ],
)
def test_other_spellings_have_one_meaning(name, meaning):
    assert aliases.resolve(name) == meaning


def test_a_former_name_takes_its_own_weights():
    assert index.pretrained_config("tf_efficientnet_b0_ns").name == "tf_efficientnet_b0.ns_jft_in1k"
    assert index.pretrained_config("convnext_tiny_in22k").num_classes == 21841
    assert create_model("convnext_tiny_in22k").num_classes == 21841


def test_a_repository_of_someone_is_no_architecture():
    with pytest.raises(ValueError, match=r"load_pretrained\('hf-hub:me/pets'\).*'hub:me/pets'"):
        create_model("hf-hub:me/pets", num_classes=2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("microsoft/resnet-50", "resnet50"),
        ("resnet18_imagenet", "resnet18"),
        ("resnet51", "resnet50"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("efficientnet_b9", "efficientnet_b8"),
        ("efficientnet_v2_s", "efficientnetv2_s"),
        ("vgg-16", "vgg16"),
        ("inceptionv3", "inception_v3"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mnasnet1_0", "mnasnet_100"),
        ("regnet_y_1_6gf", "regnety_016"),
        ("regnet_x_400mf", "regnetx_004_tv"),
        ("regnet_y_8gf", "regnety_080_tv"),
        ("alexnet", "torchvision/alexnet"),
        ("squeezenet1_1", "torchvision/squeezenet1_1"),
        ("torchvision/resnet50", "resnet50.tv_in1k"),
        ("ResNet50V2", "resnetv2_50"),
        ("convnext_tiny_v2", "convnextv2_tiny"),
        ("RegNetY-4GF", "regnety_040"),
        ("mobilenetv4", "mobilenetv4_conv_small"),
        ("resnext101", "resnext101_32x8d"),
        ("resnetv2_50x1", "resnetv2_50x1_bit"),
        ("densenet", "densenet121"),
        ("convnet_tiny", "convnext_tiny"),
        ("desnet121", "densenet121"),
        (" resnet50", "resnet50"),
    ],
)
def test_the_name_that_is_meant_is_suggested(name, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        architecture(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swin_tiny", "no network of the family 'swin' is here"),
        ("maxvit_t", "no network of the family 'maxvit' is here"),
        ("res2net50", "no network of the family 'res2net' is here"),
        ("NASNetLarge", "no network of the family 'nasnetalarge' is here"),
        ("mnasnet1_3", "torchvision has this network, and it is not here"),
        ("resnet56", "this network, for images of 32 pixels as in CIFAR, is not here"),
        ("me/pets", "a repository of the hub is named 'hf-hub:me/pets'"),
    ],
)
def test_a_family_that_is_not_here_is_said_to_be_none(name, words):
    with pytest.raises(ValueError, match=words):
        architecture(name)


@pytest.mark.parametrize("name", ["zzz", "yolov5", "clip", "sknet50", "lenet", "bit_r50x1", ""])
def test_nothing_is_suggested_for_what_is_like_nothing(name):
    assert aliases.hint(name, ARCHITECTURES) == ""


@pytest.mark.parametrize("name", [None, 5, b"resnet50", ["resnet50"]])
def test_a_name_is_text(name):
    with pytest.raises(TypeError, match="the name of a network is text, such as 'resnet50'"):
        architecture(name)


def test_an_unknown_tag_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet50.a1_in1k'"):
        index.pretrained_config("resnet50.a1_in2k")

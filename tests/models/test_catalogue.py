"""The catalogue knows of each network what timm and the index know, and narrows the list by it."""

import pytest

from tl_jax.models import registry
from tl_jax.models.catalogue import catalogue


def names(*args, **filters) -> list[str]:
    return [entry.name for entry in catalogue(*args, **filters)]


def test_every_architecture_and_every_set_of_weights_is_listed():
    assert names() == registry.list_models()
    assert names(pretrained=True) == registry.list_models(pretrained=True)


def test_an_entry_tells_what_is_known():
    (entry,) = catalogue("resnet50.tv2_in1k", pretrained=True)
    assert (entry.family, entry.parameters) == ("resnet", 25557032)
    assert (entry.input_size, entry.classes, entry.license) == (176, 1000, "bsd-3-clause")
    (entry,) = catalogue("torchvision/alexnet")
    assert (entry.family, entry.input_size) == ("alexnet", 224)


def test_filters_narrow_the_list():
    assert names("resnet1*", max_parameters=12e6) == [
        "resnet10t",
        "resnet14t",
        "resnet18",
        "resnet18d",
    ]
    assert set(names(family="vgg")) == set(registry.FAMILIES["vgg"].architectures)
    small = catalogue("efficientnet_b*", pretrained=True, max_input_size=240)
    assert small and all(entry.input_size <= 240 for entry in small)
    large = catalogue(pretrained=True, classes=21841)
    assert large and all(entry.classes == 21841 for entry in large)


def test_weights_without_a_licence_can_be_asked_for():
    unlicensed = catalogue(pretrained=True, license="none")
    assert unlicensed and all(entry.license is None for entry in unlicensed)
    for name in ("mit", "MIT"):
        assert {entry.license for entry in catalogue(pretrained=True, license=name)} == {"mit"}


@pytest.mark.parametrize(
    "filters, message",
    [
        ({"family": "resnt"}, "no family 'resnt'; did you mean 'resnet'"),
        ({"license": "apache2"}, r"no licence 'apache2'; did you mean 'apache-2\.0'\?$"),
        ({"license": "zzz"}, "no licence 'zzz'; expected one of apache-2.0, "),
    ],
)
def test_a_wrong_filter_names_the_nearest(filters, message):
    with pytest.raises(ValueError, match=message):
        catalogue(**filters)

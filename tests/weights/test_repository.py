"""The config.json beside weights: timm's forms old and new, and what cannot be honoured."""

import json

import pytest

from tl_jax.weights.repository import RepositoryError, as_text, parse

CFG = {
    "input_size": [3, 96, 80], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "crop_pct": 0.9,
    "crop_mode": "border", "interpolation": "bilinear",
}  # fmt: skip
NEW = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": CFG}


def read(fields):
    return parse(json.dumps(fields), "config.json")


@pytest.mark.parametrize(
    "fields",
    [
        NEW | {"label_names": ["cat", "dog", "eel"]},
        NEW | {"label_names": {"0": "cat", "1": "dog", "2": "eel"}, "global_pool": "avg"},
        {"architecture": "resnet18", "num_classes": 3, "labels": ["cat", "dog", "eel"], **CFG},
        {**NEW, "pretrained_cfg": {**CFG, "label_names": ["cat", "dog", "eel"]}},
        NEW | {"label_names": ["n00000001", "n00000002", "n00000003"],
               "label_descriptions": dict(zip(["n00000001", "n00000002", "n00000003"],
                                              ["cat", "dog", "eel"], strict=True))},
        NEW | {"id2label": {"0": "cat", "1": "dog", "2": "eel"}, "model_type": "timm_wrapper"},
    ],
)  # fmt: skip
def test_the_forms_of_timm_are_read(fields):
    found = read(fields)
    config = found.config
    assert (found.architecture, found.assumed) == ("resnet18", ())
    assert config.class_names == ("cat", "dog", "eel")
    assert (config.num_classes, config.input_size, config.mean) == (3, (3, 96, 80), (0.5, 0.4, 0.3))
    assert (config.crop_pct, config.crop_mode, config.interpolation) == (0.9, "border", "bilinear")
    assert read(json.loads(as_text(config, stem="conv1", classifier="fc"))).config == config


def test_what_is_not_stated_is_timms_default_and_is_listed():
    found = read({"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 1}})
    assert found.assumed == ("input_size", "mean", "std", "crop_mode", "interpolation")
    assert (found.config.mean, found.config.crop_pct) == ((0.485, 0.456, 0.406), 1.0)
    assert found.config.class_names is None


def test_channels_are_those_of_the_arguments_and_names_may_have_gaps():
    found = read(NEW | {"model_args": {"in_chans": 1}, "label_names": {"0": "cat", "2": "eel"}})
    assert found.config.input_size == (1, 96, 80)
    assert found.config.mean == pytest.approx((0.4,))
    assert found.config.class_names == ("cat", "class 1", "eel")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {}, "data": {}, "train": {}}, "of a run of tl_jax; export the run"),
        ({"model_type": "resnet", "architectures": ["X"]}, "of transformers"),
        ({"num_classes": 3}, "has no field 'architecture'"),
        ([1], "holds a list"),
        (NEW | {"global_pool": "max"}, "made with global_pool='max', which is not available"),
        (NEW | {"model_args": {"act_layer": "silu", "bn_eps": 1e-5}}, "act_layer='silu', bn_eps"),
        (NEW | {"model_args": {"global_pool": "catavgmax"}}, "global_pool='catavgmax'"),
        ({**NEW, "pretrained_cfg": {**CFG, "label_offset": 1}}, "label_offset=1"),
        ({**NEW, "pretrained_cfg": {**CFG, "mean": [0.5, 0.5]}}, "mean is"),
        ({**NEW, "pretrained_cfg": {**CFG, "std": [0.5, 0, 0.5]}}, "std is"),
        ({**NEW, "pretrained_cfg": {**CFG, "mean": [124, 116, 104]}}, "mean is .*divide by 255"),
        ({**NEW, "pretrained_cfg": {**CFG, "std": [58.4, 57.1, 57.4]}}, "std is .*divide by 255"),
        ({**NEW, "pretrained_cfg": {**CFG, "input_size": 224}}, "input_size is 224"),
        ({**NEW, "pretrained_cfg": {**CFG, "crop_pct": 87.5}}, "crop_pct is 87.5"),
        (
            {**NEW, "pretrained_cfg": {**CFG, "interpolation": "random"}},
            "interpolation is 'random'",
        ),
        ({**NEW, "pretrained_cfg": {**CFG, "crop_mode": "rrc"}}, "crop_mode is 'rrc'"),
        (NEW | {"num_classes": "3"}, "num_classes is '3'"),
        (NEW | {"label_names": ["cat", "dog"]}, "2 label names for 3 classes"),
        (NEW | {"label_names": {"0": "cat", "3": "dog"}}, "2 label names for 3 classes"),
        (NEW | {"label_names": "cat"}, "label_names is 'cat'"),
    ],
)
def test_what_cannot_be_meant_or_honoured_is_refused_by_name(fields, message):
    with pytest.raises(RepositoryError, match=f"config.json.*{message}"):
        read(fields)


def test_classes_may_be_numbers_or_not_stated():
    assert read(NEW | {"label_names": [0, 1, 7]}).config.class_names == ("0", "1", "7")
    assert read(NEW).states_classes
    assert read({**CFG, "architecture": "resnet18", "pretrained_cfg": None}).config.crop_pct == 0.9
    assert not read({"architecture": "resnet18", "pretrained_cfg": {}}).states_classes


def test_text_that_is_not_json_is_named():
    with pytest.raises(RepositoryError, match="config.json is not JSON"):
        parse("{", "config.json")

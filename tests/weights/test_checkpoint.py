"""The state dict inside a checkpoint: wrappers, averaged weights, prefixes, and what it states."""

import argparse

import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tl_jax.weights.checkpoint import (
    CheckpointError,
    Reading,
    names_in_metadata,
    names_in_order,
    shared_prefixes,
    unwrap,
)
from tl_jax.weights.torch_file import load_torch_file

WEIGHTS = {"conv.weight": np.ones((2, 3)), "conv.bias": np.ones(2)}
OTHERS = {key: value * 2 for key, value in WEIGHTS.items()}


def under(prefix, weights=WEIGHTS):
    return {prefix + key: value for key, value in weights.items()}


def is_plain(found):
    return list(found.arrays) == list(WEIGHTS) and all(
        np.array_equal(found.arrays[key], value) for key, value in WEIGHTS.items()
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: sd,
        *(
            lambda sd, key=key: {"epoch": 3, key: sd, "best_acc1": np.array(0.5)}
            for key in ("state_dict", "model", "model_state_dict", "net", "params", "my_weights")
        ),
        lambda sd: {"checkpoint": {"ema": {"module": sd}}},
        lambda sd: {"model": sd, "opt": {"state": {0: dict(sd)}, "param_groups": [{}]}},
        lambda sd: [sd, {"param_groups": []}],
        lambda sd: {"state_dict": sd, "optimizer_states": [{"state": {}}], "loops": {"a": {}}},
    ],
)
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.net.",
     "_forward_module.model.", "_fsdp_wrapped_module."],
)  # fmt: skip
def test_any_nesting_of_wrappers_and_prefixes_is_taken_off(wrap, prefix):
    assert is_plain(unwrap(wrap(under(prefix))))


def test_wrappers_of_parts_of_a_network_are_taken_out_of_its_keys():
    wrapped = {"conv._orig_mod.weight": 1, "a._fsdp_wrapped_module._checkpoint_wrapped_module.b": 2}
    found = unwrap({key: np.full(2, value) for key, value in wrapped.items()})
    assert {key: value[0] for key, value in found.arrays.items()} == {"conv.weight": 1, "a.b": 2}
    assert "'_orig_mod' inside its keys" in found.details
    both = {"conv._orig_mod.weight": np.ones(2), "conv.weight": np.ones(2)}
    assert unwrap(both).arrays.keys() == both.keys()


@pytest.mark.parametrize(
    "stated",
    [
        {"arch": "resnet34"},
        {"opt": argparse.Namespace(arch="resnet34")},
        {"hyper_parameters": {"lr": 0.1, "backbone": "resnet34"}},
        {"hyper_parameters": {"encoder_name": "resnet34"}},
        {"config": {"model": {"name": "resnet34"}, "name": "an experiment"}},
        {"cfg": {"MODEL": {"NAME": "resnet34"}}},
        {"args": {"net": "resnet34"}},
        {"model_args": {"model_name": "resnet34"}},
    ],
)
def test_the_architecture_is_found_wherever_a_checkpoint_states_it(tmp_path, stated):
    torch.save({"state_dict": {"fc.bias": torch.ones(2)}, **stated}, tmp_path / "a.pth")
    found = unwrap(load_torch_file(tmp_path / "a.pth"))
    assert (found.architecture, list(found.arrays)) == ("resnet34", ["fc.bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ignore": "fc.*"}, "ignore is the text 'fc.*'"),
        ({"prefix": ["model."]}, "prefix is .*a list"),
        ({"checkpoint_key": 0}, "checkpoint_key is 0, an int"),
    ],
)
def test_options_of_reading_are_text(fields, message):
    with pytest.raises(TypeError, match=message):
        Reading(**fields)
    assert Reading(ignore=["a"]) == Reading(ignore=("a",))


def test_torchs_and_timms_averaged_models_are_read(tmp_path):
    timm = import_timm()
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for averaged in (
        torch.optim.swa_utils.AveragedModel(module),
        timm.utils.ModelEmaV2(module),
        timm.utils.ModelEmaV3(module),
        torch.nn.DataParallel(module),
    ):
        torch.save({"model": averaged.state_dict()}, tmp_path / "a.pth")
        assert list(unwrap(load_torch_file(tmp_path / "a.pth")).arrays) == ["0.weight", "0.bias"]


def test_averaged_weights_are_taken_first_which_is_said_and_can_be_chosen():
    checkpoint = {"state_dict": OTHERS, "state_dict_ema": WEIGHTS}
    found = unwrap(checkpoint)
    assert is_plain(found)
    assert found.details.startswith(
        "averaged weights 'state_dict_ema' (checkpoint_key='state_dict'"
    )
    assert not is_plain(unwrap(checkpoint, Reading(checkpoint_key="state_dict")))
    nested = {"saved": {"student": OTHERS, "teacher": under("backbone.")}}
    assert is_plain(unwrap(nested, Reading(prefix="backbone")))
    assert not is_plain(unwrap(nested, Reading(checkpoint_key="saved.student")))
    assert is_plain(unwrap({"state_dict": WEIGHTS, "state_dict_ema": None}))
    # An average without names cannot be taken.
    assert is_plain(unwrap({"ema": {"shadow_params": [np.ones(2)]}, "model": WEIGHTS}))


@pytest.mark.parametrize("prefix", ["encoder_q.", "encoder_q", "module.encoder_q."])
def test_a_prefix_chooses_keys(prefix):
    checkpoint = {**under("module.encoder_q."), **under("module.encoder_k.", OTHERS)}
    found = unwrap({"state_dict": checkpoint | {"module.queue": np.ones(2)}}, Reading("", prefix))
    assert is_plain(found)


def test_keys_are_ignored_on_request_only():
    noisy = {**WEIGHTS, "epoch": 3, "projector.0.weight": np.ones((2, 2))}
    assert is_plain(unwrap(noisy, Reading(ignore=("epoch", "projector.*"))))
    with pytest.raises(CheckpointError, match="got 'epoch' of type int.*ignore="):
        unwrap(noisy)
    with pytest.raises(CheckpointError, match=r"'projectr.\*' matches no key; did you mean 'proj"):
        unwrap(noisy, Reading(ignore=("epoch", "projectr.*")))


@pytest.mark.parametrize(
    ("checkpoint", "reading", "message"),
    [
        (3, Reading(), "got a int; save"),
        ({"epoch": 3}, Reading(), "got 'epoch' of type int; save"),
        ({}, Reading(), "an empty one"),
        ({"a": WEIGHTS, "b": OTHERS}, Reading(), "holds 2 state dicts: 'a', 'b'; choose one"),
        ({"a": WEIGHTS}, Reading("b"), "no state dict under checkpoint_key='b'; it has 'a'"),
        (WEIGHTS, Reading("b"), "is a state dict itself"),
        (under("backbone."), Reading("", "bakbone"), "did you mean 'backbone.'"),
    ],
)
def test_what_cannot_be_chosen_is_said(checkpoint, reading, message):
    with pytest.raises(CheckpointError, match=message):
        unwrap(checkpoint, reading)


def test_what_a_checkpoint_states_is_found(tmp_path):
    stated = {"state_dict": WEIGHTS, "arch": "resnet18", "class_to_idx": {"eel": 1, "cat": 0}}
    found = unwrap(stated)
    assert (found.architecture, found.class_names) == ("resnet18", ("cat", "eel"))
    assert unwrap({"model": WEIGHTS, "hyper_parameters": {"arch": "vgg11"}}).architecture == "vgg11"
    assert unwrap({"model": WEIGHTS}).architecture is None
    metadata = {"format": "pt", "class_to_idx": '{"eel": 1, "cat": 0}', "note": "{"}
    assert names_in_metadata(metadata) == ("cat", "eel")


def test_names_come_in_the_order_of_their_indices():
    assert names_in_order({1: "b", 0: "a"}) == ("a", "b")
    assert names_in_order({"3": 0, "9": 2, "7": 1}) == ("3", "7", "9")
    for odd in ({"a": 0, "b": 2}, ["a", 3], [], "ab", {"a": "b"}, None):
        assert names_in_order(odd) is None


def test_the_prefix_that_holds_the_network_is_found():
    keys = [*under("m.enc."), *under("m.proj."), "m.enc.fc.0.weight"]
    assert shared_prefixes(keys, list(WEIGHTS)) == ["m.enc.", "m.proj."]
    assert shared_prefixes(["a.b"], list(WEIGHTS)) == []

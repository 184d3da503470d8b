"""Checks of arguments, by themselves and through the public functions that a user calls wrongly."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import tl_jax
from tl_jax import arguments, trees
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models.outputs import output_shapes
from tl_jax.models.variables import abstract_variables
from tl_jax.transfer import freeze, groups
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF

NAME = "simple_cnn"
IMAGES = np.zeros((1, 16, 16, 3), np.float32)


@functools.cache
def network():
    """Returns a network and variables of zeros, which take no time to draw."""
    model = tl_jax.create_model(NAME, num_classes=3)
    return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_variables(model))


model, variables = network()
params, state_dict = variables["params"], tl_jax.to_state_dict(variables)
adapted = Adapted(model, LoRA(rank=1))

# What was called, and what the message must say; all raise a TypeError or a ValueError.
WRONG = {
    "a name that is no text": (lambda: tl_jax.create_model(None), "name of a network is text"),
    "a network for a name": (lambda: tl_jax.load_pretrained(model), "is text|got"),
    "a pattern that is a list": (lambda: tl_jax.list_models(["resnet*"]), "pattern is .*a list"),
    "classes as text": (lambda: tl_jax.catalogue(classes="10"), "classes is '10', a str"),
    "parameters as text": (lambda: tl_jax.catalogue(max_parameters="5"), "max_parameters is '5'"),
    "a family that is no text": (lambda: tl_jax.catalogue(family=5), "no family 5; expected one"),
    "a size for the shape of images": (
        lambda: output_shapes(model, variables, 16), r"image_shape is 16, an int.*\(1, 224",
    ),
    "images for their shape": (
        lambda: output_shapes(model, variables, IMAGES), "image_shape is .*expected sizes",
    ),
    "no variables for shapes": (
        lambda: output_shapes(model, None, (1, 32, 32, 3)), "expected variables",
    ),
    "images before variables": (
        lambda: model.apply(IMAGES, variables), "apply takes variables and then images",
    ),
    "parameters for variables": (
        lambda: model.apply(params, IMAGES), "apply takes variables.*the parameters alone",
    ),
    "no variables to apply": (lambda: model.apply(None, IMAGES), "apply takes variables.*got None"),
    "a probe of no set": (
        lambda: tl_jax.probe((model, variables), None, None), "the train set is None",
    ),
    "a probe of a network alone": (
        lambda: tl_jax.probe(model, "digits", "digits"), r"a pair \(model, variables\), but got",
    ),
    "a probe of a short tuple": (
        lambda: tl_jax.probe((model,), "digits", "digits"), "a tuple that is no such pair",
    ),
    "a probe of a swapped pair": (
        lambda: tl_jax.probe((variables, model), "digits", "digits"), "such pair",
    ),
    "a name for a preprocessing": (
        lambda: tl_jax.probe((model, variables), "digits", "digits", preprocess="resnet50"),
        "preprocess is a str; expected a tl_jax.Preprocess",
    ),
    "a prediction of a pair": (
        lambda: tl_jax.predict((model, variables), "a.png"), "predict takes the folder .*a tuple",
    ),
    "top as text": (lambda: tl_jax.predict(NAME, "a.png", top="5"), "top is '5', a str"),
    "a pattern for patterns": (
        lambda: tl_jax.load_pretrained(NAME, weights="a.pth", ignore="fc.*"),
        r"ignore is the text 'fc\.\*'",
    ),
    "a name that is empty": (lambda: tl_jax.load_pretrained(""), "unknown architecture ''"),
    "streams that are none": (
        lambda: tl_jax.to_nnx(model, variables, rngs=0), r"rngs is an int; .*nnx.Rngs\(dropout=0",
    ),
    "at is text": (
        lambda: tl_jax.features(model, variables, IMAGES, at="conv4"),
        r"at is the text 'conv4'; .*at=\['conv4'\]",
    ),
    "at is None": (lambda: tl_jax.features(model, variables, IMAGES, at=None), "at is None"),
    "at holds a number": (lambda: tl_jax.features(model, variables, IMAGES, at=[5]), "at holds 5"),
    "at is unknown": (
        lambda: tl_jax.features(model, variables, IMAGES, at=["stage9"]), "its modules are conv1",
    ),
    "swapped": (
        lambda: tl_jax.features(variables, model, IMAGES, at=["conv1"]), "the network comes first",
    ),
    "params for variables": (
        lambda: tl_jax.features(model, params, IMAGES, at=["conv1"]), r"\{'params': params\}",
    ),
    "no variables": (lambda: tl_jax.features(model, None, IMAGES, at=["conv1"]), "got None"),
    "a name for a network": (
        lambda: tl_jax.features(NAME, variables, IMAGES, at=["conv1"]),
        r"create_model\('simple_cnn'\)",
    ),
    "a module of torch": (
        lambda: tl_jax.from_state_dict(model, torch.nn.Linear(2, 2)), r"give its state_dict\(\)",
    ),
    "no state dict": (lambda: tl_jax.from_state_dict(model, None), "got None"),
    "a file as a state dict": (
        lambda: tl_jax.from_state_dict(model, Path("w.pth")), "load_pretrained.* reads a file",
    ),
    "a checkpoint": (
        lambda: tl_jax.from_state_dict(model, {"state_dict": state_dict, "epoch": 3}),
        r"checkpoint\['state_dict'\]",
    ),
    "variables as a state dict": (
        lambda: tl_jax.from_state_dict(model, variables), "variables of Flax",
    ),
    "parameters as a state dict": (
        lambda: tl_jax.from_state_dict(model, params), "parameters of Flax",
    ),
    "the state dict first": (
        lambda: tl_jax.from_state_dict(state_dict, model), "the network is a dict",
    ),
    "a ragged list": (
        lambda: tl_jax.from_state_dict(model, {**state_dict, "fc.bias": [1, [2]]}),
        "fc.bias is a list that is no array",
    ),
    "may_lack is text": (
        lambda: tl_jax.from_state_dict(model, state_dict, may_lack="fc"), "may_lack is the text",
    ),
    "to_state_dict of params": (
        lambda: tl_jax.to_state_dict(params), "the parameters alone, it seems",
    ),
    "to_state_dict of a network": (lambda: tl_jax.to_state_dict(model), "model first"),
    "to_state_dict of a state dict": (
        lambda: tl_jax.to_state_dict(state_dict), "a state dict, it seems",
    ),
    "to_state_dict of shapes": (
        lambda: tl_jax.to_state_dict(abstract_variables(model)), "ShapeDtypeStruct, not an array",
    ),
    "a state dict as weights": (
        lambda: tl_jax.load_pretrained(NAME, weights=state_dict), "from_state_dict",
    ),
    "a number as weights": (lambda: tl_jax.load_pretrained(NAME, weights=5), "got an int as"),
    "fit without a configuration": (lambda: tl_jax.fit({}, "run"), "Config"),
    "fit of a file": (lambda: tl_jax.fit("config.py", "run"), "Config"),
    "a run that is no path": (lambda: tl_jax.load_run(None), "path is None"),
    "evaluate a network": (lambda: tl_jax.evaluate((model, variables)), "path is a tuple"),
    "a soup of one folder": (lambda: tl_jax.soup("run", "out"), "soup takes a list of folders"),
    "one alpha": (lambda: tl_jax.wise_ft("run", alphas=0.5), "alphas is 0.5; expected a list"),
    "stages as names": (
        lambda: tl_jax.gradual(("layer1",), every=1, epochs=3), "stages is .*expected a whole",
    ),
    "every 0 epochs": (lambda: tl_jax.gradual(4, every=0, epochs=3), "every is 0"),
    "examples as text": (lambda: tl_jax.hyper_rule("10", (3, 3)), "examples is '10'"),
    "one side": (lambda: tl_jax.hyper_rule(1000, 224), r"size is 224; .*\(224, 224\)"),
    "alpha as text": (lambda: tl_jax.interpolate(variables, variables, "0.5"), "alpha is '0.5'"),
    "alpha first": (lambda: tl_jax.interpolate(0.5, variables, variables), "alpha is a dict"),
    "interpolate folders": (lambda: tl_jax.interpolate("a", "b", 0.5), "nested dict.*got a str"),
    "no score": (
        lambda: tl_jax.wise_ft_curve(variables, variables, [0.5], None), "score is None",
    ),
    "a score of None": (
        lambda: tl_jax.greedy_soup([variables, variables], lambda v: None), "score with .* is None",
    ),
    "a soup of variables": (lambda: tl_jax.uniform_soup(variables), "a soup takes a list of"),
    "a plan of arrays": (
        lambda: tl_jax.describe_plan(params, params, variables), "the group of conv1.bias is",
    ),
    "params in describe_plan": (
        lambda: tl_jax.describe_plan(params, params, params), r"\{'params': params\}",
    ),
    "the boundary of a name": (
        lambda: tl_jax.FromBoundary(NAME, "act2", (16, 16, 3)), "FromBoundary takes a network",
    ),
    "the shape of a batch": (
        lambda: tl_jax.FromBoundary(model, "act2", (1, 16, 16, 3)), "image_shape is",
    ),
    "preprocessing by a name": (
        lambda: tl_jax.preprocess([IMAGES[0]], "resnet18"), r"pretrained_config\('resnet18'\)",
    ),
    "to_nnx swapped": (lambda: tl_jax.to_nnx(variables, model), "the network is a dict"),
    "to_nnx of params": (lambda: tl_jax.to_nnx(model, params), "the parameters alone"),
    "to_nnx of others": (
        lambda: tl_jax.to_nnx(model.clone(num_classes=4), variables), "params.fc.bias",
    ),
    "from_nnx of variables": (lambda: tl_jax.from_nnx(variables), "a module of to_nnx"),
    "a head that is text": (
        lambda: freeze.plan(params, "fc", train_backbone=False), r"head=\['fc'\]",
    ),
    "a plan of variables": (
        lambda: freeze.plan(variables, ["fc"], train_backbone=False), r"variables\['params'\]",
    ),
    "trained is text": (
        lambda: freeze.train_only({"fc": {"bias": "head"}}, "fc.bias"), "trained is the text",
    ),
    "trained is unknown": (
        lambda: freeze.train_only({"fc": {"bias": "head"}}, {"fc.bia"}), "did you mean 'fc.bias'",
    ),
    "a list of selections": (
        lambda: groups.select({"fc": {"bias": "head"}}, ["head"]), "selection is",
    ),
    "no tree": (lambda: trees.flatten(None), "nested dict .* got None"),
    "a backbone that is a name": (lambda: Classifier(NAME, Linear(3)), "Classifier takes a net"),
    "a head that is a number": (
        lambda: Classifier(model.clone(num_classes=0), 3), r"a head .* Linear\(10\).* got an int",
    ),
    "classes of a head as text": (lambda: Linear("3"), "num_classes is '3'"),
    "a head without classes": (lambda: Linear(0), "num_classes is 0"),
    "dropout of 2": (lambda: Linear(3, dropout=2.0), "dropout is 2.0"),
    "one hidden width": (lambda: MLP(3, hidden=64), r"hidden is 64; .*\(1024,\)"),
    "a scale that is text": (lambda: Cosine(3, scale="x"), "scale is 'x'"),
    "a rank that is text": (lambda: LoRA(rank="4"), "rank is '4'"),
    "a rank of 2.5": (lambda: LoRA(rank=2.5), "rank is 2.5"),
    "targets as text": (lambda: LoRA(targets="layer4"), "targets is the text"),
    "no targets": (lambda: SSF(targets=()), "targets is empty"),
    "adapters at text": (lambda: Adapters(at="layer1"), "at is the text"),
    "an activation by name": (lambda: Adapters(at=("act1",), act="relu"), "act is 'relu'"),
    "no adaptation": (lambda: Adapted(model, None), "Adapted takes an adaptation"),
    "a class as adaptation": (lambda: Adapted(model, LoRA), "got the class"),
    "the adaptation first": (lambda: Adapted(LoRA(), model), "Adapted takes a network"),
    "a number as key": (lambda: adapted.add_to(0, variables), r"jax.random.key\(0\)"),
    "the key last": (lambda: adapted.add_to(variables, jax.random.key(0)), "expected variables"),
    "params to an adapted network": (
        lambda: adapted.apply(params, IMAGES), r"\{'params': params\}",
    ),
    "merged params": (lambda: adapted.merged(params), r"\{'params': params\}"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_gets_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_colliding_keys_are_refused():
    """Two networks side by side whose variables would have one key."""
    twice = {"params": {"a.b": {"bias": jnp.ones(1)}, "a": {"b": {"bias": jnp.zeros(1)}}}}
    with pytest.raises(ValueError, match=r"two variables have the key 'a.b.bias'"):
        tl_jax.to_state_dict(twice)


def test_right_values_pass():
    arguments.whole_number("n", np.int32(3), least=3)
    arguments.number("x", np.float32(0.5))
    arguments.rate("r", 0)
    arguments.names("at", {"a", "b"}, "['a']")
    arguments.names("at", iter(()), "['a']")
    arguments.path("p", Path("x"))


def test_long_values_are_not_printed():
    with pytest.raises(TypeError, match=r"^x is a list; expected a number$"):
        arguments.number("x", list(range(100)))

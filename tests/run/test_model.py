"""What training starts from: every option of the model and of what is added to it has an effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.run.test_data_options import change
from tl_jax import trees
from tl_jax.config import Config, ModelConfig, TransferConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.heads.head import MLP, Cosine
from tl_jax.run import model as start
from tl_jax.run.experiment import prepare
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF
from tl_jax.weights.state_dict import StateDictError, abstract_variables

MODEL = ModelConfig("resnet18", hidden=(8, 4), head_dropout=0.3, drop_path=0.2, dtype="bfloat16")


def built(head: str = "linear", **transfer):
    config = Config(
        model=dataclasses.replace(MODEL, head=head), transfer=TransferConfig(**transfer)
    )
    return start.build_model(config, 3)


# ---- the network


def test_the_options_of_the_model_reach_the_network():
    model = built()
    assert (model.num_classes, model.drop_rate, model.drop_path_rate) == (3, 0.3, 0.2)
    assert model.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("head", "pool", "expected"),
    [
        ("cosine", "avg", Cosine(3, 0.3)),
        ("mlp", "", MLP(3, (8, 4), 0.3, "zero", jnp.bfloat16)),
    ],
)
def test_the_options_of_the_model_reach_backbone_and_head(head, pool, expected):
    model = built(head)
    assert model.head == expected
    backbone = model.backbone
    assert (backbone.num_classes, backbone.global_pool) == (0, pool)
    assert (backbone.drop_path_rate, backbone.dtype) == (0.2, jnp.bfloat16)


def test_the_options_of_the_model_reach_a_fused_network():
    model = built(classifier="fuse")
    assert (model.backbone.num_classes, model.backbone.drop_rate) == (1000, 0.0)
    assert (model.backbone.drop_path_rate, model.backbone.dtype) == (0.2, jnp.bfloat16)
    assert (model.head.on_features.num_classes, model.head.on_features.dropout) == (3, 0.3)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"adaptation": "lora", "lora_rank": 3, "lora_alpha": 5.0}, LoRA(rank=3, alpha=5.0)),
        ({"adaptation": "lora", "targets": ("layer1",)}, LoRA(targets=("layer1",))),
        ({"adaptation": "ssf"}, SSF()),
        ({"adaptation": "ssf", "targets": ("layer1",)}, SSF(targets=("layer1",))),
        (
            {"adaptation": "adapters"},
            Adapters(at=("act1", "layer1", "layer2", "layer3", "layer4"), reduction=4),
        ),
        (
            {"adaptation": "adapters", "targets": ("layer1",), "adapter_reduction": 2},
            Adapters(at=("layer1",), reduction=2),
        ),
    ],
)
def test_the_options_of_what_is_added_reach_it(fields, expected):
    assert built(**fields).adaptation == expected


# ---- the variables


def test_the_seed_decides_how_the_head_starts(tiny_config):
    config = change(tiny_config, "transfer", head_init="small")
    one, other = (
        prepare(change(config, "train", seed=seed)).start.variables["params"] for seed in (0, 1)
    )
    assert np.array_equal(one["conv1"]["kernel"], other["conv1"]["kernel"])
    assert not np.array_equal(one["fc"]["kernel"], other["fc"]["kernel"])


class Drawn:
    """A network whose one parameter is drawn in the form of the image."""

    def init(self, key, image):
        return {"params": {"kernel": jax.random.normal(key, image.shape)}}


def test_the_seed_decides_what_is_drawn_without_weights():
    config = Config(model=ModelConfig("resnet18", weights="random"))
    one, other = (
        start.begin(
            change(config, "train", seed=seed), Drawn(), None, Preprocess(size=(8, 12)), None
        )
        for seed in (0, 1)
    )
    assert one.weights is None
    assert one.variables["params"]["kernel"].shape == (1, 8, 12, 3)
    assert not np.array_equal(*(each.variables["params"]["kernel"] for each in (one, other)))


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("init", ["zero", "small"])
def test_a_new_head_starts_as_it_is_told(tiny_config, head, init):
    config = change(change(tiny_config, "model", head=head), "transfer", head_init=init)
    variables = prepare(config).start.variables
    kernel = variables["params"]["fc" if head == "linear" else "head"]
    kernel = np.asarray(kernel["kernel"] if head == "linear" else kernel["fc"]["kernel"])
    deviation = 0.0 if init == "zero" else 0.01
    assert kernel.std() == pytest.approx(deviation, rel=0.4)


def test_as_many_classes_as_the_weights_have_start_fresh_too(tiny_config):
    # The weights of the fixture tell 1000 classes apart; so does the network here.
    parts = prepare(tiny_config)
    model = start.build_model(tiny_config, 1000)
    begun = start.begin(tiny_config, model, parts.train, parts.preprocess, parts.mesh)
    found = begun.variables
    assert not np.any(found["params"]["fc"]["kernel"])
    assert np.any(found["params"]["conv1"]["kernel"])


def test_a_fused_head_starts_from_the_mapping(tiny_config):
    config = change(
        tiny_config, "transfer", classifier="fuse", class_mapping=("grüne=7", "red ones=3|5")
    )
    parts = prepare(config)
    params = parts.start.variables["params"]
    kernel = np.asarray(params["head"]["mix"]["kernel"])
    mapped = np.argwhere(kernel).tolist()
    grüne, red = (parts.train.class_names.index(name) for name in ("grüne", "red ones"))
    assert sorted(mapped) == sorted([[7, grüne], [3, red], [5, red]])
    # The pretrained classifier is kept, and the statistics.
    assert np.any(params["backbone"]["fc"]["kernel"])
    np.testing.assert_array_equal(parts.start.variables["batch_stats"]["backbone"]["bn1"]["var"], 1)


@pytest.mark.parametrize("strategy", ["load", "fuse"])
def test_a_pretrained_classifier_that_is_used_must_be_in_the_file(tiny_config, tmp_path, strategy):
    arrays = load_file(tiny_config.model.weights)
    arrays |= {name: arrays[name][:7] for name in ("fc.weight", "fc.bias")}
    save_file(arrays, tmp_path / "seven.safetensors")
    config = change(tiny_config, "model", weights=str(tmp_path / "seven.safetensors"))
    with pytest.raises(StateDictError, match=r"fc\.bias: got \(7,\), expected \(1000,\)"):
        prepare(change(config, "transfer", classifier=strategy))


def test_without_a_mapping_the_classes_are_compared_by_name(tiny_config):
    parts = prepare(change(tiny_config, "transfer", classifier="fuse"))
    assert len(parts.start.mapping.source_names) == 1000
    assert parts.start.mapping.matched == ()


def test_classes_without_known_names_are_mapped_by_index():
    model = ModelConfig("efficientnet_b5.sw_in12k")
    transfer = TransferConfig(classifier="load", class_mapping=("a=7",))
    found = start._mapping(Config(model=model, transfer=transfer), ("a", "b"))
    assert found.sources == ((7,), ())
    assert (len(found.source_names), found.source_names[7]) == (11821, "class 7")
    with pytest.raises(ValueError, match="11821 classes of .* are not known here; map the new"):
        start._mapping(Config(model=model), ("a", "b"))


def test_a_classifier_that_is_a_convolution_cannot_start_from_means(tiny_config):
    config = Config(
        model=ModelConfig("torchvision/squeezenet1_1", weights="random"),
        transfer=TransferConfig(head_init="class_means"),
    )
    model = start.build_model(config, 3)
    begun = start.Start(abstract_variables(model), None)
    with pytest.raises(ValueError, match=r"classifier\.1 of torchvision/squeezenet1_1 is a conv"):
        start._from_means(config, model, begun, None, None, None)


def test_means_are_read_by_who_is_configured(tiny_config, monkeypatch):
    def keep(*_, workers, worker_type, **__):
        raise ValueError(f"{workers} of kind {worker_type}")

    monkeypatch.setattr(start.feature_cache, "extract", keep)
    config = change(tiny_config, "transfer", head_init="class_means")
    with pytest.raises(ValueError, match="3 of kind process"):
        prepare(change(config, "data", workers=3, worker_type="process"))


def test_stages_are_named_within_the_backbone():
    names = ("act1", "layer1", "layer2", "layer3", "layer4")
    for head, prefix in (("linear", ""), ("cosine", "backbone.")):
        for adaptation in ("none", "lora"):
            config = Config(
                model=dataclasses.replace(MODEL, head=head),
                transfer=TransferConfig(adaptation=adaptation),
            )
            found = start.stages(config, start.build_model(config, 3))
            assert found == tuple(prefix + name for name in names)


def test_what_is_added_is_drawn_by_the_seed(tiny_config):
    config = change(tiny_config, "transfer", adaptation="lora", lora_rank=2)
    one, other = (
        prepare(change(config, "train", seed=seed)).start.variables["params"] for seed in (0, 1)
    )
    added = [path for path in trees.flatten(one) if path[-1] == "lora_a"]
    assert added
    for path in added:
        assert not np.array_equal(trees.flatten(one)[path], trees.flatten(other)[path])
    assert jax.tree.structure(one) == jax.tree.structure(other)

"""The network of a run: every option of the model and of what is added to it has an effect."""

import dataclasses

import jax.numpy as jnp
import pytest

from tl_jax.config import Config, ModelConfig, TransferConfig
from tl_jax.heads.head import MLP, Cosine
from tl_jax.run.model import build_model, stage_names
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF

MODEL = ModelConfig("resnet18", hidden=(8, 4), head_dropout=0.3, drop_path=0.2, dtype="bfloat16")


def built(head: str = "linear", **transfer):
    config = Config(
        model=dataclasses.replace(MODEL, head=head), transfer=TransferConfig(**transfer)
    )
    return build_model(config, 3)


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
def test_the_options_of_an_adaptation_reach_it(fields, expected):
    assert built(**fields).adaptation == expected


def test_the_head_of_an_mlp_starts_as_configured():
    assert built("mlp", head_init="small").head.kernel_init == "small"


def test_stages_are_named_within_the_backbone():
    names = ("act1", "layer1", "layer2", "layer3", "layer4")
    for head, prefix in (("linear", ""), ("cosine", "backbone.")):
        for adaptation in ("none", "lora"):
            config = Config(
                model=dataclasses.replace(MODEL, head=head),
                transfer=TransferConfig(adaptation=adaptation),
            )
            actual = stage_names(config, build_model(config, 3))
            assert actual == tuple(prefix + name for name in names)

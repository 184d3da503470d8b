"""Networks are data: equal when made twice, and after being pickled or copied."""

import copy
import pickle

import pytest

from tests.support.every_layer import EveryLayer
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models.layers import Bound, relu
from tl_jax.models.registry import ARCHITECTURES, create_model
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF


def copies(model) -> list:
    return [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)]


def test_all_networks_are_equal_to_their_copies():
    unequal = []
    for name in ARCHITECTURES:
        model = create_model(name, num_classes=7)
        others = [*copies(model), create_model(name, num_classes=7)]
        if any(other != model or hash(other) != hash(model) for other in others):
            unequal.append(name)
    assert unequal == []


def test_different_networks_are_not_equal():
    models = [create_model(name, num_classes=7) for name in ARCHITECTURES]
    # timm gives two names to one network, in each of these cases.
    assert len(set(models)) >= len(models) - 30
    assert create_model("resnet18", num_classes=7) != create_model("resnet18", num_classes=8)
    assert create_model("seresnet50", num_classes=7) != create_model("resnetrs50", num_classes=7)


BACKBONE = EveryLayer(num_classes=0, in_channels=3)


@pytest.mark.parametrize(
    "model",
    [
        Classifier(BACKBONE, Linear(3)),
        Classifier(BACKBONE, MLP(3, (8,))),
        Classifier(BACKBONE, Cosine(3)),
        Fused(BACKBONE.clone(num_classes=5), Fusion(Linear(3))),
        Adapted(BACKBONE, LoRA(rank=2)),
        Adapted(BACKBONE, SSF()),
        Adapted(BACKBONE, Adapters(at=("layer1",))),
    ],
    ids=lambda model: type(model).__name__,
)
def test_networks_with_heads_and_adaptations_are_too(model):
    assert all(other == model and hash(other) == hash(model) for other in copies(model))


def test_bound_arguments_are_compared_by_value():
    assert Bound(int, base=2) == Bound(int, base=2)
    assert Bound(int, base=2) != Bound(int, base=3)
    assert len({Bound(relu), Bound(relu), Bound(int, "1")}) == 2
    assert Bound(int, base=2)("101") == 5

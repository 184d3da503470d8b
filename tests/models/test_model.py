"""Tests that every kind of network satisfies the protocol that training and evaluation use."""

import jax
import jax.numpy as jnp
import pytest

from tests.support.every_layer import EveryLayer
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.head import Linear
from tl_jax.models.model import Model
from tl_jax.models.registry import FAMILIES
from tl_jax.probes.boundary import FromBoundary
from tl_jax.transfer.carry_over import MatchedOnly
from tl_jax.transfer.class_names import match_classes
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA

NETWORK = EveryLayer(num_classes=3, in_channels=4)


def models() -> dict:
    return {
        "network": NETWORK,
        "with a head": Classifier(NETWORK.clone(num_classes=0), Linear(3)),
        "adapted": Adapted(NETWORK, LoRA(rank=1)),
        "matched classes only": MatchedOnly(NETWORK, match_classes(["a", "b", "c"], ["a", "b"])),
        "behind a boundary": FromBoundary(NETWORK, "layer1", (8, 8, 4)),
    }


@pytest.mark.parametrize("kind", models())
def test_every_network_is_a_model(kind):
    model = models()[kind]
    assert isinstance(model, Model)
    assert (model.in_channels, model.num_classes) == (4, 3)
    images = jnp.zeros((2, 8, 8, 4))
    inputs = jnp.zeros((2, 4, 4, 6)) if kind == "behind a boundary" else images
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    assert model.classifier in variables["params"]
    assert jax.eval_shape(model.apply, variables, inputs).shape == (2, 3)


def test_the_networks_of_all_families_are_models():
    for family in FAMILIES.values():
        for architecture in family.architectures.values():
            assert isinstance(architecture.network, Model)

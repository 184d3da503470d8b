"""Architectures beside their peers in torch: one small one of each family, and training steps.

`experiments.parity` makes the comparisons; here they are asserted.
"""

import contextlib
import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from experiments import parity
from experiments.torch_peer import random_images
from tl_jax.models import layers
from tl_jax.models.registry import ARCHITECTURES, FAMILIES
from tl_jax.weights.state_dict import from_state_dict, to_state_dict

# Small, and quick to compile; together they hold every kind of block of their families.
QUICK = (
    "resnet18",
    "test_resnet",
    "resnetv2_18d",
    "resnetv2_50x1_bit",
    "regnetx_002",
    "test_efficientnet",
    "tf_efficientnet_lite0",
    "lcnet_035",
    "hardcorenas_a",
    "test_convnext",
    "test_convnext2",
    "vgg11",
    "densenet121",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "legacy_xception",
    "test_nfnet",
    "torchvision/alexnet",
    "torchvision/googlenet",
    "torchvision/squeezenet1_1",
    "torchvision/shufflenet_v2_x0_5",
)
# 1x1, grouped and depthwise convolutions in the form for CPUs, which takes longer to compile.
ON_CPU = ("test_resnet", "regnetx_002", "lcnet_035")
TOLERANCE_FLOAT64 = 1e-10
COMPARED = [name for name in ARCHITECTURES if name not in parity.NO_PEER]


def names(quick: tuple[str, ...]) -> list:
    """Returns all architectures; those outside of `quick` run with `make test-full` only."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.full) for name in COMPARED
    ]


def test_every_family_is_compared():
    compared = {
        family for family, about in FAMILIES.items() if set(QUICK) & set(about.architectures)
    }
    assert compared == {*FAMILIES} - {*parity.NO_PEER}


@pytest.mark.parametrize("name", names(QUICK))
def test_numbers_equal_the_peers(name):
    """Logits, stages, gradient, statistics and export, to what `experiments.parity` allows."""
    with contextlib.nullcontext() if name in ON_CPU else layers.as_on_accelerators():
        row = parity.compare(name)
    assert row["export_is_bit_equal"]
    assert row["passed"], row


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext2", "test_efficientnet"])
def test_gradients_equal_the_peers_in_float64(name):
    with layers.as_on_accelerators():
        assert parity.float64_gradient_error(name) <= TOLERANCE_FLOAT64


@pytest.mark.parametrize("name", names(QUICK))
def test_names_and_shapes_are_the_peers(name):
    assert parity.key_differences(name) == []


def test_a_wrong_network_fails(monkeypatch):
    """Other padding than the peer's: every shape is right, and no number."""
    lite = ARCHITECTURES["tf_efficientnet_lite0"]
    monkeypatch.setitem(ARCHITECTURES, "efficientnet_lite0", lite)
    assert parity.key_differences("efficientnet_lite0") == []
    with layers.as_on_accelerators():
        row = parity.compare("efficientnet_lite0")
    assert not row["passed"]
    assert row["logits"] > 0.01
    assert min(row["stages"].values()) > 0.05


def test_three_training_steps_of_resnet18_equal_timms():
    """SGD with momentum in training mode; parameters and statistics to 1e-4."""
    name, rate, momentum = "resnet18", 0.1, 0.9
    labels = [[1, 2], [4, 5], [7, 8]]
    network = parity.make_peer(name, parity.SIZE)
    start = copy.deepcopy(network.state_dict())
    images = random_images(parity.SIZE, parity.BATCH)
    variables = from_state_dict(parity.build(name), network.state_dict())
    ours = train_ours(name, variables, images, labels, optax.sgd(rate, momentum))

    optimizer = torch.optim.SGD(network.train().parameters(), lr=rate, momentum=momentum)
    for y in labels:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), torch.tensor(y)).backward()
        optimizer.step()

    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            error = parity.relative_error(ours[key], value.detach())
            moved = parity.relative_error(start[key], value.detach())
            assert error <= 1e-4, key
            assert error <= 0.05 * moved, f"{key} has hardly moved: {moved}"


def train_ours(
    name: str,
    variables: dict,
    images: torch.Tensor,
    labels: list[list[int]],
    tx: optax.GradientTransformation,
) -> dict[str, np.ndarray]:
    """Trains our network, one step for each list of labels, and returns the state dict."""
    model, x = parity.build(name), jnp.asarray(parity.channels_last(images))
    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)

    @jax.jit
    def step(params, batch_stats, opt_state, y):
        def loss(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats}, x, train=True,
                mutable=["batch_stats"],
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), updated["batch_stats"]

        grads, batch_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    for y in labels:
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, jnp.asarray(y))
    return to_state_dict({"params": params, "batch_stats": batch_stats})

"""Architectures beside their peers in torch, and training steps.

`experiments.parity` makes the comparisons; here they are asserted.
"""

import copy
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from experiments import parity
from tests.support.families import PAIRS
from tests.support.peers import settled_peer
from tl_jax.models import layers
from tl_jax.models.network import Network
from tl_jax.models.registry import ARCHITECTURES, FAMILIES
from tl_jax.models.variables import from_state_dict
from tl_jax.weights.state_dict import to_state_dict

# One of each family. Their numbers are compared in `make test-full`; those of a tiny network of
# each family, block by block, in tests/models/families.
QUICK_NAMES = (
    "test_resnet",
    "resnetv2_18d",
    "regnetx_002",
    "test_efficientnet",
    "tf_efficientnet_lite0",
    "lcnet_035",
    "hardcorenas_a",
    "test_convnext",
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
QUICK_NUMBERS = ("test_resnet",)
TOLERANCE_FLOAT64 = 1e-10
FLOAT64 = ("test_resnet", "test_convnext2", "test_efficientnet")
COMPARED = [name for name in ARCHITECTURES if name not in parity.NO_PEER]


def names(quick: tuple[str, ...], *, of: Sequence[str] = COMPARED) -> list:
    """Returns architectures; those outside of `quick` run with `make test-full` only."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.full) for name in of]


def test_every_family_is_compared():
    compared = {
        family for family, about in FAMILIES.items() if set(QUICK_NAMES) & set(about.architectures)
    }
    assert compared == {*FAMILIES} - {*parity.NO_PEER}


@pytest.mark.slow
@pytest.mark.parametrize("name", names(QUICK_NAMES))
def test_names_and_shapes_are_the_peers(name):
    assert parity.key_differences(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", names(QUICK_NUMBERS))
def test_numbers_equal_the_peers(name):
    """Logits, stages, gradient, statistics and export, to what `experiments.parity` allows."""
    row = parity.compare(name)
    assert row["export_is_bit_equal"]
    assert row["passed"], row


@pytest.mark.slow
@pytest.mark.parametrize("name", names(("test_resnet",), of=FLOAT64))
def test_gradients_equal_the_peers_in_float64(name):
    with layers.convolution_form("general"):
        assert parity.float64_gradient_error(name) <= TOLERANCE_FLOAT64


def test_a_wrong_network_fails():
    """Other padding than the peer's: every shape is right, and no number."""
    pair = PAIRS["efficientnet"]
    network, x = settled_peer(pair)
    wrong = pair.network.clone(padding="same")
    with layers.convolution_form("general"):
        errors, exported = parity.compare_networks(pair.architecture, wrong, network, x)
    assert exported
    assert errors["classifier"] > 0.01
    assert min(errors[stage] for stage in pair.architecture.stages) > 0.05


@pytest.mark.slow
def test_three_training_steps_equal_timms():
    """SGD with momentum in training mode; all parameters and statistics to 1e-4."""
    pair, rate, momentum = PAIRS["resnet"], 0.1, 0.9
    labels = [[1, 2], [4, 0], [3, 1]]
    network, images = settled_peer(pair)
    start = copy.deepcopy(network.state_dict())
    variables = from_state_dict(pair.network, network.state_dict())
    ours = train_ours(pair.network, variables, images, labels, optax.sgd(rate, momentum))

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
    model: Network,
    variables: dict,
    images: torch.Tensor,
    labels: list[list[int]],
    tx: optax.GradientTransformation,
) -> dict[str, np.ndarray]:
    """Trains a network, one step for each list of labels, and returns the state dict."""
    x = jnp.asarray(parity.channels_last(images))
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

"""Every architecture against timm: logits, features, gradients, statistics, export, training.

Each comparison is made in float32, to 1e-5, and on smaller images in float64, to 1e-10.

The gradient of a network with ReLUs is compared tightly in float64 only. In float32 rounding
pushes a few of the millions of pre-activations across zero, and each moves the gradient by 1e-4 to
1e-2: timm's own float32 gradient is 3e-4 from its float64 one for `resnet50`.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from experiments.torch_peer import import_timm
from tl_jax import trees
from tl_jax.models.efficientnet import ARCHITECTURES as EFFICIENTNETS
from tl_jax.models.features import features
from tl_jax.models.network import Network
from tl_jax.models.resnet import ARCHITECTURES as RESNETS
from tl_jax.models.vgg import ARCHITECTURES as VGGS
from tl_jax.weights.state_dict import from_state_dict, to_state_dict, torch_key

timm = import_timm()

ARCHITECTURES = {**RESNETS, **VGGS, **EFFICIENTNETS}
QUICK = (
    "resnet18",
    "resnet50",
    "vgg11_bn",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
)
CLASSES = 11
SIZE = (97, 131)
# XLA's float64 convolutions on CPUs are slow.
SIZE_FLOAT64 = (35, 45)
TOLERANCE = 1e-5
TOLERANCE_FLOAT64 = 1e-10
# For the input gradient in float32 where the activation has kinks; see above.
TOLERANCE_KINKS = 0.05


def names() -> list:
    """Returns all architectures; those outside of QUICK run with `make test-full` only."""
    return [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.full)
        for name in ARCHITECTURES
    ]


def build(name: str, *, num_classes: int = CLASSES, dtype: Any = jnp.float32) -> Network:
    return ARCHITECTURES[name].build(
        num_classes=num_classes,
        global_pool="avg",
        drop_rate=0.0,
        drop_path_rate=0.0,
        dtype=dtype,
    )


@functools.cache
def images(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))


@functools.cache
def projection() -> torch.Tensor:
    return torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(2))


def channels_last(value: torch.Tensor) -> np.ndarray:
    value = value.detach()
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy()


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns ||ours - theirs|| / ||theirs||."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@functools.lru_cache(maxsize=1)
def peer(name: str) -> torch.nn.Module:
    """Returns timm's network in evaluation mode, with nothing left at its initial value.

    Like a trained network it is well conditioned: BatchNorm's statistics fit what it sees, no
    variance is tiny, and its biases are larger than what varies, so that some units are cut at 0,
    some at 6 and most at neither. Independent random values would let the activations grow or
    fade, and amplify rounding errors a hundred times.
    """
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=CLASSES)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.1)
        for norm in norms:
            norm.weight.uniform_(0.2, 0.6)
            norm.bias.normal_(0.5, 2.0)
        network.get_classifier().weight.normal_(0, 0.05)
        network.get_classifier().bias.normal_(0, 0.5)
        hooks = [norm.register_forward_pre_hook(_fit_statistics) for norm in norms]
        network.eval()(images())
    for hook in hooks:
        hook.remove()
    return network


def _fit_statistics(norm: torch.nn.BatchNorm2d, args: tuple[torch.Tensor]) -> None:
    """Sets running statistics to about, but not exactly, those of what the layer gets."""
    mean, var = args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))
    norm.running_mean.copy_(mean + 0.2 * var.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_((var + 0.3 * mean**2) * torch.empty_like(mean).uniform_(0.6, 1.6))


def torch_outputs(name: str, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns what timm computes: features by module, gradient, training logits, statistics."""
    network, x = copy.deepcopy(peer(name)).to(x.dtype), x.clone()
    outputs = {}

    def keep(module: torch.nn.Module, args: Any, output: torch.Tensor, *, at: str) -> None:
        outputs[at] = channels_last(output.clone())

    hooks = [
        network.get_submodule(at).register_forward_hook(functools.partial(keep, at=at))
        for at in outputs_of(name)
    ]
    (network(x.requires_grad_()) * projection().to(x.dtype)).sum().backward()
    outputs["gradient"] = channels_last(x.grad)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        outputs["pooled"] = channels_last(
            network.forward_head(network.forward_features(x), pre_logits=True)
        )
        outputs["training logits"] = channels_last(network.train()(x))
    return outputs | {k: v.numpy() for k, v in network.state_dict().items() if "running" in k}


def outputs_of(name: str) -> tuple[str, ...]:
    return (*ARCHITECTURES[name].stages, ARCHITECTURES[name].classifier)


def our_outputs(name: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns the same as `torch_outputs`, by this library."""
    dtype = channels_last(images).dtype
    model, headless = build(name, dtype=dtype), build(name, num_classes=0, dtype=dtype)
    variables = from_state_dict(model, peer(name).state_dict())
    variables, x, weights = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype),
        (variables, channels_last(images), projection().numpy()),
    )

    def scalar(x: jax.Array, variables: Mapping[str, Any]) -> tuple[jax.Array, dict]:
        outputs = features(model, variables, x, outputs_of(name))
        return jnp.sum(outputs[model.classifier] * weights), outputs

    @jax.jit
    def run(variables: Mapping[str, Any], x: jax.Array) -> dict[str, Any]:
        gradient, outputs = jax.grad(scalar, has_aux=True)(x, variables)
        body = {"params": trees.split(variables["params"], _outside(model.classifier))[0]}
        pooled = headless.apply(variables | body, x)
        logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return outputs | {
            "gradient": gradient, "pooled": pooled, "training logits": logits, "updated": updated
        }  # fmt: skip

    outputs = run(variables, x)
    updated = to_state_dict(outputs.pop("updated"))
    return outputs | {key: value for key, value in updated.items() if "running" in key}


def _outside(prefix: str) -> Any:
    return lambda name: not trees.is_under(name, prefix)


def errors(ours: dict[str, Any], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    return {key: relative_error(ours[key], theirs[key]) for key in theirs}


@pytest.mark.parametrize("name", names())
def test_outputs_equal_timms_in_float32(name):
    found = errors(our_outputs(name, images()), torch_outputs(name, images()))
    smooth = "efficientnet_b" in name
    assert found.pop("gradient") <= (TOLERANCE if smooth else TOLERANCE_KINKS)
    assert max(found.values()) <= TOLERANCE, max(found, key=found.get)


@pytest.mark.parametrize("name", names())
def test_outputs_equal_timms_in_float64(name):
    x = images(SIZE_FLOAT64).double()
    with jax.enable_x64(True):
        found = errors(our_outputs(name, x), torch_outputs(name, x))
    assert max(found.values()) <= TOLERANCE_FLOAT64, max(found, key=found.get)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keys_shapes_and_stages_are_timms(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=CLASSES)
    theirs = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    shapes = jax.eval_shape(build(name).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    ours = {
        torch_key(path): torch_shape(path, leaf.shape)
        for path, leaf in trees.flatten(shapes).items()
    }
    assert ours == {key: shape for key, shape in theirs.items() if "num_batches" not in key}
    assert list(ARCHITECTURES[name].stages) == [info["module"] for info in network.feature_info]
    assert ARCHITECTURES[name].classifier == network.default_cfg["classifier"]
    assert ARCHITECTURES[name].stem == network.default_cfg["first_conv"]


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], shape[-2], *shape[:-2]) if path[-1] == "kernel" else shape


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "tf_efficientnet_lite0"])
def test_export_is_bit_equal_and_loads_into_timm(name):
    theirs = peer(name).state_dict()
    exported = to_state_dict(from_state_dict(build(name), theirs))
    for key, value in theirs.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported[key], value.numpy(), strict=True)
    network = timm.create_model(name, num_classes=CLASSES)
    network.load_state_dict({k: torch.tensor(v) for k, v in exported.items()}, strict=True)


def test_three_training_steps_of_resnet18_equal_timms():
    """SGD with momentum in training mode; parameters and statistics to 1e-4."""
    name, rate, momentum = "resnet18", 0.1, 0.9
    labels = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    network, model = copy.deepcopy(peer(name)).train(), build(name)
    variables = from_state_dict(model, network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)
    tx = optax.sgd(rate, momentum)
    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)

    @jax.jit
    def step(params, batch_stats, opt_state, x, y):
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
        x = jnp.asarray(channels_last(images()))
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, x, jnp.asarray(y))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images()), torch.tensor(y)).backward()
        optimizer.step()

    ours = to_state_dict({"params": params, "batch_stats": batch_stats})
    start = peer(name).state_dict()
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            error, moved = (relative_error(a, value.detach()) for a in (ours[key], start[key]))
            assert error <= 1e-4, key
            assert error <= 0.05 * moved, f"{key} has hardly moved: {moved}"

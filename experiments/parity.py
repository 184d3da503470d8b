"""Compares every architecture with its peer in torch, and writes the errors.

    python -m experiments.parity ['resnet*' ...] [--redo] [--keys] [--list]

For each architecture that matches a pattern (all, without one) it builds the peer with seeded
random weights and statistics, converts them, and compares, on two images of an odd size,

- the logits and the features of every stage,
- the gradient of a weighted sum of the logits with respect to the stem's kernel,
- the logits and the running statistics of one forward pass in training mode,
- the export: bit-equal, and taken by the peer with `strict=True`.

The rows go to `experiments/results/parity/FAMILY.jsonl`, one line per architecture. Architectures
that have passed are skipped unless `--redo` is given; those that have failed are compared again. A
Markdown table of all rows is written to the same folder, and the table of the families to
`docs/architectures.md`. `--keys` compares only names and shapes, of the variables, stem, classifier
and stages, which needs no computation. `--list` renders the tables again and compares nothing.

In float32 convolutions take the form that accelerators run, which compiles faster; the tests
compare the form for CPUs with the same peers.

The errors are relative, ||a - b|| / ||b||, in float32. Where a network's gradient passes through
many ReLUs, rounding moves a few of the millions of pre-activations across zero, and each changes
the gradient. Where the error exceeds the limit, the gradient is compared in float64.
"""

import argparse
import datetime
import fnmatch
import functools
import gc
import importlib.metadata
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments import parity_table
from experiments.torch_peer import create_peer, random_images, settle
from tl_jax import messages, trees
from tl_jax.models import layers, registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network
from tl_jax.models.outputs import logits_and_features
from tl_jax.models.variables import abstract_variables, from_state_dict, slots_of
from tl_jax.weights import index
from tl_jax.weights.state_dict import to_state_dict

CLASSES = 11
BATCH = 2
# Odd on the way down in one direction and even in the other, where "same" padding is lopsided.
SIZE = (97, 124)
SIZE_FLOAT64 = (33, 60)
# timm's networks that subsample by averages add maps that fit each other at few sizes only.
AVERAGING = ("resnetaa*", "seresnetaa*", "seresnextaa*")
SIZE_AVERAGING = (97, 129)
# These take no image as small as SIZE_FLOAT64.
LARGE_INPUT = ("inception_*", "torchvision/alexnet")
DEEP = 100
TOLERANCE, TOLERANCE_DEEP, TOLERANCE_GRADIENT = 1e-5, 1e-4, 1e-3
# In training mode BatchNorm amplifies rounding errors in channels with few values: two, in
# MobileNetV4's pooled map.
TOLERANCE_TRAINING = 1e-4
# There are at most four copies of the parameters: the peer's, converted, exported, and in XLA's
# layout. In float64 each counts twice.
COPIES, COPIES_FLOAT64, ROOM_GIB, MEMORY_GIB = 4, 8, 2.0, 24.0
NO_PEER = {
    "simple_cnn": "a network of this library's own; its tests compare it with torch's layers"
}
PACKAGES = ("jax", "flax", "torch", "torchvision", "timm")


# Every program runs once or twice: LLVM's optimisations would cost more than they save.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class TooLargeError(Exception):
    """A comparison needs more memory than is allowed; the message says how much."""


def compare(name: str) -> dict[str, Any]:
    """Compares one architecture with its peer and returns its row.

    Raises:
      ValueError: if the weights do not fit.
    """
    size = image_size(name)
    network = make_peer(name, size)
    architecture, x = registry.architecture(name), random_images(size, BATCH)
    about = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "layers": count_layers(network),
    }
    with layers.convolution_form("general"):
        relative_errors, exported = compare_networks(architecture, build(name), network, x)
    deep = about["layers"] > DEEP
    return {"name": name} | about | summarise(name, relative_errors, exported, deep=deep)


def compare_networks(
    architecture: Architecture, model: Network, network: torch.nn.Module, x: torch.Tensor
) -> tuple[dict[str, float], bool]:
    """Compares a network with its peer, in float32.

    Args:
      architecture: names of classifier, stem and stages.
      model: ours.
      network: the peer in evaluation mode; it is left in training mode.
      x: images [B, C, H, W].

    Returns:
      The relative error of each output, and whether the export is bit-equal.
    """
    state_dict = network.state_dict()
    theirs = torch_outputs(network, architecture, x)
    variables = from_state_dict(model, state_dict)
    exported = check_export(network, variables, state_dict)
    return errors(our_outputs(model, architecture, variables, x), theirs), exported


def summarise(name: str, errors: dict[str, float], exported: bool, *, deep: bool) -> dict[str, Any]:
    """Returns the part of a row that holds the errors and whether they are allowed."""
    architecture = registry.architecture(name)
    statistics = [error for key, error in errors.items() if "running" in key]
    row = {
        "logits": errors[architecture.classifier],
        "stages": {stage: errors[stage] for stage in architecture.stages},
        "training_logits": errors["training logits"],
        "statistics": max(statistics, default=None),
        "gradient": errors["gradient"],
        "gradient_in": "float32",
        "export_is_bit_equal": exported,
    }
    if row["gradient"] > TOLERANCE_GRADIENT:
        needed = memory_needed(name, COPIES_FLOAT64)
        if needed > MEMORY_GIB:
            raise TooLargeError(
                f"in float64, which comparing its gradient takes ({row['gradient']:.1e} in "
                f"float32), it needs about {needed:.0f} GiB of memory, more than "
                f"{MEMORY_GIB:.0f}; logits {row['logits']:.1e}, stages "
                f"{max(row['stages'].values()):.1e}"
            )
        row |= {"gradient": float64_gradient_error(name), "gradient_in": "float64"}
    limit = TOLERANCE_DEEP if deep else TOLERANCE
    passed = (
        max(row["logits"], row["statistics"] or 0.0, *row["stages"].values()) <= limit
        and row["training_logits"] <= TOLERANCE_TRAINING
        and row["gradient"] <= TOLERANCE_GRADIENT
        and exported
    )
    return row | {"passed": passed}


def build(name: str, *, dtype: Any = jnp.float32) -> Network:
    """Makes our network of an architecture."""
    return registry.create_model(name, num_classes=CLASSES, dtype=dtype)


def image_size(name: str, *, small: bool = False) -> tuple[int, int]:
    """Returns the height and width that an architecture is compared on, in pixels."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in AVERAGING):
        return SIZE_AVERAGING
    large = any(fnmatch.fnmatchcase(name, pattern) for pattern in LARGE_INPUT)
    return SIZE_FLOAT64 if small and not large else SIZE


def make_peer(name: str, size: tuple[int, int]) -> torch.nn.Module:
    """Makes the peer with seeded weights and statistics, in evaluation mode."""
    torch.manual_seed(0)
    network = create_peer(name, CLASSES)
    settle(network, registry.architecture(name).classifier, random_images(size, BATCH))
    return network


def count_layers(network: torch.nn.Module) -> int:
    """Counts a network's layers with kernels."""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    return sum(isinstance(module, kinds) for module in network.modules())


def projection(num_classes: int) -> torch.Tensor:
    """Returns the weights of the logits in the scalar that is differentiated."""
    return torch.randn(BATCH, num_classes, generator=torch.Generator().manual_seed(2))


def channels_last(value: torch.Tensor) -> np.ndarray:
    """Returns a feature map, or anything else as it is, in our layout."""
    value = value.detach()
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy()


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns ||ours - theirs|| / ||theirs||."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"the shapes differ: ours is {ours.shape}, the peer's {theirs.shape}")
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def errors(ours: Mapping[str, Any], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the relative error of each output.

    Raises:
      ValueError: if an output is missing on one side, or has another shape; it names the output.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"only one side has {sorted(ours.keys() ^ theirs.keys())}")
    relative_errors = {}
    for key in theirs:
        try:
            relative_errors[key] = relative_error(ours[key], theirs[key])
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    return relative_errors


def torch_outputs(
    network: torch.nn.Module, architecture: Architecture, x: torch.Tensor
) -> dict[str, np.ndarray]:
    """Returns the peer's outputs; it is left in training mode, with its statistics unchanged."""
    outputs: dict[str, np.ndarray] = {}

    def keep(module: torch.nn.Module, args: Any, output: torch.Tensor, *, at: str) -> None:
        outputs[at] = channels_last(output.clone())

    hooks = [
        network.get_submodule(at).register_forward_hook(functools.partial(keep, at=at))
        for at in architecture.stages
    ]
    kernel = network.requires_grad_(False).get_submodule(architecture.stem).weight
    kernel.requires_grad_()
    logits = network(x)
    (logits * projection(logits.shape[1]).to(x.dtype)).sum().backward()
    for hook in hooks:
        hook.remove()
    outputs[architecture.classifier] = logits.detach().numpy()
    outputs["gradient"] = kernel.grad.permute(2, 3, 1, 0).numpy()
    return outputs | training_outputs(network, x)


def training_outputs(network: torch.nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns logits and new statistics of the peer in training mode; restores the old ones."""
    before = {key: value.clone() for key, value in network.named_buffers() if "running" in key}
    with torch.no_grad():
        logits = network.train()(x)
        after = {key: value.numpy().copy() for key, value in network.named_buffers()}
        for key, value in network.named_buffers():
            if key in before:
                value.copy_(before[key])
    statistics = {key: value for key, value in after.items() if key in before}
    return {"training logits": logits.numpy()} | statistics


def our_outputs(
    model: Network, architecture: Architecture, variables: Mapping[str, Any], x: torch.Tensor
) -> dict[str, np.ndarray]:
    """Returns the same as `torch_outputs`, by this library."""

    @_jit
    def run(variables: Any, images: jax.Array) -> dict[str, Any]:
        gradient, outputs = stem_gradient(model, architecture, variables, images)
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return outputs | {"gradient": gradient, "training logits": logits, "updated": updated}

    outputs = run(variables, jnp.asarray(channels_last(x)))
    return outputs | to_state_dict(outputs.pop("updated"))


def stem_gradient(
    model: Network, architecture: Architecture, variables: Mapping[str, Any], images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the gradient of the scalar with respect to the stem's kernel, logits and stages."""
    params, stem = variables["params"], architecture.stem
    weights = jnp.asarray(projection(model.num_classes).numpy(), images.dtype)

    def scalar(kernel: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        changed = {**variables, "params": trees.with_layer_leaves(params, stem, {"kernel": kernel})}
        logits, maps = logits_and_features(model, changed, images, architecture.stages)
        return jnp.sum(logits * weights), maps | {architecture.classifier: logits}

    return jax.grad(scalar, has_aux=True)(trees.layer_leaves(params, stem)["kernel"])


def check_export(
    network: torch.nn.Module, variables: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]
) -> bool:
    """Returns whether the exported weights are bit-equal to the peer's; loads them strictly."""
    exported = {key: torch.from_numpy(v) for key, v in to_state_dict(variables).items()}
    same = all(
        torch.equal(exported[key], value)
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked")
    )
    network.load_state_dict(exported, strict=True)
    return same


def float64_gradient_error(name: str) -> float:
    """Returns the error of the stem's gradient in float64, on smaller images."""
    size = image_size(name, small=True)
    network = make_peer(name, size).double()
    x = random_images(size, BATCH).double()
    architecture = registry.architecture(name)
    theirs = torch_outputs(network, architecture, x)
    with jax.enable_x64(True):
        model = build(name, dtype=jnp.float64)
        variables = from_state_dict(model, network.state_dict())
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        gradient = _jit(lambda v, images: stem_gradient(model, architecture, v, images)[0])
        ours = gradient(variables, jnp.asarray(channels_last(x)))
    return relative_error(ours, theirs["gradient"])


def key_differences(name: str) -> list[str]:
    """Compares the names and shapes of an architecture with its peer's; computes nothing."""
    with torch.device("meta"):
        network = create_peer(name, CLASSES)
    theirs = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    ours = {slot.key: slot.torch_shape for slot in slots_of(build(name))}
    differences = [f"only ours: {key}" for key in ours.keys() - theirs.keys()]
    differences += [f"only the peer's: {key}" for key in theirs.keys() - ours.keys()]
    differences += [
        f"{key}: ours is {ours[key]}, the peer's {theirs[key]}"
        for key in ours.keys() & theirs.keys()
        if ours[key] != theirs[key]
    ]
    return sorted(differences) + _name_differences(name, network)


def _name_differences(name: str, network: torch.nn.Module) -> list[str]:
    """Compares the names of stem, classifier and stages with timm's."""
    if not hasattr(network, "default_cfg"):
        return []
    architecture, config = registry.architecture(name), network.default_cfg
    pairs = {
        "stem": (architecture.stem, config["first_conv"]),
        "classifier": (architecture.classifier, config["classifier"]),
        "stages": (
            list(architecture.stages),
            [info["module"] for info in network.feature_info],
        ),
    }
    return [f"{k}: ours is {a}, timm's {b}" for k, (a, b) in pairs.items() if a != b]


def row_of(name: str) -> dict[str, Any]:
    """Returns an architecture's row: its errors, why it failed, or why it was not compared."""
    start = time.perf_counter()
    needed = memory_needed(name)
    if name in NO_PEER:
        row = {"name": name, "not_compared": NO_PEER[name]}
    elif needed > MEMORY_GIB:
        reason = f"needs about {needed:.0f} GiB of memory, more than {MEMORY_GIB:.0f}"
        row = {"name": name, "not_compared": reason}
    else:
        try:
            row = compare(name)
        except TooLargeError as error:
            row = {"name": name, "not_compared": str(error)}
        except Exception as error:  # A failure becomes a row, and the others go on.
            traceback.print_exc()
            row = {"name": name, "passed": False, "error": f"{type(error).__name__}: {error}"}
    jax.clear_caches()
    gc.collect()
    return row | {
        "input": [BATCH, *image_size(name), 3],
        "seconds": round(time.perf_counter() - start, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def memory_needed(name: str, copies: int = COPIES) -> float:
    """Returns an estimate of the memory of a comparison, in GiB."""
    leaves = jax.tree.leaves(abstract_variables(build(name)))
    return copies * sum(4 * leaf.size for leaf in leaves) / 2**30 + ROOM_GIB


def selected(patterns: Sequence[str]) -> list[str]:
    """Returns the architectures that match any pattern, those with few parameters first.

    Raises:
      ValueError: if a pattern matches none.
    """
    names = list(registry.ARCHITECTURES)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no architecture matches {pattern!r}{messages.hint(pattern, names)}")
    matched = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    return sorted(matched, key=lambda name: (index.parameter_count(name), name))


def check_keys(names: Sequence[str]) -> bool:
    """Prints the differences of names and shapes, and returns whether there are none."""
    failed = 0
    for name in names:
        differences = [] if name in NO_PEER else key_differences(name)
        failed += bool(differences)
        for line in differences[:8]:
            print(f"{name}: {line}")
        if len(differences) > 8:
            print(f"{name}: and {len(differences) - 8} more")
    print(f"{len(names)} architectures, {failed} differ in names or shapes")
    return failed == 0


def check_numbers(names: Sequence[str], *, redo: bool) -> bool:
    """Compares, prints and writes rows, and returns whether all passed."""
    all_passed, earlier = True, parity_table.read_rows()
    for i, name in enumerate(names, start=1):
        row = earlier.get(name, {})
        if row.get("passed", "not_compared" in row) and not redo:
            continue
        row = row_of(name)
        parity_table.write_row(row)
        print(f"{i}/{len(names)} {parity_table.line(row)}", flush=True)
        all_passed &= row.get("passed", True)
    return all_passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit code: 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--redo", action="store_true", help="repeat what has passed, too")
    parser.add_argument("--keys", action="store_true", help="compare names and shapes only")
    parser.add_argument("--list", action="store_true", help="render the tables only")
    options = parser.parse_args(arguments)
    try:
        names = selected(options.patterns or ["*"])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.keys:
        return 0 if check_keys(names) else 1
    all_passed = options.list or check_numbers(names, redo=options.redo)
    print(parity_table.write())
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())

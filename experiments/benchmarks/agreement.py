"""Compares the logits, gradients and statistics of tl_jax's training step with torch's."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import torch

from experiments.benchmarks.programs import (
    NUM_CLASSES,
    Setting,
    complete,
    freeze_plan,
    make_batch,
    make_model,
)
from experiments.benchmarks.torch_sides import CHECKED_IMAGES, add_lora, parts
from tl_jax import messages, trees
from tl_jax.models.registry import create_model
from tl_jax.models.variables import from_state_dict
from tl_jax.training import state
from tl_jax.training.step import make_train_step
from tl_jax.transfer.peft.base import is_added
from tl_jax.weights.state_dict import to_state_dict

# Largest relative errors in float32. Rounding leaves 1e-6 in the logits of a ResNet-50, and up to
# 5e-4 in its gradients, because it moves a few pre-activations across the kink of a ReLU. With a
# BatchNorm epsilon of 1e-3 in place of 1e-5 it is 6e-4 and 3e-2 (in a ResNet-18 2e-4 and 8e-3).
LOGITS_TOLERANCE, GRADIENTS_TOLERANCE = 5e-5, 3e-3


def checked(setting: Setting, model: torch.nn.Module) -> tuple[Any, dict[str, Any]]:
    """Takes timm's weights, checks a step of both sides in float32, and adds LoRA to timm's.

    Args:
      setting: what is timed. Where it trains nothing, the head's step is compared.
      model: torch's network, on the CPU. In a full training its running statistics change.

    Returns:
      The variables of tl_jax's network, and the relative errors of the "logits" and of the
      "gradients", all taken together, with the parameter that adds most to the latter.

    Raises:
      RuntimeError: if an error is more than rounding; the message names it.
    """
    variables = from_timm(setting, model)
    mode = setting.mode if setting.trains else "head"
    ours = jax_outputs(dataclasses.replace(setting, device="cpu", mode=mode), variables)
    theirs = torch_outputs(dataclasses.replace(setting, mode=mode), model)
    if ours.gradients.keys() != theirs.gradients.keys():
        names = messages.some(sorted(ours.gradients.keys() ^ theirs.gradients.keys()))
        raise RuntimeError(f"only one of the two sides trains {names}; expected both to")
    found = errors(ours, theirs)
    for what, allowed in (("logits", LOGITS_TOLERANCE), ("gradients", GRADIENTS_TOLERANCE)):
        if not found[what] <= allowed:
            most = f" (most of all that of {found['worst_gradient']})" if what != "logits" else ""
            raise RuntimeError(
                f"the {what}{most} of tl_jax and torch differ by {found[what]:.1e} of their norm, "
                f"more than {allowed:.0e}: the two sides do not take the same step, and their "
                "times cannot be compared"
            )
    return variables, found


def from_timm(setting: Setting, model: torch.nn.Module) -> Any:
    """Returns timm's weights as tl_jax's variables, and gives timm's network LoRA's factors."""
    network = create_model(setting.model, num_classes=NUM_CLASSES)
    variables = from_state_dict(network, model.state_dict())
    if setting.mode == "lora":
        params = complete(make_model(setting), variables)["params"]
        add_lora(model, {trees.dotted(path): leaf for path, leaf in trees.flatten(params).items()})
    return variables


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a training step computes, in torch's names and layouts, float32.

    Attributes:
      logits: [B, C].
      gradients: of the trained parameters.
      statistics: BatchNorm's running mean and variance after the step.
    """

    logits: np.ndarray
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def jax_outputs(setting: Setting, variables: Any, precision: str | None = None) -> Outputs:
    """Returns what tl_jax's training step computes, in the type of the setting.

    Args:
      setting: on a "cpu" it computes in float32, on a "gpu" in bfloat16.
      variables: the network's, without LoRA's factors, on the device that computes.
      precision: of float32 products, as `jax.default_matmul_precision` names it.
    """
    model = make_model(setting)
    # This takes the place of an optimizer: its state after a step is the gradient.
    keep = optax.GradientTransformation(lambda params: params, lambda grads, *_: (grads, grads))
    whole = complete(model, variables)
    plan = freeze_plan(setting, model, whole["params"])
    step = make_train_step(
        model, keep, plan, augment_fn=lambda key, batch: batch["image"], seed_key=jax.random.key(0)
    )
    batch = {name: array[:CHECKED_IMAGES] for name, array in make_batch(setting).items()}

    @jax.jit
    def run(train_state: state.TrainState, batch: Any) -> tuple[jax.Array, Any, Any]:
        logits, _ = model.apply(
            train_state.variables,
            batch["image"],
            train=setting.mode == "full",
            mutable=["batch_stats"],
        )
        after, _ = step(train_state, batch)
        return logits, after.opt_state, after.batch_stats

    with jax.default_matmul_precision(precision):
        logits, gradients, statistics = run(state.create(whole, keep, plan), batch)
    plain, added = trees.split(gradients, lambda name: not is_added(name))
    in_rows = {
        trees.dotted(path): _rows(leaf) if path[-1] == "lora_a" else np.asarray(leaf)
        for path, leaf in trees.flatten(added).items()
    }
    named = to_state_dict({"params": plain}) | in_rows
    changed = to_state_dict({"batch_stats": statistics}) if setting.mode == "full" else {}
    return Outputs(np.asarray(logits, np.float32), named, changed)


def torch_outputs(
    setting: Setting, model: torch.nn.Module, device: str = "cpu", *, bfloat16: bool = False
) -> Outputs:
    """Returns what torch computes eagerly on a device ("cpu" or "cuda"), in float32 or autocast."""
    forward, _ = parts(model.to(device), setting.mode)
    model.zero_grad()
    batch = {name: array[:CHECKED_IMAGES] for name, array in make_batch(setting).items()}
    images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(device)
    labels = torch.from_numpy(batch["label"]).to(device, torch.int64)
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    gradients = {
        name.replace(".parametrizations.weight.0", ""): parameter.grad.float().cpu().numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    statistics = {
        name: value.cpu().numpy()
        for name, value in model.state_dict().items()
        if name.endswith(("running_mean", "running_var")) and setting.mode == "full"
    }
    return Outputs(logits.detach().float().cpu().numpy(), gradients, statistics)


def _rows(lora_a: Any) -> np.ndarray:
    """Returns the factor as `torch_sides.LoRA` holds it."""
    return np.moveaxis(np.asarray(lora_a), -2, 0).reshape(-1, lora_a.shape[-1])


def errors(ours: Outputs, reference: Outputs) -> dict[str, Any]:
    """Returns the relative errors of logits, gradients and statistics, and the worst gradient."""
    found: dict[str, Any] = {"logits": relative_error([ours.logits], [reference.logits])}
    expected = reference.gradients
    found["gradients"] = _error(ours.gradients, expected)
    found["worst_gradient"] = max(
        expected, key=lambda name: float(np.linalg.norm(ours.gradients[name] - expected[name]))
    )
    if reference.statistics:
        found["statistics"] = _error(ours.statistics, reference.statistics)
    return found


def errors_by_group(ours: Outputs, reference: Outputs) -> dict[str, float]:
    """Returns the relative errors of the gradients by layer group, the first part of the names.

    Groups of blocks ("stages.0") count as one each.
    """
    grouped: dict[str, list[str]] = {}
    for name in reference.gradients:
        first, *rest = name.split(".")
        group = f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
        grouped.setdefault(group, []).append(name)
    return {
        group: relative_error(
            [ours.gradients[name] for name in names], [reference.gradients[name] for name in names]
        )
        for group, names in grouped.items()
    }


def _error(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    return relative_error([ours[name] for name in reference], list(reference.values()))


def relative_error(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Returns ||ours - theirs|| / ||theirs|| over several arrays."""
    differences = [np.linalg.norm(a - b) for a, b in zip(ours, theirs, strict=True)]
    return float(np.linalg.norm(differences) / np.linalg.norm([np.linalg.norm(b) for b in theirs]))

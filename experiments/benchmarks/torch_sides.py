"""The peer of tl_jax's programs: timm's networks in torch, set up to run as fast as they do.

Everything is in channels_last, torch's fastest layout. On a GPU the network is compiled, computes
under autocast in bfloat16, and SGD is fused; on a CPU torch runs eagerly in float32. Where the
backbone is frozen torch is set up to do what tl_jax does by itself: the backbone is in `eval()` and
under `no_grad`, and the optimizer has what is trained alone.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from experiments.benchmarks.programs import (
    LEARNING_RATE,
    MOMENTUM,
    NUM_CLASSES,
    Setting,
    make_batch,
)
from experiments.torch_peer import import_timm, settle
from tl_jax.models.registry import architecture

CHECKED_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class TorchOptions:
    """How torch runs.

    Attributes:
      backend: of `torch.compile`; None runs eagerly.
      fuse: fold BatchNorm into convolutions where the backbone is frozen or nothing is trained.
    """

    backend: str | None = None
    fuse: bool = False


class LoRA(torch.nn.Module):
    """tl_jax's LoRA of a kernel in torch: the kernel plus a product of two factors."""

    def __init__(self, lora_a: np.ndarray, lora_b: np.ndarray) -> None:
        super().__init__()
        # [h, w, I, r] or [I, r] -> [I * h * w, r], the order of torch's kernels [O, I, h, w].
        rows = np.moveaxis(lora_a, -2, 0).reshape(-1, lora_a.shape[-1])
        self.lora_a = torch.nn.Parameter(torch.from_numpy(rows.copy()))
        self.lora_b = torch.nn.Parameter(torch.from_numpy(np.array(lora_b)))

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        """Returns the adapted kernel."""
        return kernel + (self.lora_a @ self.lora_b).T.reshape(kernel.shape)


def timm_model(setting: Setting) -> torch.nn.Module:
    """Returns timm's network with random weights, always the same.

    They are drawn so that every layer has a part in the output: a fresh ResNet multiplies its
    branches by zero, which would hide errors in them.
    """
    torch.manual_seed(0)
    model = import_timm().create_model(setting.model, num_classes=NUM_CLASSES)
    images = torch.from_numpy(make_batch(setting)["image"][:CHECKED_IMAGES])
    settle(model, architecture(setting.model).classifier, images.permute(0, 3, 1, 2))
    return model


def add_lora(model: torch.nn.Module, params: dict[str, Any]) -> None:
    """Gives timm's network the factors among tl_jax's parameters, "layer1.0.conv1.lora_a"."""
    for name, leaf in params.items():
        layer, _, kind = name.rpartition(".")
        if kind == "lora_a":
            factors = LoRA(np.asarray(leaf), np.asarray(params[f"{layer}.lora_b"]))
            parametrize.register_parametrization(model.get_submodule(layer), "weight", factors)


def parts(
    model: torch.nn.Module, mode: str
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.nn.Parameter]]:
    """Returns the forward pass, and the parameters to train."""
    if mode == "full":
        return model.train(), list(model.parameters())
    model.eval().requires_grad_(False)
    if mode not in ("head", "lora"):
        return model, []
    head = model.get_classifier().requires_grad_(True)
    if mode == "lora":
        factors = [m.requires_grad_(True) for m in model.modules() if isinstance(m, LoRA)]
        trained = [p for module in (*factors, head) for p in module.parameters()]
        return model, trained

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        return head(pooled)

    return forward, list(head.parameters())


def make_run(
    setting: Setting, model: torch.nn.Module, options: TorchOptions
) -> Callable[[int], float]:
    """Returns `run(steps)`, which waits for the last step and returns its loss or a sum.

    The network is moved to the device, trained, and in part replaced by a fused copy.
    """
    gpu = setting.device == "gpu"
    device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
    batch = make_batch(setting)
    images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
    if options.fuse and setting.mode in ("head", "forward", "evaluation"):
        model = fused(model, images[:2])
    model = model.to(device=device, memory_format=torch.channels_last)
    forward, parameters = parts(model, setting.mode)
    if options.backend is not None:
        forward = torch.compile(forward, backend=options.backend, dynamic=False)
    x = images.to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(batch["label"]).to(device, torch.int64)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=gpu)
    if setting.trains:
        step = _training_step(forward, parameters, autocast, fused_sgd=device.type == "cuda")
    else:
        step = _forward_step(forward, autocast, evaluates=setting.mode == "evaluation")

    def run(steps: int) -> float:
        for _ in range(steps):
            result = step(x, y)
        return result.item()  # Waits for the device.

    return run


def _training_step(
    forward: Any, parameters: list[torch.nn.Parameter], autocast: Any, *, fused_sgd: bool
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=fused_sgd)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with autocast:
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _forward_step(
    forward: Any, autocast: Any, *, evaluates: bool
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    @torch.no_grad()
    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with autocast:
            logits = forward(x)
        if not evaluates:
            return logits[0, 0]
        loss = torch.nn.functional.cross_entropy(logits.float(), y, reduction="sum")
        return loss + 0 * logits.argmax(1).sum()

    return step


@torch.no_grad()
def fused(model: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """Returns a copy in which every BatchNorm right after a convolution is folded into it.

    Args:
      model: timm's network, on the CPU; the copy is in evaluation mode.
      images: [B, 3, H, W], with which the pairs are found.
    """
    model = copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    convs: list[tuple[torch.Tensor, torch.nn.Module]] = []
    pairs = []

    def after_conv(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        convs.append((output, module))

    def before_norm(module: torch.nn.Module, args: Any) -> None:
        pairs.extend((conv, module) for output, conv in convs if output is args[0])

    hooks = []
    for module in names:
        if isinstance(module, torch.nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, torch.nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    model(images)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        model.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        # timm's BatchNormAct2d holds the activation that follows it.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        model.set_submodule(names[norm], torch.nn.Sequential(*rest))
    return model

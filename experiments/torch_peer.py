"""The reference networks: timm's and torchvision's in torch, prepared for comparisons."""

import functools
import sys
from types import ModuleType

import torch

# torchvision registers the shapes of these operators when it is imported. Its compiled part, which
# defines them, is built for one release of torch and does not load with another.
_OPERATORS = ("nms", "qnms")
_SCHEMA = "{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# A torch.library.Library drops its schemas when it is collected.
_LIBRARIES: list[torch.library.Library] = []
_TORCHVISION = "torchvision/"
# timm sets these only together with pretrained weights, which is the network that users get.
_AS_PRETRAINED = {"fbnetc_100": {"bn_eps": 1e-3}}


def import_timm() -> ModuleType:
    """Imports timm, also where torchvision's compiled operators are missing."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Defined only now: where torchvision works, a second definition aborts the process.
        library = torch.library.Library("torchvision", "DEF")
        for op in _OPERATORS:
            library.define(_SCHEMA.format(op=op))
        _LIBRARIES.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    import timm

    return timm


def is_torchvision(name: str) -> bool:
    """Returns whether an architecture's reference network is torchvision's."""
    return name.startswith(_TORCHVISION)


def torchvision_name(name: str) -> str:
    """Returns torchvision's name of an architecture."""
    return name.removeprefix(_TORCHVISION)


def create_peer(name: str, num_classes: int) -> torch.nn.Module:
    """Makes the reference network of an architecture's name, with torch's or timm's fresh weights.

    Dropout and stochastic depth are off, so that outputs in training mode can be compared.

    Args:
      name: timm's, or `"torchvision/"` and torchvision's.
      num_classes: size of the classifier.
    """
    timm = import_timm()
    if is_torchvision(name):
        network = _torchvision_network(torchvision_name(name), num_classes)
    else:
        network = timm.create_model(name, num_classes=num_classes, **_AS_PRETRAINED.get(name, {}))
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for field in ("drop_rate", "drop_path_rate", "drop_prob"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 0.0)
    return network


def _torchvision_network(name: str, num_classes: int) -> torch.nn.Module:
    from torchvision.models import get_model

    if name == "googlenet":
        return get_model(name, num_classes=num_classes, aux_logits=False, init_weights=False)
    return get_model(name, num_classes=num_classes)


def settle(network: torch.nn.Module, classifier: str, images: torch.Tensor) -> None:
    """Draws the parameters and statistics that are constant in a fresh network.

    The network is then well conditioned, like a trained one: running statistics fit the inputs of
    their layers, and biases are of the size of the deviations, so that activations cut many
    channels in part, at 0 or at 6, and hardly any completely. With independent random values the
    activations would grow or vanish, normalising channels that hardly vary would multiply rounding
    errors a hundred times, and large biases would hide differences.

    Args:
      network: in torch; it is in evaluation mode afterwards.
      classifier: dotted name of its last layer.
      images: [B, C, H, W], to which the statistics are fitted.
    """
    hooks = []
    with torch.no_grad():
        for name, module in network.named_modules():
            for field, value in module.named_parameters(recurse=False):
                _draw(module, field, value)
            if getattr(module, "running_var", None) is not None:
                hooks.append(module.register_forward_pre_hook(_fit_statistics))
            if name == classifier:
                module.weight.normal_(0, 0.05)
                module.bias.normal_(0, 0.5)
        network.eval()(images)
    for hook in hooks:
        hook.remove()


def _draw(module: torch.nn.Module, field: str, value: torch.Tensor) -> None:
    """Draws a parameter by its kind: kernels stay as they are, the rest becomes random."""
    is_norm = getattr(module, "weight", None) is not None and module.weight.ndim == 1
    if field == "bias":
        value.normal_(0, 0.1)
        if is_norm:
            # One in eight near 6, for activations that end there.
            value.uniform_(-0.5, 2.0).add_(4.0 * torch.bernoulli(torch.full_like(value, 0.125)))
    elif field == "weight" and is_norm:
        value.uniform_(0.5, 1.0)
    elif value.ndim <= 1 or value.numel() == max(value.shape):
        value.uniform_(0.3, 0.9)


def _fit_statistics(norm: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
    """Sets running statistics close to, but not equal to, those of the layer's input."""
    mean, var = args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))
    # A channel that hardly varies would be scaled up, and its rounding errors with it.
    var = var + 0.1 * var.mean()
    if getattr(norm, "running_mean", None) is not None:
        norm.running_mean.copy_(mean + 0.2 * var.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_((var + 0.3 * mean**2) * torch.empty_like(mean).uniform_(0.6, 1.6))


@functools.cache
def random_images(size: tuple[int, int], batch: int) -> torch.Tensor:
    """Returns the images [batch, 3, H, W] that comparisons are made with."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))

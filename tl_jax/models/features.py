"""Intermediate outputs of a network by the dotted names of its modules."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from tl_jax import messages, trees


def features(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, at: Sequence[str]
) -> dict[str, jax.Array]:
    """Evaluates a network and returns the outputs of some of its modules.

    It is a pure function and may be jitted; layers behind the last one asked for then cost
    nothing.

    Args:
      model: a network of `create_model`.
      variables: its params and batch_stats.
      images: [B, H, W, 3], normalised.
      at: dotted names of modules; `architecture(name).stages` lists those of the stages.

    Returns:
      The outputs by name, in the order of `at`; feature maps are [B, h, w, C].

    Raises:
      ValueError: if a name is not that of a module; it names the nearest.

    Example:
      >>> maps = features(model, variables, images, at=["layer2", "layer4"])
      >>> maps["layer4"].shape
      (2, 4, 5, 512)
    """
    return logits_and_features(model, variables, images, at)[1]


def logits_and_features(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, at: Sequence[str]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what a network returns and, as `features` does, the outputs of some modules."""
    wanted = set(at)
    _check_names(wanted, module_names(model, variables, images))

    def keep(module: nn.Module, method: str) -> bool:
        return method == "__call__" and trees.dotted(module.path) in wanted

    logits, captured = model.apply(variables, images, capture_intermediates=keep)
    found = _outputs(captured)
    return logits, {name: found[name] for name in at}


def module_names(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> tuple[str, ...]:
    """Returns the dotted names of all modules of a network, without computing anything."""

    def run(variables: Mapping[str, Any], images: jax.Array) -> Any:
        return model.apply(variables, images, capture_intermediates=True)[1]

    return tuple(_outputs(jax.eval_shape(run, variables, images)))


def _outputs(captured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the captured outputs of `__call__` by the module's dotted name."""
    flat = trees.flatten(captured.get("intermediates", {}))
    return {
        trees.dotted(path[:-1]): outputs[0]
        for path, outputs in flat.items()
        if path[-1] == "__call__" and len(path) > 1
    }


def _check_names(wanted: Iterable[str], known: Sequence[str]) -> None:
    for name in sorted(wanted):
        if name not in known:
            raise ValueError(f"the network has no module {name!r}{messages.hint(name, known)}")

"""Freeze plans: which parameters are trained, at whose rate, and which layers stand still."""

from collections.abc import Callable, Iterable
from typing import Any

from flax import linen as nn

from tl_jax import trees
from tl_jax.models import layers

FROZEN, HEAD, BACKBONE = "frozen", "head", "backbone"


def plan(params: trees.Tree, head: Iterable[str], *, train_backbone: bool) -> dict[str, Any]:
    """Labels every parameter "head", and "backbone" or "frozen".

    A plan is a tree of labels in the form of `params`. It decides for each parameter its
    gradient, optimizer state, rate, weight decay and place in the clip norm, and for each layer
    without a trained parameter that it stands still (`standing_still`).

    Args:
      params: the parameters.
      head: dotted names of the modules that are the head, such as `["fc"]`.
      train_backbone: whether the rest is trained ("backbone") or stands still ("frozen").

    Raises:
      ValueError: if a name of `head` matches no parameter.
    """
    rest = BACKBONE if train_backbone else FROZEN
    return trees.label(params, [(name, HEAD) for name in head] + [("*", rest)])


def split(plan: trees.Tree, params: trees.Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters, or anything of their form, into (trained, frozen) by a plan."""
    labels = {trees.dotted(path): label for path, label in trees.flatten(plan).items()}
    return trees.split(params, lambda name: labels[name] != FROZEN)


def standing_still(plan: trees.Tree) -> Callable[..., Any]:
    """Returns a Linen interceptor that puts every frozen layer in evaluation mode.

    BatchNorm uses and keeps its running statistics, Dropout and DropPath do nothing, wherever no
    parameter of the layer is trained; layers without parameters follow the module they are in.

    Example:
      >>> with nn.intercept_methods(standing_still(plan)):                   # doctest: +SKIP
      ...     logits = model.apply(variables, images, train=True)
    """
    trained, owners = _module_paths(plan)

    def intercept(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        if isinstance(module, layers.WITH_TRAINING_MODE) and context.method_name == "__call__":
            owner = next(path for path in _ancestry(module.path) if path in owners)
            kwargs = kwargs if owner in trained else {**kwargs, "train": False}
        return next_function(*args, **kwargs)

    return intercept


def _module_paths(plan: trees.Tree) -> tuple[set[trees.Path], set[trees.Path]]:
    """Returns the paths of the modules over a trained parameter, and over any parameter."""
    trained: set[trees.Path] = set()
    owners: set[trees.Path] = {()}
    for path, label in trees.flatten(plan).items():
        above = _ancestry(path[:-1])
        owners.update(above)
        if label != FROZEN:
            trained.update(above)
    return trained, owners


def _ancestry(path: trees.Path) -> list[trees.Path]:
    """Returns a path, its parent's, and so on to the root's."""
    return [path[:length] for length in range(len(path), -1, -1)]

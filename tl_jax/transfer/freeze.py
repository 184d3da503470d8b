"""Freeze plans: which parameters are trained, at whose rate, and which layers stand still."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.transfer import groups as grouping

FROZEN, HEAD, BACKBONE = "frozen", grouping.HEAD, grouping.BACKBONE
# BatchNorm of a trained group, by policy: whether its scale and bias are trained, and whether it
# normalises by the batch and updates its running statistics.
_TRAINS_AFFINE = {"update": True, "affine_only": True, "recalibrate": True, "frozen": False}
_UPDATES = {"update"}


def plan(params: trees.Tree, head: Iterable[str], *, train_backbone: bool) -> dict[str, Any]:
    """Labels every parameter "head", and "backbone" or "frozen": the plan of the commonest cases.

    Args:
      params: the parameters.
      head: dotted names of the modules that are the head, such as `["fc"]`.
      train_backbone: whether the rest is trained ("backbone") or stands still ("frozen").

    Raises:
      ValueError: if a name of `head` matches no parameter.
    """
    groups = grouping.by_head(params, head)
    return restrict(groups, grouping.select(groups, "all" if train_backbone else HEAD))


def restrict(groups: trees.Tree, trained: Collection[str]) -> dict[str, Any]:
    """Returns the plan that trains some parameters, each under its group's label.

    A plan is a tree of labels in the form of the parameters. It decides for each parameter its
    gradient, optimizer state, rate, weight decay and place in the clip norm, and for each layer
    without a trained parameter that it stands still (`standing_still`).

    Args:
      groups: labels of every parameter, such as those of `groups.by_depth`.
      trained: dotted names of the trained parameters, such as `groups.select` gives; the others
        are labelled "frozen".

    Example:
      >>> groups = by_depth(model, architecture("resnet50").stages)          # doctest: +SKIP
      >>> plan = restrict(groups, select(groups, "head+last:1"))             # doctest: +SKIP
    """
    return trees.unflatten({
        path: label if trees.dotted(path) in trained else FROZEN
        for path, label in trees.flatten(groups).items()
    })  # fmt: skip


def batch_norm(
    plan: trees.Tree, batch_stats: trees.Tree, policies: Mapping[str, str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Applies a policy to the BatchNorm layers of each trained group.

    Args:
      plan: labels.
      batch_stats: the running statistics, by which BatchNorm layers are told.
      policies: by label: "update", "affine_only", "recalibrate" or "frozen" (see
        `TransferConfig.batch_norm`). Frozen layers stand still whatever is said.

    Returns:
      The plan, in which scale and bias of a "frozen" BatchNorm are frozen, and the labels whose
      BatchNorm keeps its running statistics (for `standing_still`).

    Raises:
      ValueError: if a policy is unknown, or leaves nothing to train.
    """
    unknown = sorted(set(policies.values()) - _TRAINS_AFFINE.keys())
    if unknown:
        hint = messages.hint(unknown[0], _TRAINS_AFFINE)
        raise ValueError(f"unknown policy of BatchNorm {unknown[0]!r}{hint}")
    layers_with_statistics = {path[:-1] for path in trees.flatten(batch_stats)}
    labels = {}
    for path, label in trees.flatten(plan).items():
        fixed = path[:-1] in layers_with_statistics and label != FROZEN
        fixed = fixed and not _TRAINS_AFFINE[policies.get(label, "update")]
        labels[path] = FROZEN if fixed else label
    if set(labels.values()) == {FROZEN}:
        raise ValueError(
            "nothing is left to train: only BatchNorm is selected, and its policy is 'frozen'; "
            "take 'affine_only' or 'update'"
        )
    still = frozenset(label for label, policy in policies.items() if policy not in _UPDATES)
    return trees.unflatten(labels), still


def split(plan: trees.Tree, params: trees.Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters, or anything of their form, into (trained, frozen) by a plan."""
    labels = {trees.dotted(path): label for path, label in trees.flatten(plan).items()}
    return trees.split(params, lambda name: labels[name] != FROZEN)


def standing_still(plan: trees.Tree, still: Collection[str] = ()) -> layers.Interceptor:
    """Returns a Linen interceptor that puts every frozen layer in evaluation mode.

    BatchNorm uses and keeps its running statistics, Dropout and DropPath do nothing, wherever no
    parameter of the layer is trained; layers without parameters follow the module they are in.

    Args:
      plan: labels.
      still: labels whose BatchNorm uses and keeps its running statistics though scale and bias
        are trained.

    Example:
      >>> with nn.intercept_methods(standing_still(plan)):                   # doctest: +SKIP
      ...     logits = model.apply(variables, images, train=True)
    """
    labels_of = _labels_by_module(plan)

    def stands_still(module: nn.Module) -> bool:
        labels = next(labels_of[path] for path in _ancestry(module.path) if path in labels_of)
        keeps = set(still) if isinstance(module, layers.WITH_STATISTICS) else set()
        return not labels - {FROZEN} - keeps

    return layers.evaluating(stands_still)


def _labels_by_module(plan: trees.Tree) -> dict[trees.Path, set[str]]:
    """Returns the labels of the parameters of every module that has any, below it included."""
    labels: dict[trees.Path, set[str]] = {(): set()}
    for path, label in trees.flatten(plan).items():
        for module in _ancestry(path[:-1]):
            labels.setdefault(module, set()).add(label)
    return labels


def _ancestry(path: trees.Path) -> list[trees.Path]:
    """Returns a path, its parent's, and so on to the root's."""
    return [path[:length] for length in range(len(path), -1, -1)]

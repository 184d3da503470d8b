"""Freeze plans: which parameters are trained, under which label, and which layers are frozen."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models import layers
from tl_jax.transfer import groups as parameter_groups

FROZEN, HEAD, BACKBONE = "frozen", parameter_groups.HEAD, parameter_groups.BACKBONE
# The policies of a trained group's BatchNorm: whether its scale and bias are trained.
_TRAINS_AFFINE = {"update": True, "affine_only": True, "recalibrate": True, "frozen": False}


def plan(params: trees.Tree, head: Iterable[str], *, train_backbone: bool) -> dict[str, Any]:
    """Returns the plan of the common cases: "head", and "backbone" or "frozen" for the rest.

    Args:
      params: the parameters.
      head: dotted names of the modules that are the head, such as `["fc"]`.
      train_backbone: whether the other parameters are trained ("backbone") or frozen ("frozen").

    Raises:
      ValueError: if a name in `head` matches no parameter.

    Examples:
      >>> params = {"conv1": {"kernel": 0}, "fc": {"kernel": 0, "bias": 0}}
      >>> plan(params, ["fc"], train_backbone=False)
      {'conv1': {'kernel': 'frozen'}, 'fc': {'kernel': 'head', 'bias': 'head'}}
    """
    arguments.names("head", head, "['fc']")
    groups = parameter_groups.by_head(params, head)
    return train_only(groups, parameter_groups.select(groups, "all" if train_backbone else HEAD))


def train_only(groups: trees.Tree, trained: Collection[str]) -> dict[str, Any]:
    """Returns the plan that trains some parameters, each under its group's label.

    A plan is a tree of labels like the tree of parameters. It decides for each parameter whether
    it has a gradient and optimizer state, its learning rate, its weight decay and whether it counts
    in the clip norm; and it decides which layers are frozen (`interceptor`).

    Args:
      groups: the group of every parameter, such as those of `groups.by_depth`.
      trained: dotted names of the trained parameters, such as `groups.select` returns; all others
        are labelled "frozen".

    Raises:
      TypeError: if `trained` is not a collection of names.
      ValueError: if one of them is not that of a parameter.

    Examples:
      >>> groups = {"conv1": {"kernel": "stage0"}, "fc": {"kernel": "head", "bias": "head"}}
      >>> train_only(groups, {"conv1.kernel", "fc.bias"})
      {'conv1': {'kernel': 'stage0'}, 'fc': {'kernel': 'frozen', 'bias': 'head'}}
    """
    arguments.names("trained", trained, "{'fc.kernel', 'fc.bias'}")
    known = trees.names(groups)
    for name in sorted(set(trained) - set(known)):
        raise ValueError(f"{name!r} is not the name of a parameter{messages.hint(name, known)}")
    return trees.unflatten({
        path: label if trees.dotted(path) in trained else FROZEN
        for path, label in trees.flatten(groups).items()
    })  # fmt: skip


def apply_batch_norm_policies(
    plan: trees.Tree, batch_stats: trees.Tree, policies: Mapping[str, str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Applies a policy to the BatchNorm layers of each trained group.

    Args:
      plan: labels.
      batch_stats: the running statistics; the layers that have some are the BatchNorm layers.
      policies: by label: "update", "affine_only", "recalibrate" or "frozen" (see
        `TransferConfig.batch_norm`). Frozen layers stay frozen under every policy.

    Returns:
      The plan, in which scale and bias of a "frozen" BatchNorm are frozen, and the labels whose
      BatchNorm keeps its running statistics (for `interceptor`).

    Raises:
      ValueError: if a policy is unknown, or nothing is left to train.
    """
    unknown = sorted(set(policies.values()) - _TRAINS_AFFINE.keys())
    if unknown:
        raise ValueError(
            f"unknown BatchNorm policy {unknown[0]!r}{messages.hint(unknown[0], _TRAINS_AFFINE)}; "
            f"expected one of {list(_TRAINS_AFFINE)}"
        )
    batch_norms = {path[:-1] for path in trees.flatten(batch_stats)}
    labels = {}
    for path, label in trees.flatten(plan).items():
        trains_affine = _TRAINS_AFFINE[policies.get(label, "update")]
        labels[path] = FROZEN if path[:-1] in batch_norms and not trains_affine else label
    if set(labels.values()) == {FROZEN}:
        raise ValueError(
            "nothing is left to train: only BatchNorm is selected, and its policy is 'frozen'; "
            "choose 'affine_only' or 'update'"
        )
    fixed_statistics = {label for label, policy in policies.items() if policy != "update"}
    return trees.unflatten(labels), frozenset(fixed_statistics)


def split(plan: trees.Tree, params: trees.Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters, or a tree like them, into (trained, frozen) by a plan."""
    labels = {trees.dotted(path): label for path, label in trees.flatten(plan).items()}
    return trees.split(params, lambda name: labels[name] != FROZEN)


def interceptor(plan: trees.Tree, fixed_statistics: Collection[str] = ()) -> layers.Interceptor:
    """Returns a Linen interceptor that runs every frozen layer in evaluation mode.

    Wherever no parameter of a layer is trained, BatchNorm uses and keeps its running statistics,
    and Dropout and DropPath do nothing. Layers without parameters follow the module they are in.

    Args:
      plan: labels.
      fixed_statistics: labels whose BatchNorm uses and keeps its running statistics although its
        scale and bias are trained.

    Examples:
      >>> import jax
      >>> norm, x = layers.BatchNorm(), jax.numpy.arange(4.0).reshape(4, 1)
      >>> variables = norm.init(jax.random.key(0), x, train=False)
      >>> with nn.intercept_methods(interceptor({"scale": FROZEN, "bias": FROZEN})):
      ...     _, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
      >>> updates["batch_stats"]["mean"].tolist()  # Kept; the mean of `x` is 1.5.
      [0.0]
    """
    # The labels of all parameters in and below each module.
    labels_of: dict[trees.Path, set[str]] = {(): set()}
    for path, label in trees.flatten(plan).items():
        for module_path in _with_parents(path[:-1]):
            labels_of.setdefault(module_path, set()).add(label)

    def is_frozen(module: nn.Module) -> bool:
        labels = next(labels_of[path] for path in _with_parents(module.path) if path in labels_of)
        has_statistics = isinstance(module, layers.WITH_STATISTICS)
        return not labels - {FROZEN} - set(fixed_statistics if has_statistics else ())

    return layers.evaluating(is_frozen)


def _with_parents(path: trees.Path) -> list[trees.Path]:
    """Returns a module's path, its parent's, and so on to the root's."""
    return [path[:length] for length in range(len(path), -1, -1)]

"""Trees of variables by name: paths and dotted names, patterns, labels, split and merge."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax import traverse_util

from tl_jax import arguments, messages

Path = tuple[str, ...]
Tree = Mapping[str, Any]


def flatten(tree: Tree) -> dict[Path, Any]:
    """Returns the leaves of a nested dict by path. Empty sub-dicts are left out.

    Raises:
      TypeError: if it is no dict.
    """
    if not isinstance(tree, Mapping):
        raise TypeError(
            f"expected a nested dict of variables or parameters, but got {arguments.kind(tree)}"
        )
    return traverse_util.flatten_dict(dict(tree))


def params_of(variables: Tree) -> Tree:
    """Returns the parameters among variables.

    Raises:
      TypeError: if the variables are no dict.
      ValueError: if they hold no parameters, such as the parameters themselves.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            "expected variables, {'params': ..., 'batch_stats': ...}, but got "
            f"{arguments.kind(variables)}"
        )
    if "params" not in variables:
        raise ValueError(
            "expected variables, {'params': ..., 'batch_stats': ...}, but got a dict of "
            f"{messages.some([str(name) for name in variables]) or 'nothing'}; parameters alone "
            "are given as {'params': params}"
        )
    return variables["params"]


def unflatten(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Returns the nested dict of leaves by path: the inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat))


def dotted(path: Iterable[str]) -> str:
    """Returns the dotted name of a path: `("layer4", "0", "conv1")` is `"layer4.0.conv1"`.

    A module's own name may hold dots (`"features.0"`), so a name does not determine its path.
    """
    return ".".join(path)


def names(tree: Tree) -> list[str]:
    """Returns the dotted names of all leaves, in the tree's order."""
    return [dotted(path) for path in flatten(tree)]


def is_under(name: str, prefix: str) -> bool:
    """Returns whether a dotted name is `prefix` or lies below it; every name is under `""`.

    Examples:
      >>> is_under("fc.kernel", "fc"), is_under("fc_norm.scale", "fc")
      (True, False)
    """
    return prefix == "" or name == prefix or name.startswith(prefix + ".")


def matches(name: str, pattern: str) -> bool:
    """Returns whether a pattern matches a dotted name.

    A pattern is the name of a leaf or a subtree, with shell wildcards: `"fc"`, `"layer4.*.conv1"`,
    `"*.bias"`.
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")


def label(tree: Tree, rules: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Labels every leaf by the one rule whose pattern matches its dotted name.

    Args:
      tree: nested dict.
      rules: pairs (pattern, label). Patterns as in `matches`; the pattern `"*"` takes the leaves
        that no other rule matches.

    Returns:
      A nested dict of the same structure with a label for each leaf.

    Raises:
      ValueError: if a pattern matches nothing, or a leaf is matched by no rule or by two rules
        with different labels.

    Examples:
      >>> label({"conv": {"kernel": 0}, "fc": {"bias": 0}}, [("fc", "head"), ("*", "backbone")])
      {'conv': {'kernel': 'backbone'}, 'fc': {'bias': 'head'}}
    """
    flat = flatten(tree)
    specific = [rule for rule in rules if rule[0] != "*"]
    others = {text for pattern, text in rules if pattern == "*"}
    for pattern, _ in specific:
        if not any(matches(dotted(path), pattern) for path in flat):
            raise ValueError(
                f"pattern {pattern!r} matches no parameter"
                f"{messages.hint(pattern, names(tree)) or _advice(tree)}"
            )
    labels = {}
    for path in flat:
        matched = {text for pattern, text in specific if matches(dotted(path), pattern)} or others
        if len(matched) != 1:
            raise ValueError(
                f"parameter {dotted(path)!r} needs exactly one label, got {sorted(matched)}; "
                "make the patterns disjoint and let '*' take the rest"
            )
        (labels[path],) = matched
    return unflatten(labels)


def _advice(tree: Tree) -> str:
    return "; give the parameters, variables['params'], alone" if "params" in tree else ""


def split(tree: Tree, select: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree in two: the leaves whose dotted names are selected, and the others.

    Examples:
      >>> split({"conv": {"kernel": 1}, "fc": {"bias": 2}}, lambda name: is_under(name, "fc"))
      ({'fc': {'bias': 2}}, {'conv': {'kernel': 1}})
    """
    selected: dict[Path, Any] = {}
    others: dict[Path, Any] = {}
    for path, leaf in flatten(tree).items():
        (selected if select(dotted(path)) else others)[path] = leaf
    return unflatten(selected), unflatten(others)


def merge(*trees: Tree) -> dict[str, Any]:
    """Merges trees that share no leaf: the inverse of `split`.

    Raises:
      ValueError: if two trees hold the same leaf.
    """
    merged: dict[Path, Any] = {}
    for tree in trees:
        flat = flatten(tree)
        duplicates = sorted(dotted(path) for path in merged.keys() & flat.keys())
        if duplicates:
            raise ValueError(
                f"{len(duplicates)} leaves are in two trees, first {duplicates[0]!r}; expected "
                "trees that share no leaf: remove these from one of them"
            )
        merged |= flat
    return unflatten(merged)


def layer_leaves(tree: Tree, layer: str) -> dict[str, Any]:
    """Returns the leaves directly under a layer, such as `{"kernel": ..., "bias": ...}`.

    Args:
      tree: nested dict.
      layer: dotted name of the layer.

    Raises:
      ValueError: if there is no such layer; the message names the nearest.
    """
    flat = flatten(tree)
    leaves = {path[-1]: leaf for path, leaf in flat.items() if dotted(path[:-1]) == layer}
    if not leaves:
        layers = {dotted(path[:-1]) for path in flat}
        advice = messages.hint(layer, layers) or _advice(tree)
        raise ValueError(f"the network has no layer {layer!r}{advice}")
    return leaves


def with_layer_leaves(tree: Tree, layer: str, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree with some leaves of a layer replaced."""
    return unflatten({
        path: leaves[path[-1]] if dotted(path[:-1]) == layer and path[-1] in leaves else leaf
        for path, leaf in flatten(tree).items()
    })  # fmt: skip

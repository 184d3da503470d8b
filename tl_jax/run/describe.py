"""A freeze plan as a table: trained parameters, rates, decays and BatchNorm policies."""

from collections.abc import Mapping

from tl_jax import trees
from tl_jax.transfer import freeze, groups

_COLUMNS = ("group", "parameters", "trained", "rate", "decay", "BatchNorm")


def describe_plan(
    labels: trees.Tree,
    plan: trees.Tree,
    variables: trees.Tree,
    *,
    rates: Mapping[str, float] | None = None,
    decays: Mapping[str, float] | None = None,
    policies: Mapping[str, str] | None = None,
) -> str:
    """Returns a table with a line for each group of parameters, and one for the total.

    Args:
      labels: the group of every parameter (`groups.by_depth`).
      plan: labels of `tl_jax.transfer.freeze`.
      variables: `{"params": ..., "batch_stats": ...}`, arrays or abstract arrays.
      rates: peak learning rate by group; None leaves the column empty.
      decays: weight decay by group, likewise.
      policies: policy of BatchNorm by group; "update" for groups that are not listed.

    Returns:
      Columns: group, number of its parameters, number of those that are trained, learning rate,
      weight decay, and what its BatchNorm layers do ("frozen" if none of their parameters is
      trained).

    Examples:
      >>> import numpy as np
      >>> conv, fc = {"kernel": np.zeros((3, 3, 3, 8))}, {"kernel": np.zeros((8, 2))}
      >>> labels = {"conv": {"kernel": "stage0"}, "fc": {"kernel": "head"}}
      >>> plan = {"conv": {"kernel": "frozen"}, "fc": {"kernel": "head"}}
      >>> variables = {"params": {"conv": conv, "fc": fc}}
      >>> print(describe_plan(labels, plan, variables, rates={"head": 1e-3}))
      group   parameters  trained   rate  decay  BatchNorm
      stage0         216        0      -      -  -
      head            16       16  0.001      -  -
      all            232       16
    """
    rates, decays, policies = rates or {}, decays or {}, policies or {}
    group_of = trees.flatten(labels)
    is_trained = {path: label != freeze.FROZEN for path, label in trees.flatten(plan).items()}
    sizes = {path: leaf.size for path, leaf in trees.flatten(variables["params"]).items()}
    norm_layers = {path[:-1] for path in trees.flatten(variables.get("batch_stats", {}))}
    lines = [_COLUMNS]
    for group in groups.group_names(labels):
        paths = [path for path in sizes if group_of[path] == group]
        num_trained = sum(sizes[path] for path in paths if is_trained[path])
        norms = [path for path in paths if path[:-1] in norm_layers]
        policy = policies.get(group, "update")
        if not norms:
            policy = "-"
        elif policy != "recalibrate" and not any(is_trained[path] for path in norms):
            policy = "frozen"
        lines.append((
            group,
            f"{sum(sizes[path] for path in paths):,}",
            f"{num_trained:,}",
            _number(rates.get(group)) if num_trained else "-",
            _number(decays.get(group)) if num_trained else "-",
            policy,
        ))  # fmt: skip
    trained = sum(size for path, size in sizes.items() if is_trained[path])
    lines.append(("all", f"{sum(sizes.values()):,}", f"{trained:,}", "", "", ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(_row(line, widths) for line in lines)


def count_parameters(params: trees.Tree) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(leaf.size for leaf in trees.flatten(params).values())


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value else "-"


def _row(line: tuple[str, ...], widths: list[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
    return "  ".join([*cells, line[-1]]).rstrip()

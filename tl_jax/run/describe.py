"""A freeze plan as a table: what is trained, how fast, and what BatchNorm does."""

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
    """Returns a table with a line for each group of parameters, and one for all.

    Args:
      labels: the group of every parameter (`groups.by_depth`).
      plan: labels of `tl_jax.transfer.freeze`.
      variables: `{"params": ..., "batch_stats": ...}`, arrays or abstract arrays.
      rates: peak learning rate by group; None leaves the column empty.
      decays: weight decay by group, likewise.
      policies: policy of BatchNorm by group; "update" where none is said.

    Returns:
      Columns: group, its parameters, those of them that are trained, learning rate, weight decay,
      and what its BatchNorm layers do ("frozen" where none of their layers is trained).

    Example:
      >>> print(describe_plan(labels, plan, variables, rates={"head": 1e-3}))  # doctest: +SKIP
      group    parameters  trained   rate  decay  BatchNorm
      stage4   14,964,736        0      -      -  frozen
      head         20,490   20,490  0.001      -  -
    """
    lines = [_COLUMNS]
    totals = [0, 0]
    for group in groups.names_of(labels):
        sizes = _sizes(labels, plan, variables["params"], group)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        moves = sizes[1] > 0
        lines.append((
            group,
            f"{sizes[0]:,}",
            f"{sizes[1]:,}",
            _number((rates or {}).get(group)) if moves else "-",
            _number((decays or {}).get(group)) if moves else "-",
            _batch_norm(labels, plan, variables, group, (policies or {}).get(group, "update")),
        ))  # fmt: skip
    lines.append(("all", f"{totals[0]:,}", f"{totals[1]:,}", "", "", ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(_row(line, widths) for line in lines)


def _sizes(labels: trees.Tree, plan: trees.Tree, params: trees.Tree, group: str) -> tuple[int, int]:
    """Returns the number of a group's values, and of the trained ones among them."""
    of, moved = trees.flatten(labels), trees.flatten(plan)
    leaves = {path: leaf for path, leaf in trees.flatten(params).items() if of[path] == group}
    trained = sum(leaf.size for path, leaf in leaves.items() if moved[path] != freeze.FROZEN)
    return sum(leaf.size for leaf in leaves.values()), trained


def _batch_norm(
    labels: trees.Tree, plan: trees.Tree, variables: trees.Tree, group: str, policy: str
) -> str:
    layers = {path[:-1] for path in trees.flatten(variables.get("batch_stats", {}))}
    affine = [
        p for p, label in trees.flatten(labels).items() if p[:-1] in layers and label == group
    ]
    if not affine:
        return "-"
    moved = trees.flatten(plan)
    trained = any(moved[path] != freeze.FROZEN for path in affine)
    return policy if trained or policy == "recalibrate" else "frozen"


def _number(value: float | None) -> str:
    return "-" if not value else f"{value:.3g}"


def _row(line: tuple[str, ...], widths: list[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
    return "  ".join([*cells, line[-1]]).rstrip()

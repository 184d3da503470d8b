"""The manifest of a checkpoint: the arrays that it holds, by name, as JSON values."""

from collections.abc import Mapping
from typing import Any

import jax

from tl_jax import trees


def arrays(tree: Any, labels: trees.Tree | None = None) -> dict[str, Any]:
    """Returns shape and dtype of each array, and of a parameter the label of its freeze plan.

    Args:
      tree: variables, or an optimizer's state; arrays or abstract arrays.
      labels: of the parameters, as in `tl_jax.transfer.freeze`; None: none are given.

    Examples:
      >>> variables = {"params": {"fc": {"bias": jax.numpy.zeros(3)}}}
      >>> arrays(variables, {"fc": {"bias": "head"}})
      {'params.fc.bias': {'shape': [3], 'dtype': 'float32', 'label': 'head'}}
    """
    by_name = {f"params.{name}": label for name, label in _leaves(labels or {}).items()}
    found: dict[str, Any] = {}
    for name, leaf in _leaves(tree).items():
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            found[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            if name in by_name:
                found[name]["label"] = by_name[name]
    return found


def _leaves(tree: Any) -> Mapping[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

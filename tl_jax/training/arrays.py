"""The arrays of a checkpoint without their values: how they are restored, how two trees differ."""

from typing import Any

import jax
from jax.sharding import Sharding

from tl_jax import trees


def abstract(tree: Any, sharding: Sharding | None = None) -> Any:
    """Returns a tree of arrays as abstract arrays, with a sharding if one is given."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def without_empty(variables: trees.Tree) -> dict[str, Any]:
    """Leaves out empty collections, so that `{}` and a missing collection are the same."""
    return {name: collection for name, collection in variables.items() if collection}


def differences(saved: trees.Tree, like: trees.Tree) -> list[str]:
    """Returns a line for each array whose shape differs, or which only one of two trees has.

    Orbax's own error about a shape does not name the variable.

    Args:
      saved: what a checkpoint holds.
      like: what is expected.

    Examples:
      >>> kernel = jax.ShapeDtypeStruct((3, 2), "float32")
      >>> differences({"fc": {"kernel": kernel}}, {"fc": {}})
      ['fc.kernel: got (3, 2), expected nothing']
    """
    got, expected, absent = _shapes(saved), _shapes(like), "nothing"
    return [
        f"{name}: got {got.get(name, absent)}, expected {expected.get(name, absent)}"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]


def _shapes(tree: trees.Tree) -> dict[str, tuple[int, ...]]:
    return {trees.dotted(path): tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}

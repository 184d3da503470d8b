"""The sanity check of explanations: how far maps change when the weights are drawn anew."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tl_jax import messages, trees
from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.method import Method, maps_of
from tl_jax.explanations.target import Target, outputs_of
from tl_jax.models.model import Model
from tl_jax.models.outputs import recording

HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Cascade:
    """How alike maps are to those before, as part after part of the network is drawn anew.

    Attributes:
      parts: from the head down, `head` and then the names of the stages.
      correlations: float32 [parts, B]: the rank correlation of each image's map with that of the
        network as it is, once this part and all above it are random. A method whose maps do not
        depend on the weights stays at 1.
    """

    parts: tuple[str, ...]
    correlations: jax.Array


def cascade(
    key: jax.Array,
    model: Model,
    variables: Mapping[str, Any],
    inputs: NetworkInput,
    target: Target | ArrayLike,
    method: Method,
    *,
    stages: Sequence[str],
) -> Cascade:
    """Randomises a network from its head to its stem, and compares the maps (arXiv:1810.03292).

    Signs of maps are left out of the comparison.

    Args:
      key: random key.
      model, variables, inputs, target: as in `tl_jax.explanations.method.Method`.
      method: that is checked.
      stages: dotted names of the modules that end the stages, shallow to deep.

    Raises:
      ValueError: if a stage is no module; and as the method.
    """
    by_part = parts(model, variables, inputs, stages)
    fresh = drawn(key, inputs, model=model)
    explain = functools.partial(maps_of, model=model, method=method)
    before = explain(variables, inputs, target)
    random, correlations = set[str](), list[jax.Array]()
    for names in by_part.values():
        random |= names
        after = explain(_replaced(variables, fresh, random), inputs, target)
        correlations.append(rank_correlation(jnp.abs(before), jnp.abs(after)))
    return Cascade(tuple(by_part), jnp.stack(correlations))


def randomised(
    key: jax.Array, model: Model, variables: Mapping[str, Any], inputs: NetworkInput
) -> dict[str, Any]:
    """Returns variables that are all drawn anew, as `cascade` ends with.

    Args:
      key: random key.
      model, variables, inputs: as in `tl_jax.explanations.method.Method`.
    """
    fresh = drawn(key, inputs, model=model)
    return _replaced(variables, fresh, set(trees.names(variables)))


@functools.partial(jax.jit, static_argnames="model")
def drawn(key: jax.Array, inputs: NetworkInput, *, model: Model) -> dict[str, Any]:
    """Returns fresh variables of which none takes a part out of the network.

    Heads and the last BatchNorm of a residual branch may start at zero, so that they add nothing:
    such a kernel is drawn with the variance 1 / fan_in, and such a scale is 1.
    """
    flat = trees.flatten(model.init(key, inputs))
    for place, (path, leaf) in enumerate(flat.items()):
        if path[-1] == "kernel":
            of_leaf = jax.random.fold_in(key, place)
            fan_in = max(leaf.size // leaf.shape[-1], 1)
            other = jax.random.normal(of_leaf, leaf.shape, leaf.dtype) * fan_in**-0.5
        elif path[-1] == "scale":
            other = jnp.ones_like(leaf)
        else:
            continue
        flat[path] = jnp.where(jnp.any(leaf != 0), leaf, other)
    return trees.unflatten(flat)


def parts(
    model: Model, variables: Mapping[str, Any], inputs: NetworkInput, stages: Sequence[str]
) -> dict[str, set[str]]:
    """Returns the dotted names of the variables of each part of a network, from the head down.

    A stage has all that is called after the stage before it and until it ends; the head has what is
    called after the last one.

    Args:
      model, variables, inputs: as in `tl_jax.explanations.method.Method`.
      stages: dotted names of the modules that end the stages, shallow to deep.

    Raises:
      ValueError: if a stage is no module.
    """
    with recording() as calls:
        # A new function: jax caches traces by function, and would not call the modules again.
        jax.eval_shape(lambda *args: outputs_of(model, *args), variables, inputs)
    starts, ends = dict[trees.Path, int](), dict[str, int]()
    for call in calls:
        starts.setdefault(call.path, call.start)
        ends.setdefault(trees.dotted(call.path), call.end)
    missing = [stage for stage in stages if stage not in ends]
    if missing:
        raise ValueError(
            f"the network has no module {missing[0]!r}{messages.hint(missing[0], ends)}"
        )
    found: dict[str, set[str]] = {name: set() for name in (HEAD, *reversed(stages))}
    for path in trees.flatten(variables):
        module = path[1:-1]  # Without the collection and the leaf.
        while module and module not in starts:
            module = module[:-1]
        start = starts.get(module, 0)
        part = next((stage for stage in stages if start < ends[stage]), HEAD)
        found[part].add(trees.dotted(path))
    return {part: names for part, names in found.items() if names}


@jax.jit
def rank_correlation(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns Spearman's rank correlation of two arrays for each example, float32 [B].

    Ties have their mean rank. It is 0 where one of the two is constant.

    Examples:
      >>> one, other = jnp.array([[1.0, 2.0, 9.0]]), jnp.array([[0.1, 0.2, 0.3]])
      >>> rank_correlation(one, other).round(4).tolist()
      [1.0]
    """
    ranks = [
        jax.scipy.stats.rankdata(x.reshape(len(x), -1), axis=-1).astype(jnp.float32)
        for x in (one, other)
    ]
    first, second = (x - x.mean(-1, keepdims=True) for x in ranks)
    scale = jnp.linalg.norm(first, axis=-1) * jnp.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / jnp.where(scale > 0, scale, 1.0)


def _replaced(variables: trees.Tree, fresh: trees.Tree, names: set[str]) -> dict[str, Any]:
    """Returns variables of which those that are named are fresh."""
    flat = trees.flatten(fresh)
    return trees.unflatten({
        path: flat[path] if trees.dotted(path) in names else leaf
        for path, leaf in trees.flatten(variables).items()
    })  # fmt: skip

"""Recalibration: running statistics estimated anew, as the moments of all the images of a pass."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.models.layers.norm import BATCH_MOMENTS
from tl_jax.training import sharding


class Moments(NamedTuple):
    """Moments of the values of each channel, over one batch or many.

    Attributes:
      mean: [channels].
      var: the biased variance, [channels].
      count: number of values of a channel, float32 scalar.
    """

    mean: jax.Array
    var: jax.Array
    count: jax.Array


LayerMoments = dict[trees.Path, Moments]
MomentsStep = Callable[[Any, jax.Array], LayerMoments]


def recalibrate(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[jax.Array],
    *,
    names: Sequence[str] | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Returns variables whose running statistics are the moments of the layers' inputs.

    In one pass each chosen layer normalises by its batch, as in training, and the moments of the
    batches are pooled: the mean over all values, and their unbiased variance, as torch keeps it.
    That of the means between batches is a part of it, which torch's `swa_utils.update_bn`, the
    average of the batches' variances, leaves out; and a smaller batch counts by its size. All
    other layers are in evaluation mode: nothing is dropped, and their statistics keep their bits.
    So do those of layers that take no part in training, as an auxiliary head that is left out.

    Args:
      model: a network, or an adapted one.
      variables: its params and batch_stats; those returned share all other leaves with them.
      batches: images [B, H, W, C] as the network takes them; each size is compiled for itself.
      names: patterns for the dotted names of the layers, such as `["layer4", "*.bn1"]`, as in
        `tl_jax.trees.matches`; None for all.
      mesh: devices that every batch is split over, as by `parallel.put_batch`; the moments are
        those of the whole batch. None for a single device.

    Raises:
      ValueError: if the network has no running statistics, a pattern matches no layer, or there
        is no batch.

    Example:
      >>> images = (normalize(batch["image"]) for batch in batches)          # doctest: +SKIP
      >>> variables = recalibrate(model, variables, images)                  # doctest: +SKIP
    """
    made = make_moments_step(model, chosen_layers(variables.get("batch_stats", {}), names))
    step = jax.jit(made) if mesh is None else sharding.jit_eval_step(made, mesh)
    pool_all = jax.jit(pool_layers)
    total: LayerMoments | None = None
    for images in batches:
        moments = step(variables, images)
        total = moments if total is None else pool_all(total, moments)
    if not total:
        raise ValueError(
            "there was no batch, so there are no moments: pass at least one batch of images"
            if total is None
            else "none of the chosen layers takes part in training: choose others by names="
        )
    return with_moments(variables, total)


def chosen_layers(batch_stats: trees.Tree, names: Sequence[str] | None) -> frozenset[trees.Path]:
    """Returns the paths of the layers with running statistics that the patterns choose.

    Raises:
      ValueError: as `recalibrate` does.
    """
    known = {path[:-1]: trees.dotted(path[:-1]) for path in trees.flatten(batch_stats)}
    if not known:
        raise ValueError("the network keeps no running statistics: there is nothing to recalibrate")
    if names is None:
        return frozenset(known)
    for pattern in names:
        if not any(trees.matches(name, pattern) for name in known.values()):
            close = messages.hint(pattern, known.values())
            raise ValueError(f"pattern {pattern!r} matches no layer with running statistics{close}")
    return frozenset(
        path for path, name in known.items() if any(trees.matches(name, p) for p in names)
    )


def make_moments_step(model: nn.Module, chosen: frozenset[trees.Path]) -> MomentsStep:
    """Returns `step(variables, images)` -> the moments of one batch by the path of the layer.

    It is a pure function, to be compiled with `jax.jit`.

    Args:
      model: the network.
      chosen: paths of the layers that normalise by the batch; all others are in evaluation mode.
    """

    alone = layers.evaluating(lambda module: module.path not in chosen)

    def step(variables: Any, images: jax.Array) -> LayerMoments:
        with nn.intercept_methods(alone):
            _, sown = model.apply(
                variables, images, train=True, mutable=["batch_stats", BATCH_MOMENTS]
            )
        # A layer that is called more than once leaves the moments of every call.
        return {
            path[:-1]: functools.reduce(pool, [_moments(*call) for call in calls])
            for path, calls in trees.flatten(sown.get(BATCH_MOMENTS, {})).items()
        }

    return step


def pool(one: Moments, other: Moments) -> Moments:
    """Returns the moments of the values of both (Chan, Golub and LeVeque 1979)."""
    count = one.count + other.count
    share = other.count / count
    apart = other.mean - one.mean
    between = share * (1 - share) * jnp.square(apart)
    return Moments(
        one.mean + share * apart, one.var + share * (other.var - one.var) + between, count
    )


def pool_layers(one: LayerMoments, other: LayerMoments) -> LayerMoments:
    """Returns each layer's moments over both."""
    return {path: pool(one[path], other[path]) for path in one}


def with_moments(variables: Mapping[str, Any], moments: LayerMoments) -> dict[str, Any]:
    """Returns variables with the moments of some layers as their running statistics."""
    stats = trees.flatten(variables["batch_stats"])
    for path in stats:
        if path[:-1] in moments:
            mean, var, count = moments[path[:-1]]
            stats[path] = mean if path[-1] == "mean" else var * (count / (count - 1))
    return {**variables, "batch_stats": trees.unflatten(stats)}


def _moments(mean: jax.Array, var: jax.Array, count: jax.Array) -> Moments:
    # In float32: over a large set the number of values does not fit into an int32.
    return Moments(mean, var, jnp.asarray(count, jnp.float32))

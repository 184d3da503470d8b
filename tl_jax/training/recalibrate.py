"""Recalibration: running statistics are replaced by the moments over one pass of images."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.models.layers.norm import BATCH_MOMENTS
from tl_jax.models.model import Model
from tl_jax.training import sharding
from tl_jax.training.ahead import StepsAhead


class Moments(NamedTuple):
    """Moments of the values of each channel, over one batch or many.

    Attributes:
      mean: [channels].
      var: the biased variance, [channels].
      num_values: number of values of a channel, float32 scalar (over a large set it does not fit
        into an int32).
    """

    mean: jax.Array
    var: jax.Array
    num_values: jax.Array


LayerMoments = dict[trees.Path, Moments]
MomentsStep = Callable[[trees.Tree, Any], LayerMoments]


def recalibrate(
    model: Model,
    variables: trees.Tree,
    batches: Iterable[Any],
    *,
    names: Sequence[str] | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Returns variables whose running statistics are the moments of the layers' inputs.

    Each chosen layer normalises by its batch, as in training. The moments of all batches are
    pooled into the mean and the unbiased variance of all values, so that each batch counts by its
    size, and the variance between the batches' means is included (torch's `swa_utils.update_bn`
    averages the variances of the batches and leaves it out). All other layers are in evaluation
    mode: nothing is dropped, and their statistics do not change. Nor do the statistics of layers
    that training does not call, such as an auxiliary head that is left out.

    Args:
      model: a network, or an adapted one.
      variables: its params and batch_stats; those returned share all other leaves with them.
      batches: inputs of the network: normalised images [B, H, W, C], or a dict that holds more;
        each batch size is compiled once.
      names: patterns for the dotted names of the layers, such as `["layer4", "*.bn1"]`, as in
        `tl_jax.trees.matches`; None for all.
      mesh: devices that every batch is split over, as by `sharding.put_batch`; the moments are
        those of the global batch. None for a single device.

    Raises:
      ValueError: if the network has no running statistics, a pattern matches no layer, or there
        is no batch.

    Examples:
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, *, train=False):
      ...         return layers.BatchNorm(name="bn")(x, train=train)
      >>> images = jnp.arange(12.0).reshape(1, 2, 2, 3)
      >>> variables = Net().init(jax.random.key(0), images)
      >>> recalibrate(Net(), variables, [images])["batch_stats"]["bn"]["mean"].tolist()
      [4.5, 5.5, 6.5]
    """
    moments_step = make_moments_step(
        model, matching_layers(variables.get("batch_stats", {}), names)
    )
    step = jax.jit(moments_step) if mesh is None else sharding.jit_eval_step(moments_step, mesh)
    variables = sharding.whole(variables)
    pool_layers = jax.jit(lambda one, other: {path: pool(one[path], other[path]) for path in one})
    total: LayerMoments | None = None
    ahead = StepsAhead()
    for inputs in batches:
        moments = step(variables, inputs)
        total = moments if total is None else pool_layers(total, moments)
        ahead.add(moments)
    if total is None:
        raise ValueError("got no batch of images; pass at least one")
    if not total:
        raise ValueError(
            "none of the chosen layers takes part in training: choose others by names="
        )
    stats = trees.flatten(variables["batch_stats"])
    for path in stats:
        if path[:-1] in total:
            mean, var, num_values = total[path[:-1]]
            stats[path] = mean if path[-1] == "mean" else var * (num_values / (num_values - 1))
    return {**variables, "batch_stats": trees.unflatten(stats)}


def matching_layers(batch_stats: trees.Tree, names: Sequence[str] | None) -> frozenset[trees.Path]:
    """Returns the paths of the layers with running statistics whose names match the patterns.

    Raises:
      ValueError: as `recalibrate` does.
    """
    layer_names = {path[:-1]: trees.dotted(path[:-1]) for path in trees.flatten(batch_stats)}
    if not layer_names:
        raise ValueError("the network has no running statistics, so nothing can be recalibrated")
    if names is None:
        return frozenset(layer_names)
    for pattern in names:
        if not any(trees.matches(name, pattern) for name in layer_names.values()):
            hint = messages.hint(pattern, layer_names.values())
            raise ValueError(f"pattern {pattern!r} matches no layer with running statistics{hint}")
    return frozenset(
        path
        for path, name in layer_names.items()
        if any(trees.matches(name, pattern) for pattern in names)
    )


def make_moments_step(model: Model, chosen: frozenset[trees.Path]) -> MomentsStep:
    """Returns `step(variables, inputs)` -> the moments of one batch, by the layers' paths.

    Args:
      model: the network.
      chosen: paths of the layers that normalise by the batch; all others are in evaluation mode.
    """
    interceptor = layers.evaluating(lambda module: module.path not in chosen)

    def step(variables: trees.Tree, inputs: Any) -> LayerMoments:
        with nn.intercept_methods(interceptor):
            _, updates = model.apply(
                variables, inputs, train=True, mutable=["batch_stats", BATCH_MOMENTS]
            )
        moments = {}
        for path, calls in trees.flatten(updates.get(BATCH_MOMENTS, {})).items():
            # A layer that is called more than once leaves the moments of every call.
            moments_by_call = [
                Moments(mean, var, jnp.asarray(num_values, jnp.float32))
                for mean, var, num_values in calls
            ]
            moments[path[:-1]] = functools.reduce(pool, moments_by_call)
        return moments

    return step


def pool(one: Moments, other: Moments) -> Moments:
    """Returns the moments of two sets of values taken together (Chan, Golub and LeVeque 1979)."""
    num_values = one.num_values + other.num_values
    share = other.num_values / num_values
    difference = other.mean - one.mean
    between = share * (1 - share) * jnp.square(difference)
    return Moments(
        one.mean + share * difference,
        one.var + share * (other.var - one.var) + between,
        num_values,
    )

"""What a backbone costs: FLOPs, parameters, images a second and memory of its forward pass."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.models.variables import abstract_variables
from tl_jax.run.profile import timed
from tl_jax.transfer.groups import by_depth, group_names

_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """The forward pass of features.

    Attributes:
      flops: of one image, by XLA's count of the program with plain convolutions; a multiplication
        and an addition are two.
      parameters: those that the features depend on, without the head.
      images_per_second: measured on the first device, images and weights in its memory; None if
        it was not asked for.
      memory_bytes: arguments, results and temporaries of the compiled program for one batch; None
        if it was not asked for, or is not told.
      batch_size: of these two.
    """

    flops: float
    parameters: int
    images_per_second: float | None
    memory_bytes: int | None
    batch_size: int


def measure(
    model: Model,
    variables: Mapping[str, Any],
    size: tuple[int, int],
    *,
    parameters: int,
    batch_size: int,
    timing: bool,
) -> Cost:
    """Counts and times the forward pass of a network.

    Args:
      model: the network that returns the features.
      variables: its variables.
      size: height and width of the images.
      parameters: of `count_parameters`.
      batch_size: images at once, where the pass is timed.
      timing: whether it is compiled and timed.
    """
    shape = (*size, model.in_channels)
    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with layers.convolution_form("general"):
        # A new function: jax caches traces by function.
        lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, one)
    counted = lowered.cost_analysis()
    flops = float((counted[0] if isinstance(counted, list) else counted or {}).get("flops", 0.0))
    if not timing:
        return Cost(flops, parameters, None, None, batch_size)
    batch = jnp.zeros((batch_size, *shape))
    placed = jax.device_put((variables, batch), jax.devices()[0])
    compiled = jax.jit(layers.folded(lambda v, x: model.apply(v, x))).lower(*placed).compile()
    memory: Any = compiled.memory_analysis()
    taken = None
    if memory is not None:
        taken = memory.argument_size_in_bytes + memory.output_size_in_bytes
        taken = int(taken + memory.temp_size_in_bytes)
    seconds = timed(lambda: jax.block_until_ready(compiled(*placed)), _STEPS)
    return Cost(flops, parameters, batch_size / seconds, taken, batch_size)


def count_parameters(model: Model, stages: tuple[str, ...], stage: int | None) -> int:
    """Returns how many parameters a network without its head has, or has up to a stage.

    Examples:
      >>> from tl_jax.models.registry import architecture, create_model
      >>> stages = architecture("resnet50").stages
      >>> model = create_model("resnet50", num_classes=0)
      >>> count_parameters(model, stages, None), count_parameters(model, stages, 1)
      (23508032, 225344)
    """
    leaves = trees.flatten(abstract_variables(model)["params"])
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in leaves.items()}
    if stage is None:
        return sum(sizes.values())
    groups = by_depth(model, stages, head=[])
    kept = set(group_names(groups)[: stage + 1])
    return sum(sizes[path] for path, group in trees.flatten(groups).items() if group in kept)

"""How the step of a run lies on its devices: the section `parallel`, unpacked."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from tl_jax.config import Config, ParallelConfig
from tl_jax.models import nesting
from tl_jax.models.model import Model
from tl_jax.training import pmap, sharding
from tl_jax.training.step import GradientFn


@dataclasses.dataclass(frozen=True)
class Division:
    """What a training step is made with, by the devices that it is for.

    Attributes:
      model: the network that computes gradients.
      around, reduce, accumulate, rematerialise: as those of `step.make_train_step`.
    """

    model: Model
    around: Callable[[GradientFn], GradientFn] | None
    reduce: Callable[[Any], Any] | None
    accumulate: int
    rematerialise: tuple[str, ...]


def make_mesh(config: Config) -> Mesh:
    """Returns the mesh over all devices.

    Raises:
      ValueError: if the devices do not divide by `parallel.fsdp`, or the batch by the devices.
    """
    fsdp, count = config.parallel.fsdp, len(jax.devices())
    if count % fsdp:
        raise ValueError(
            f"got parallel.fsdp {fsdp} on {count} device(s); take a number that divides these, "
            "such as 1"
        )
    mesh = sharding.data_mesh(fsdp=fsdp)
    sharding.check_batch_size(config.data.batch_size, mesh, accumulate=config.parallel.accumulate)
    return mesh


def divide(
    config: Config, model: Model, variables: Any, mesh: Mesh, image_size: tuple[int, int]
) -> Division:
    """Returns how a step computes gradients on a mesh.

    Args:
      config: the experiment.
      model: its network.
      variables: of the network.
      mesh: the devices.
      image_size: height and width of the network's images.

    Raises:
      ValueError: if modules are to be computed again, and the network has none.
    """
    options = config.parallel
    in_float32 = options.gradient_sum == "float32" and config.model.dtype != "float32"
    around, reduce = None, None
    if mesh.size > 1 and (options.batch_norm == "device" or in_float32):
        around = sharding.by_device(mesh)
        if options.batch_norm == "global":
            model = pmap.over_axis(model, sharding.AXES)
    if options.fsdp > 1:
        around = around or sharding.gathering(mesh)
        reduce = sharding.scattering(mesh)
    names: tuple[str, ...] = ()
    if options.remat != "none":
        names = nesting.parts(model, variables, (1, *image_size, 3), level=options.remat)
    return Division(model, around, reduce, options.accumulate, names)


def describe(options: ParallelConfig) -> str:
    """Returns what is not as usual, for the first lines of a run; "" if nothing is.

    Examples:
      >>> describe(ParallelConfig(fsdp=4, remat="stages"))
      'parameters over 4 devices, stages computed again'
    """
    words = {
        f"parameters over {options.fsdp} devices": options.fsdp > 1,
        f"batches in {options.accumulate} slices": options.accumulate > 1,
        f"{options.remat} computed again": options.remat != "none",
        "BatchNorm of each device": options.batch_norm == "device",
        "gradients added up in float32": options.gradient_sum == "float32",
    }
    return ", ".join(text for text, holds in words.items() if holds)

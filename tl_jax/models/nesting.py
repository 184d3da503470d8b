"""The stages of a network and their blocks, as its calls nest: what may be computed again."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tl_jax import trees
from tl_jax.models.model import Model, new_parts
from tl_jax.models.outputs import output_shapes

Level = Literal["stages", "blocks"]

# Where the backbone is in a network with parts of its own.
_BACKBONE = ("backbone",)


def parts(
    model: Model, variables: Mapping[str, Any], image_shape: Sequence[int], *, level: Level
) -> tuple[str, ...]:
    """Returns the dotted names of the backbone's stages, or of the blocks within them.

    A stage is the outermost module with several kernels, and so is a block within a stage; a stage
    without blocks is one itself.

    Args:
      model: a network.
      variables: its variables, or their shapes and types.
      image_shape: shape of the images, [B, H, W, C].
      level: "stages" or "blocks".

    Raises:
      ValueError: if the network has no stages: all its layers are on one level.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> from tl_jax.models.variables import abstract_variables
      >>> model = create_model("resnet18")
      >>> parts(model, abstract_variables(model), (2, 64, 64, 3), level="stages")
      ('layer1', 'layer2', 'layer3', 'layer4')
    """
    kernels = [path[:-1] for path in trees.flatten(variables["params"]) if path[-1] == "kernel"]
    called = [
        path
        for path in output_shapes(model, variables, image_shape)
        if path not in ((), _BACKBONE)
        and not any(trees.is_under(trees.dotted(path), part) for part in new_parts(model))
        and sum(kernel[: len(path)] == path for kernel in kernels) > 1
    ]
    stages = _outermost(called)
    if len(stages) < 2:  # In VGG the layers before the classifier are one module.
        raise ValueError(
            "the network has no stages that could be computed again: all its layers are on one "
            "level; set parallel.remat to 'none'"
        )
    if level == "stages":
        return tuple(map(trees.dotted, stages))
    blocks = _outermost([path for path in called if path not in stages])
    childless = [s for s in stages if not any(block[: len(s)] == s for block in blocks)]
    return tuple(trees.dotted(path) for path in called if path in (*blocks, *childless))


def _outermost(paths: Sequence[trees.Path]) -> list[trees.Path]:
    known = set(paths)
    return [path for path in paths if not any(path[:end] in known for end in range(len(path)))]

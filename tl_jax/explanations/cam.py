"""Class activation maps: the maps of a stage, weighed by the gradient of the target by them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from tl_jax import arguments, trees
from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.method import Method, by_view, resized
from tl_jax.explanations.target import Target, as_target, outputs_of
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.models.outputs import check_names, recording


@dataclasses.dataclass(frozen=True)
class _ClassActivation(Method):
    """Base of the class activation maps.

    Where the network takes several scales of an image, the maps of all are added up.

    Attributes:
      stage: dotted name of the module whose maps [B, h, w, C] are weighed, such as "layer4".
    """

    takes_stage: ClassVar[bool] = True

    stage: str

    def __post_init__(self) -> None:
        arguments.text("stage", self.stage, "'layer4'")

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the maps have the size of the stage's."""
        calls = maps_and_gradients(model, variables, inputs, target, stage=self.stage)
        size = calls[0][0].shape[1:3]
        weighed = sum(resized(self.weighed(*call), size) for call in calls)
        return by_view(jax.nn.relu(weighed), inputs)

    def weighed(self, maps: jax.Array, gradients: jax.Array) -> jax.Array:
        """Returns the weighed sum over the channels, [B, h, w, C] twice -> [B, h, w]."""
        raise NotImplementedError(f"{type(self).__name__} must define weighed()")


@dataclasses.dataclass(frozen=True)
class GradCAM(_ClassActivation):
    """Each channel is weighed by the mean of its gradient over space (arXiv:1610.02391)."""

    name: ClassVar[str] = "grad_cam"
    title: ClassVar[str] = "Grad-CAM"

    def weighed(self, maps: jax.Array, gradients: jax.Array) -> jax.Array:
        """As in the base."""
        weights = gradients.mean((1, 2), keepdims=True)
        return jnp.sum(weights * maps, -1)


@dataclasses.dataclass(frozen=True)
class GradCAMPlusPlus(_ClassActivation):
    """Positive gradients are weighed by place, so that small objects count too (arXiv:1710.11063).

    The score is the exponential of the target's, of which the higher derivatives are powers of the
    gradient; its own value is a factor of the whole map and left out.
    """

    name: ClassVar[str] = "grad_cam_plus_plus"
    title: ClassVar[str] = "Grad-CAM++"

    def weighed(self, maps: jax.Array, gradients: jax.Array) -> jax.Array:
        """As in the base."""
        # Only ratios of powers count: relative to the largest, none of them underflows.
        largest = jnp.max(jnp.abs(gradients), (1, 2, 3), keepdims=True)
        relative = gradients / jnp.where(largest > 0, largest, 1.0)
        totals = jnp.sum(maps, (1, 2), keepdims=True) * largest
        below = 2 * relative**2 + totals * relative**3
        shares = jnp.where(below != 0, relative**2 / jnp.where(below != 0, below, 1.0), 0.0)
        weights = jnp.sum(shares * jax.nn.relu(gradients), (1, 2), keepdims=True)
        return jnp.sum(weights * maps, -1)


@dataclasses.dataclass(frozen=True)
class HiResCAM(_ClassActivation):
    """Maps times gradients place by place, without an average over space (arXiv:2011.08891).

    After the last stage of a network that averages this map and classifies it by one linear layer,
    the sum of the map is what the network adds up, and it equals Grad-CAM.
    """

    name: ClassVar[str] = "hires_cam"
    title: ClassVar[str] = "HiRes-CAM"

    def weighed(self, maps: jax.Array, gradients: jax.Array) -> jax.Array:
        """As in the base."""
        return jnp.sum(maps * gradients, -1)


def maps_and_gradients(
    model: Model,
    variables: Mapping[str, Any],
    inputs: NetworkInput,
    target: Target | ArrayLike,
    *,
    stage: str,
) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the maps of a stage and the gradients of the target by them, for each of its calls.

    The backward pass ends at the stage.

    Args:
      model, variables, inputs, target: as in `Method`.
      stage: dotted name of a module.

    Returns:
      Pairs of float32 [B, h, w, C]; of views [B * V, h, w, C].

    Raises:
      ValueError: if there is no such module, or its output is no feature map.
    """
    target = as_target(target)
    shifts = [jnp.zeros(x.shape, x.dtype) for x in _shapes(model, variables, inputs, stage)]

    def score(shifts: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        maps: list[jax.Array] = []

        def shift(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
            del args
            output = proceed()
            if trees.dotted(module.path) != stage:
                return output
            maps.append(output)
            return output + shifts[len(maps) - 1]

        with nn.intercept_methods(layers.around_calls(shift)):
            outputs = outputs_of(model, variables, inputs)
        # In evaluation mode no example sees another, so one gradient is that of all.
        return target.scores(outputs).sum(), maps

    gradients, maps = jax.grad(score, has_aux=True)(shifts)
    return [
        (x.astype(jnp.float32), gradient.astype(jnp.float32))
        for x, gradient in zip(maps, gradients, strict=True)
    ]


def _shapes(
    model: Model, variables: Mapping[str, Any], inputs: NetworkInput, stage: str
) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of the maps of each call of a stage."""
    with recording() as calls:
        # A new function: jax caches traces by function, and would not call the modules again.
        jax.eval_shape(lambda *args: outputs_of(model, *args), variables, inputs)
    check_names([stage], list(dict.fromkeys(trees.dotted(call.path) for call in calls)))
    shapes = [call.output for call in calls if trees.dotted(call.path) == stage]
    for shape in shapes:
        if not isinstance(shape, jax.ShapeDtypeStruct) or len(shape.shape) != 4:
            got = getattr(shape, "shape", "several arrays")
            raise ValueError(
                f"the output of {stage!r} is {got}, and a class activation map needs a feature map "
                "[batch, height, width, channels]; name a stage, as architecture(name).stages does"
            )
    return shapes

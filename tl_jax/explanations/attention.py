"""Attention maps: the weights by which a pooling by attention averages the places of a map."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tl_jax import arguments, trees
from tl_jax.data.preprocess import NetworkInput
from tl_jax.explanations.method import Method, by_view, resized
from tl_jax.explanations.target import Target
from tl_jax.models.model import Model
from tl_jax.models.outputs import Call, recording

_SPACE = "neck.space"


@dataclasses.dataclass(frozen=True)
class Attention(Method):
    """The mean of the heads' weights at each place; they add up to 1 over a map.

    They say what the pooling looks at, for all targets alike, and not what speaks for one. Where
    the network takes several scales of an image, their maps are averaged.

    Attributes:
      stage: dotted name of the stage that is pooled, where the network pools several; "" for the
        only one.
    """

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "attention"
    takes_stage: ClassVar[bool] = True

    stage: str = ""

    def __post_init__(self) -> None:
        arguments.text("stage", self.stage, "'layer4'")

    def __call__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:
        """As in `Method`; the target has no effect, and the maps have the size of the stage's."""
        del target
        with recording() as calls:
            _, sown = model.apply(variables, inputs, train=False, mutable=["intermediates"])
        module, weights = self._weights(sown.get("intermediates", {}))
        stage = module.removeprefix(_SPACE).removeprefix(".")
        maps = _maps(calls, trees.dotted([part for part in ("backbone", stage) if part]))
        of_calls = [
            each.mean(-1).reshape(len(each), *shape[1:3])
            for each, shape in zip(weights, maps, strict=True)
        ]
        size = of_calls[0].shape[1:]
        mean = jnp.stack([resized(each, size) for each in of_calls]).mean(0)
        return by_view(mean, inputs)

    def _weights(self, sown: trees.Tree) -> tuple[str, tuple[jax.Array, ...]]:
        """Returns the pooling over space and its weights [B * V, places, heads] of each call."""
        found = {
            trees.dotted(path[:-1]): weights
            for path, weights in trees.flatten(sown).items()
            if path[-1] == "attention" and trees.is_under(trees.dotted(path[:-1]), _SPACE)
        }
        if not found:
            raise ValueError(
                "the network does not pool its maps by attention; train one with "
                "inputs.pooling='attention', or choose another method"
            )
        name = self.stage.removeprefix("backbone.")
        module = f"{_SPACE}.{name}" if name else next(iter(found))
        if module not in found or (not name and len(found) > 1):
            stages = [key.removeprefix(f"{_SPACE}.") for key in found if key != _SPACE]
            raise ValueError(
                f"got the stage {self.stage!r} for a network that pools "
                f"{', '.join(stages) or 'its last map alone'} by attention; "
                f"{'name one of these' if stages else 'leave the stage out'}"
            )
        return module, found[module]


def _maps(calls: list[Call], name: str) -> list[tuple[int, ...]]:
    """Returns the shapes of the maps that a module returned, call by call."""
    return [jnp.shape(call.output) for call in calls if trees.dotted(call.path) == name]
